"""The frames of a video as a viewer sees them: by the clock, each in its own size, upright, with square pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from .errors import MOST_GAP_S, MOST_PIXELS
from .mono import pull
from .tone_mapping import TRANSFERS, to_standard_range

# A picture that comes up to this long after the beginning (or after one sampling interval) stands for the time before:
# many encoders begin some frames late.
_LATE_S = Fraction(1, 10)
# More than eight times as wide as high is no pixel, but damage.
_MOST_ASPECT = 8


class Sampler:
    """Chooses the frames on screen at k / fps seconds, for k = 0, 1, 2…

    Args:
        fps: frames per second of playing time.
    """

    def __init__(self, fps: float):
        self._fps = Fraction(fps).limit_denominator(1_000_000)
        self._shown: tuple[Fraction, av.VideoFrame] | None = None
        self._next = 0
        self.end = Fraction(0)  # of the last frame, in seconds

    @property
    def decided(self) -> float:
        """Seconds at which the next k lies."""
        return float(self._next / self._fps)

    def add(self, time: Fraction | None, lasts: Fraction, frame: av.VideoFrame) -> Iterator[tuple[int, av.VideoFrame]]:
        """Takes the next frame, with its time (None: right after the previous one) and duration in seconds; yields
        (k, frame) for each k that is now decided."""
        if time is None:
            time = self.end
        if self._shown is None:
            grace = max(1 / self._fps, _LATE_S)
            self._next = max(0, math.ceil((time - grace) * self._fps))
        elif time <= self._shown[0]:
            return  # out of order: players drop it
        else:
            yield from self._until(time)
            self._next = max(self._next, math.ceil(time * self._fps))
        self._shown = (time, frame)
        self.end = time + max(lasts, Fraction(0))

    def rest(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields what the last frame still decides."""
        yield from self._until(self.end)

    def _until(self, time: Fraction) -> Iterator[tuple[int, av.VideoFrame]]:
        if self._shown is None:
            return
        time = min(time, self._shown[0] + MOST_GAP_S)
        while self._next < time * self._fps:
            yield self._next, self._shown[1]
            self._next += 1


class Deinterlacer:
    """Makes whole pictures of interlaced frames (FFmpeg's bwdif), and leaves others as they are."""

    def __init__(self):
        self._graph: Graph | None = None
        self._kind: tuple | None = None

    def add(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Takes a frame; yields frames that are complete. Interlaced ones come one frame late."""
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        kind = (frame.width, frame.height, frame.format.name, frame.time_base or Fraction(1, 1_000_000))
        if kind != self._kind:
            yield from self.rest()
            self._start(*kind)
        assert self._graph is not None
        self._graph.push(frame)
        yield from pull(self._graph)

    def rest(self) -> Iterator[av.VideoFrame]:
        """Yields what is still inside."""
        if self._graph is not None:
            self._graph.push(None)
            yield from pull(self._graph)
        self._graph = self._kind = None

    def _start(self, width: int, height: int, form: str, time_base: Fraction) -> None:
        graph = Graph()
        source = graph.add("buffer", f"video_size={width}x{height}:pix_fmt={form}:time_base={time_base}")
        filtered = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        self._graph, self._kind = graph, (width, height, form, time_base)


class Painter:
    """Converts frames to RGB images as a player shows them.

    Args:
        stream: the video track.
    """

    def __init__(self, stream: av.VideoStream):
        self._stream = stream
        self._first_aspect = stream.codec_context.sample_aspect_ratio
        self._reformatter = VideoReformatter()
        self._last: tuple[av.VideoFrame, np.ndarray] | None = None

    def paint(self, frame: av.VideoFrame) -> np.ndarray:
        """The image, uint8 (height, width, 3): pixels made square, turned as declared, high dynamic range mapped to
        the standard one."""
        if self._last is not None and self._last[0] is frame:
            return self._last[1]
        width, height, aspect = frame.width, frame.height, self._aspect()
        if aspect is not None and Fraction(1, _MOST_ASPECT) <= aspect <= _MOST_ASPECT:
            # Stretched, never shrunk, so that no detail is lost.
            wide, high = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
            width, height = (wide, high) if wide * high <= MOST_PIXELS else (width, height)
        transfer = int(self._stream.codec_context.color_trc)
        is_high = transfer in TRANSFERS
        converted = self._reformatter.reformat(
            frame, width, height, "rgb48le" if is_high else "rgb24", interpolation="BICUBIC", threads=1
        )
        image = converted.to_ndarray()
        if is_high:
            image = to_standard_range(image, transfer)
        image = np.ascontiguousarray(turn(image, display_matrix(frame)))
        self._last = (frame, image)
        return image

    def _aspect(self) -> Fraction | None:
        """Width of a pixel divided by its height: as the container says, unless the video has changed it since."""
        own = self._stream.codec_context.sample_aspect_ratio
        return own if own and own != self._first_aspect else self._stream.sample_aspect_ratio or None


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The frame's display matrix as nine integers, or None."""
    data = frame.side_data.get("DISPLAYMATRIX")
    numbers = b"" if data is None else bytes(data)
    return tuple(np.frombuffer(numbers, "<i4").tolist()) if len(numbers) == 36 else None


def turn(image: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """The image as a display matrix of 16.16 fixed-point numbers shows it: x' = a x + c y, y' = b x + d y.

    Rotations that are not multiples of 90 degrees are made about the centre, on a canvas that holds the whole picture.
    """
    if matrix is None:
        return image
    a, b, c, d = (matrix[i] / 65536 for i in (0, 1, 3, 4))
    size = math.hypot(a, b)
    if size == 0 or math.hypot(c, d) == 0:
        return image
    a, b = a / size, b / size
    size = math.hypot(c, d)
    c, d = c / size, d / size
    if abs(b) < 0.02 and abs(c) < 0.02:
        image = image[:, ::-1] if a < 0 else image
        return image[::-1] if d < 0 else image
    if abs(a) < 0.02 and abs(d) < 0.02:
        image = image.swapaxes(0, 1)  # x' = c y, y' = b x
        image = image[:, ::-1] if c < 0 else image
        return image[::-1] if b < 0 else image
    height, width = image.shape[:2]
    wide, high = abs(a) * width + abs(c) * height, abs(b) * width + abs(d) * height
    move = np.array([[a, c, 0.0], [b, d, 0.0]])
    move[:, 2] = np.array([wide, high]) / 2 - move[:, :2] @ np.array([width, height]) / 2
    return cv2.warpAffine(image, move, (round(wide), round(high)), flags=cv2.INTER_LINEAR)
