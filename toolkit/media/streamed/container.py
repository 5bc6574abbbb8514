"""A stream that is a media file, such as MPEG-TS, Matroska or fragmented MP4: its sound and its sampled frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError

from ...base.reading.file_kinds import file_kind
from ..decoding import CONTAINERS, Decoding, chosen_streams, reason_of
from ..errors import MediaError
from ..tracks import SAMPLE_RATE, PictureTrack, SoundTrack
from .pulled import Pulled

if TYPE_CHECKING:
    from av.container import InputContainer

# A stream may go on for longer than a file, but no stamp beyond a week is believed.
_MOST_S = 7 * 24 * 3600.0
# Kinds of files that a stream may be; bare samples begin like none of them. MP3 without tags begins like some.
_KINDS = frozenset(
    "matroska nut flv mpeg-ps mpeg-ts asf avi mov 3gp m4a mp4 segment ogg flac rf64 w64 caf aiff au".split()
)
_REMEDY = (
    "an MP4 must be written for streaming (ffmpeg -movflags frag_keyframe+empty_moov); MPEG-TS, Matroska and WebM "
    "always are"
)
HEAD_BYTES = 400  # so many bytes say whether a stream is a file: three packets of MPEG-TS begin in them


def is_container(head: bytes) -> bool:
    """Whether a stream that begins so is a media file, and not WAV or bare samples.

    Args:
        head: its first `HEAD_BYTES` bytes, or fewer if it has no more.
    """
    return head[4:8] == b"ftyp" or head[:3] == b"ID3" or file_kind(head).name in _KINDS


@dataclass(frozen=True)
class Image:
    """A frame of a stream.

    Attributes:
        grid: index of the rate that it is sampled at.
        k: its number: it is on screen at k / rate seconds.
        pixels: uint8 (height, width, 3) RGB; the same array as long as nothing else is on screen.
    """

    grid: int
    k: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Piece:
    """What comes next in a stream.

    Attributes:
        own, sound: samples, float32 (n,) within [-1, 1 - 2**-15], at the stream's own rate and at 16 kHz.
        image: a frame, or None.
    """

    own: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    sound: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    image: Image | None = None


class StreamedContainer:
    """Takes the bytes of a stream that is a media file. Sound and frames are those of `MediaReader` for the whole file,
    and do not depend on how the stream is divided.

    Args:
        rates: the rates in frames per second at which its video is sampled; none leave it out.

    Attributes:
        rate: the sampling rate of the sound in Hz.
        has_audio, has_video: which tracks there are; None until that is known.
    """

    def __init__(self, rates: Sequence[float] = ()) -> None:
        self._rates = rates
        self.rate = SAMPLE_RATE
        self.has_audio: bool | None = None
        self.has_video: bool | None = None
        self._tracks: list[PictureTrack] = []
        self._sounds: list[SoundTrack] = []
        self._decoding: Decoding | None = None
        self._images = Pulled(self._decoded)

    def add(self, data: bytes) -> Iterator[Piece]:
        """Takes the next bytes; yields what they complete. The iterator has to be used up.

        Raises:
            MediaError: the stream cannot be read, or not beyond some damage.
        """
        yield from self._pieces(self._images.give(data))
        if self._images.is_over and self._decoding is not None and self._decoding.broken:
            reached = max(self._decoding.decoded.values(), default=0.0)
            raise MediaError(f"cannot be read beyond {reached:.1f} s: {self._decoding.broken}; start it again")

    def end(self) -> Iterator[Piece]:
        """Yields what is left at the end.

        Raises:
            MediaError: nothing could be decoded.
        """
        yield from self._pieces(self._images.end())
        self._images.close()

    def close(self) -> None:
        """Ends the decoding before the stream has ended."""
        self._images.close()

    @property
    def decided(self) -> float:
        """Seconds before which every frame has been given."""
        return min((track.decided for track in self._tracks), default=0.0)

    @property
    def shown_until(self) -> float:
        """The end of the last frame so far, in seconds."""
        return max((float(track.end) for track in self._tracks), default=0.0)

    def _pieces(self, images: Iterator[Image]) -> Iterator[Piece]:
        for image in images:
            yield self._piece(image)
        yield self._piece(None)

    def _piece(self, image: Image | None) -> Piece:
        if not self._sounds:
            return Piece(image=image)
        sound = self._sounds[0].drain()
        self.rate = sound.rate
        own = sound.samples if sound.own_samples is None else sound.own_samples
        return Piece(own, sound.samples, image)

    def _decoded(self, read: Callable[[int], bytes]) -> Iterator[Image]:
        container = _opened(read)
        with container:
            streams = chosen_streams(container)
            self._decoding = Decoding(container, streams)
            if streams.sound is not None:
                self._sounds = [SoundTrack(True, None, _MOST_S)]
            if streams.video is not None:
                self._tracks = [PictureTrack(streams.video, rate, most_s=_MOST_S) for rate in self._rates]
            self.has_audio, self.has_video = bool(self._sounds), streams.video is not None
            # One thread: several hold as many frames back.
            for grid, k, pixels in self._decoding.run(self._sounds, self._tracks):
                yield Image(grid, k, pixels)
        if self._decoding.failures and not any(self._decoding.decoded.values()):
            raise MediaError(f"cannot be read: {self._decoding.failures[0]}; {_REMEDY}")


class _File:
    """What PyAV reads: without a `seek`."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def _opened(read: Callable[[int], bytes]) -> InputContainer:
    try:
        return av.open(
            _File(read),
            "r",
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot be read: {reason_of(error)}; {_REMEDY}") from None
