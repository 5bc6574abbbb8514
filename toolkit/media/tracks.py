"""The ways of one audio and one video track, from decoded frames to samples and images on the file's clock."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from .clock import AudioClock
from .errors import LEAST_RATE, MOST_RATE, MOST_S, MediaError
from .mono import Mixer, Resampler
from .pictures import Deinterlacer, Painter, Sampler

SAMPLE_RATE = 16_000
# The largest value of 16 bits. opensmile multiplies by 2**15 and casts without clipping, so that a sample of
# 1.0 would come out as -1.0.
FULL_SCALE = 1 - 2.0**-15
_AT_ONCE = 16_384  # samples that are resampled together


@dataclass(frozen=True)
class Sound:
    """One signal.

    Attributes:
        samples: float32 (n,), 16 kHz, from time 0, within -1 and `FULL_SCALE`.
        own_samples: the same at its original rate, if that was wanted.
        rate: that rate in Hz.
        missing: why there is no such signal, or "".
    """

    samples: np.ndarray
    own_samples: np.ndarray | None
    rate: int
    missing: str = ""


class SoundTrack:
    """Collects one signal of an audio track.

    Args:
        keep_own: whether to keep the sound at its own rate as well.
        channel: number of the channel, from 1; None for the mix of all.
        most_s: seconds beyond which the sound is refused.
    """

    def __init__(self, keep_own: bool, channel: int | None, most_s: float = MOST_S):
        self._mixer, self._keep_own, self._most_s = Mixer(channel), keep_own, most_s
        self._rate, self._missing = SAMPLE_RATE, ""
        self._clock: AudioClock | None = None
        self._last: int | None = None  # how many samples of the last frame count, if the file says that not all do
        self._outputs: list[tuple[Resampler, list[np.ndarray]]] = []
        self._placed: list[np.ndarray] = []  # blocks on their way to the outputs
        self._samples: list[np.ndarray] = []
        self._own: list[np.ndarray] = []

    def add(self, time: Fraction | None, frame: av.AudioFrame) -> None:
        """Takes the next decoded frame with its time in seconds, None if it has no stamp.

        Raises:
            MediaError: the sound would not fit the memory.
        """
        rate = frame.sample_rate
        if self._clock is None or rate != self._clock.rate:
            self._start(rate)
        assert self._clock is not None
        try:
            mono = self._mixer.mix(frame)
        except ValueError as error:  # there is no such channel; silence keeps the time
            self._missing, mono = str(error), np.zeros(frame.samples, np.float32)
        if not np.isfinite(mono.sum()):  # cheaper than looking at each; a sum may also be beyond the largest number
            mono = np.nan_to_num(mono, nan=0.0)
        self._take(self._clock.add(time, mono))
        # An encoder fills its last frame up. MP4 and its kin tell by that frame's duration, in stamps that are exact to
        # the sample; Matroska's are not.
        lasts, step = frame.duration or 0, (frame.time_base or 0) * rate
        self._last = round(lasts * step) if lasts and step <= 1 else None

    def end(self) -> None:
        """The track is complete."""
        if self._clock is not None:
            self._take(self._clock.end(self._last))
            self._put_out()
            for resampler, kept in self._outputs:
                kept += map(_clipped, resampler.end())

    @property
    def seconds(self) -> float:
        """The end of the sound so far, on the file's clock."""
        return 0.0 if self._clock is None else self._clock.written / self._clock.rate

    def result(self) -> Sound:
        """What was collected."""
        own = _joined(self._own) if self._keep_own else None
        return Sound(_joined(self._samples), own, self._rate, self._missing)

    def drain(self) -> Sound:
        """What was collected since the last call, which is then forgotten."""
        self._put_out()
        found = self.result()
        self._samples.clear()
        self._own.clear()
        return found

    def _start(self, rate: int) -> None:
        """The first frame, or the rate changes."""
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise MediaError(f"a sampling rate of {rate} Hz: no sound that can be heard")
        written = Fraction(0)
        if self._clock is None:
            self._rate = rate
        else:
            self.end()
            written = Fraction(self._clock.written, self._clock.rate)
        self._clock = AudioClock(rate, self._most_s, round(written * rate))
        self._outputs = [(Resampler(rate, SAMPLE_RATE), self._samples)]
        if self._keep_own:
            self._outputs.append((Resampler(rate, self._rate), self._own))

    def _take(self, placed: Iterator[np.ndarray]) -> None:
        assert self._clock is not None
        for samples in placed:
            if self._clock.has_gap:
                raise MediaError("gaps of more than an hour in the sound: cut it into parts")
            if self._clock.too_long:
                raise MediaError(f"longer than {self._most_s / 3600:g} hours: cut it into parts")
            self._placed.append(samples)
            if sum(map(len, self._placed)) >= _AT_ONCE:
                self._put_out()

    def _put_out(self) -> None:
        """Resamples the blocks that wait, as one: files have them of 20 ms or less."""
        if not self._placed:
            return
        samples = _joined(self._placed)
        self._placed.clear()
        for resampler, kept in self._outputs:
            kept += map(_clipped, resampler.add(samples))


class PictureTrack:
    """Images sampled by the clock.

    Args:
        stream: the video track.
        fps: frames per second of playing time.
        wanted: numbers k of the images at k / fps seconds that are wanted; None for all.
        most_s: seconds beyond which a picture is refused.
    """

    def __init__(
        self, stream: av.VideoStream, fps: float, wanted: Container[int] | None = None, most_s: float = MOST_S
    ):
        self._wanted, self._most_s = wanted, most_s
        self._sampler, self._deinterlacer, self._painter = Sampler(fps), Deinterlacer(), Painter(stream)
        rate = stream.average_rate or stream.guessed_rate
        self._lasts = 1 / rate if rate else Fraction(0)
        self._offset = Fraction(0)

    def add(self, offset: Fraction, frame: av.VideoFrame) -> Iterator[tuple[int, np.ndarray]]:
        """Takes the next decoded frame, and what has to be added to its stamp in seconds; yields (k, image)."""
        self._offset = offset
        for whole in self._deinterlacer.add(frame):
            yield from self._sample(whole)

    def rest(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields what the last frames still decide."""
        for whole in self._deinterlacer.rest():
            yield from self._sample(whole)
        yield from self._images(self._sampler.rest())

    @property
    def end(self) -> Fraction:
        """The end of the last frame so far, in seconds."""
        return self._sampler.end

    @property
    def decided(self) -> float:
        """Seconds before which every image has been given."""
        return self._sampler.decided

    def _sample(self, frame: av.VideoFrame) -> Iterator[tuple[int, np.ndarray]]:
        time, base = None, frame.time_base or Fraction(0)
        if frame.pts is not None and base:
            time = frame.pts * base + self._offset
            if time > self._most_s:
                raise MediaError(f"longer than {self._most_s / 3600:g} hours: cut it into parts")
        # A picture may last long, but no duration is believed beyond what a stamp may be.
        lasts = min(Fraction(frame.duration or 0) * base or self._lasts, Fraction(MOST_S))
        yield from self._images(self._sampler.add(time, lasts, frame))

    def _images(self, chosen: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, np.ndarray]]:
        for k, frame in chosen:
            if self._wanted is None or k in self._wanted:
                yield k, self._painter.paint(frame)


class Restarts:
    """Joins the parts of a stream whose stamps start again or jump, as where recordings were concatenated."""

    _FORWARD_S, _BACK_S = 10, Fraction(1, 10)

    def __init__(self):
        self.offset = Fraction(0)
        self._next: dict[int, Fraction] = {}  # by stream: where its next packet is expected

    def see(self, packet: av.Packet) -> None:
        """Corrects `offset`, the seconds to be added to stamps, by the next packet that is read."""
        stamp = packet.dts  # in the order of packets, which presentation's stamps are not
        if stamp is None or packet.time_base is None or packet.stream.type not in ("audio", "video"):
            return
        index, time = packet.stream.index, stamp * packet.time_base
        expected = self._next.get(index)
        if expected is not None:
            jump = time + self.offset - expected
            if jump > self._FORWARD_S or jump < -self._BACK_S:
                self.offset -= jump
        self._next[index] = time + self.offset + (packet.duration or 0) * packet.time_base


def _clipped(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples, np.float32(-1), np.float32(FULL_SCALE))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
