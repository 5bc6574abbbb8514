"""A stream of WAV or of bare samples: mono as they arrive, at the own rate and at 16 kHz."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from av.error import FFmpegError

from ..errors import LEAST_RATE, MOST_RATE, MediaError
from ..mono import Resampler
from ..tracks import FULL_SCALE, SAMPLE_RATE

# A program that writes into a pipe does not know the size yet: 0, or the largest number or one near it.
_UNKNOWN = 0x7FFF_0000
_MOST_HEADER = 1 << 20  # bytes before the audio of a WAV stream
_EXTENSIBLE = 0xFFFE
_FORMS = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "24", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
_BLOCK = 512  # samples that are resampled at once, however they arrive


@dataclass(frozen=True)
class Form:
    """How the samples of a stream are written.

    Attributes:
        rate: in Hz.
        channels: 1 or 2.
        kind: numpy's name of the type of a number, or "24".
    """

    rate: int = SAMPLE_RATE
    channels: int = 1
    kind: str = "<i2"

    @property
    def frame(self) -> int:
        """Bytes per sample of all channels."""
        return self.channels * (3 if self.kind == "24" else np.dtype(self.kind).itemsize)


class StreamedAudio:
    """Takes the bytes of a stream in parts of any size; the samples do not depend on how it is divided.

    Stereo is mixed to mono as in `MediaReader`, and other rates are resampled by FFmpeg's resampler, in blocks of 32 ms
    at 16 kHz.

    Args:
        pcm_rate: the rate of samples without a header, 16 bits, little-endian, mono; None for 16 kHz, or a WAV header.
        to_end: whether a WAV header's size is the end of the audio; a file that grows states what it was before.
    """

    def __init__(self, pcm_rate: int | None = None, to_end: bool = True) -> None:
        self._pcm_rate, self._to_end = pcm_rate, to_end
        self.form: Form | None = None
        self._held = b""  # of the header, then of an incomplete sample
        self._left: int | None = None  # bytes of audio that the header still promises
        self._block = np.zeros(0, np.float32)
        self._resampler: Resampler | None = None

    def add(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Takes the next bytes.

        Returns:
            The samples that they complete, float32 (n,) within [-1, 1 - 2**-15]: at the stream's own rate, and at
            16 kHz.

        Raises:
                MediaError: the stream's header is damaged or of a form that is not supported.
        """
        self._held += data
        if self.form is None and not self._begin():
            return _nothing()
        assert self.form is not None
        whole = len(self._held) // self.form.frame * self.form.frame
        if self._left is not None:
            whole = min(whole, self._left // self.form.frame * self.form.frame)
            self._left -= whole
        part, self._held = self._held[:whole], self._held[whole:]
        if self._left is not None and self._left < self.form.frame:
            self._held = b""  # what follows the audio, such as titles
        mono = _mono(part, self.form)
        own = _clipped([mono])
        if self._resampler is None:
            return own, own
        waiting, found = np.concatenate([self._block, mono]), []
        blocks = len(waiting) // _BLOCK * _BLOCK
        for first in range(0, blocks, _BLOCK):
            found += self._resampled(waiting[first : first + _BLOCK])
        self._block = waiting[blocks:]
        return own, _clipped(found)

    def end(self) -> tuple[np.ndarray, np.ndarray]:
        """The samples that are left at the end, as of `add`.

        Raises:
            MediaError: there was no audio, or the stream ended within its header.
        """
        if self.form is None:
            if not self._held:
                return _nothing()
            if self._held[:4] == b"RIFF"[: len(self._held)]:
                raise MediaError("the stream ends within its WAV header")
            self._start(Form(self._pcm_rate or SAMPLE_RATE))
            own, more = self.add(b"")
        else:
            own = more = _nothing()[0]
        if self._resampler is None:
            return own, more
        found = [*self._resampled(self._block), *self._resampler.end()]
        self._block = self._block[:0]
        return own, np.concatenate([more, _clipped(found)])

    def _resampled(self, block: np.ndarray) -> list[np.ndarray]:
        assert self._resampler is not None and self.form is not None
        try:
            return list(self._resampler.add(block))
        except (FFmpegError, MemoryError):  # of rates that have hardly a common divisor
            raise MediaError(f"{self.form.rate} Hz cannot be converted to {SAMPLE_RATE} Hz") from None

    def _start(self, form: Form) -> None:
        if not LEAST_RATE <= form.rate <= MOST_RATE:
            raise MediaError(f"a sampling rate of {form.rate} Hz: no sound that can be heard")
        self.form = form
        self._resampler = None if form.rate == SAMPLE_RATE else Resampler(form.rate, SAMPLE_RATE)

    def _begin(self) -> bool:
        """Whether the header is over, if there is one; what is held is then the audio."""
        if len(self._held) < 12:
            return False
        if self._held[:4] != b"RIFF" or self._held[8:12] != b"WAVE":
            self._start(Form(self._pcm_rate or SAMPLE_RATE))
            return True
        form = None
        for name, size, start in _chunks(self._held):
            if name == b"fmt " and len(self._held) >= start + size:
                form = _form(self._held[start : start + size])
            elif name == b"data":
                if form is None:
                    raise MediaError("the WAV header has no fmt chunk before its data")
                if self._pcm_rate is not None:
                    raise MediaError(
                        f"--pcm-rate: the stream has a WAV header, which says {form.rate} Hz; leave it out"
                    )
                self._start(form)
                if self._to_end and 0 < size < _UNKNOWN:
                    self._left = size
                self._held = self._held[start:]
                return True
        if len(self._held) > _MOST_HEADER:
            raise MediaError("the WAV header has no data chunk in its first megabyte")
        return False


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, size, start of the content) of each chunk that has begun."""
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
        yield name, size, place + 8
        place += 8 + size + size % 2


def _form(chunk: bytes) -> Form:
    if len(chunk) < 16:
        raise MediaError("the WAV header's fmt chunk is cut off")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    if (kind, bits) not in _FORMS:
        raise MediaError(f"the WAV stream has form {kind} with {bits} bits; send PCM of 8 to 32 bits, or floats")
    if channels not in (1, 2):
        raise MediaError(f"the WAV stream has {channels} channels; send one or two")
    return Form(rate, channels, _FORMS[kind, bits])


def _mono(data: bytes, form: Form) -> np.ndarray:
    """Bytes of whole samples as float32 (n,), mono; as `mono.Mixer` makes them."""
    if form.kind == "24":
        raw = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = np.zeros((len(raw), 4), np.uint8)
        values[:, 1:] = raw
        wide = values.view("<i4").ravel() / 2.0**31
    elif form.kind == "u1":
        wide = (np.frombuffer(data, "u1").astype(np.float32) - 128) / 128
    elif form.kind == "<i2":
        wide = np.frombuffer(data, "<i2").astype(np.float32) / 2**15
    elif form.kind == "<i4":
        wide = np.frombuffer(data, "<i4") / 2.0**31
    else:
        wide = np.frombuffer(data, form.kind)
    with np.errstate(invalid="ignore", over="ignore"):  # of floats that are no samples
        samples = wide.astype(np.float32).reshape(-1, form.channels)
        mixed = samples[:, 0] if form.channels == 1 else np.ascontiguousarray(samples.T).mean(0, dtype=np.float32)
    return np.nan_to_num(mixed, nan=0.0)


def _clipped(parts: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    # What was infinite is not a number after resampling.
    return np.clip(np.nan_to_num(joined, nan=0.0), -1, FULL_SCALE).astype(np.float32)


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.float32), np.zeros(0, np.float32)
