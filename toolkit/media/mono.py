"""One channel out of several, and another sampling rate."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph

# Full scale of the integer formats, and the value of silence.
_SCALES = {"u8": (128.0, 128.0), "s16": (2.0**15, 0.0), "s32": (2.0**31, 0.0), "s64": (2.0**63, 0.0)}


class Mixer:
    """Mixes blocks to mono, float32 within full scale.

    Where the channels have declared positions, they are mixed as in the WAV file that ffmpeg would write: stereo as the
    average, 5.1 by ffmpeg's weights, scaled so that nothing exceeds full scale. Channels without positions are
    microphones as far as anyone knows, and count the same.

    Args:
        channel: number of the only channel to use, from 1; None for the mix.
    """

    def __init__(self, channel: int | None):
        self._channel = channel
        self._graph: Graph | None = None
        self._kind: tuple | None = None

    def mix(self, frame: av.AudioFrame) -> np.ndarray:
        """The block as float32 (n,).

        Raises:
            ValueError: there is no such channel.
        """
        layout = frame.layout
        count = layout.nb_channels
        if self._channel is not None:
            if self._channel > count:
                raise ValueError(f"no channel {self._channel}: the audio track has {count}")
            return _channels(frame)[self._channel - 1]
        if count == 1:
            return _channels(frame)[0]
        name = layout.name
        if name.startswith("ambisonic"):
            return _channels(frame)[0]  # the first is the sound from all directions, the others are differences
        if count > 2 and not name.endswith("channels"):
            try:
                return self._by_position(frame)
            except (FFmpegError, ValueError):
                pass  # positions for which ffmpeg has no weights
        return _channels(frame).mean(0, dtype=np.float32)

    def _by_position(self, frame: av.AudioFrame) -> np.ndarray:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            # rematrix_maxval=1 scales the weights as for 16-bit samples; for floats ffmpeg's own default does not.
            graph = Graph()
            source = graph.add(
                "abuffer",
                sample_rate=str(kind[2]),
                sample_fmt=kind[0],
                channel_layout=kind[1],
                time_base=f"1/{kind[2]}",
            )
            mix = graph.add("aresample", "ochl=mono:osf=flt:rematrix_maxval=1")
            sink = graph.add("abuffersink")
            source.link_to(mix)
            mix.link_to(sink)
            graph.configure()
            self._graph, self._kind = graph, kind
        assert self._graph is not None
        frame.pts = None
        self._graph.push(frame)
        parts = [part.to_ndarray().ravel() for part in pull(self._graph)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class Resampler:
    """Converts mono blocks to another sampling rate by FFmpeg's resampler.

    Args:
        rate: of the blocks, in Hz.
        to: the rate wanted.
    """

    def __init__(self, rate: int, to: int):
        self._rate = rate
        self._resampler = None if rate == to else av.AudioResampler(format="flt", layout="mono", rate=to)

    def add(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Takes a block, float32 (n,); yields blocks at the other rate."""
        if self._resampler is None:
            yield samples
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate = self._rate
        yield from (part.to_ndarray().ravel() for part in self._resampler.resample(frame))

    def end(self) -> Iterator[np.ndarray]:
        """Yields the rest."""
        if self._resampler is not None:
            yield from (part.to_ndarray().ravel() for part in self._resampler.resample(None))


def pull(graph: Graph) -> Iterator:
    """The frames that a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):  # it needs more input, or has ended
            return


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """float32 (channels, n) within -1 and 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    name = frame.format.name.removesuffix("p")
    if name in _SCALES:
        scale, silence = _SCALES[name]
        wide = values.astype(np.float32 if name in ("u8", "s16") else np.float64)
        return ((wide - silence) / scale).astype(np.float32)
    return values.astype(np.float32)
