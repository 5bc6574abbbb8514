"""The sound of a file on the file's clock: blocks are placed where their time stamps say, gaps are silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from statistics import median

import numpy as np

from .errors import MOST_GAP_S

# Stamps of single blocks are inexact (Matroska and FLV round to milliseconds, ASF by more), so a deviation counts if
# the median of this many blocks on each side shows it, and if it is greater than the rounding.
_NEIGHBOURS = 12
_TOLERANCE_S = 0.004
_SILENT_MOST = 20  # times as much silence as sound, beyond the first hour


class AudioClock:
    """Turns blocks of mono sound with time stamps into one gapless signal that begins at time 0.

    Silence fills the time before the first block and every gap; sound before time 0 and sound that overlaps what was
    already placed is dropped. Where a block's stamp is off by more than 4 ms from where the samples so far end, and its
    neighbours' are as well, the block is moved there.

    Args:
        rate: sample rate of the blocks in Hz.
        most_s: seconds beyond which nothing is placed, so that one absurd stamp cannot fill the memory.
        written: samples that precede the first block, where the rate has changed.
    """

    def __init__(self, rate: int, most_s: float, written: int = 0):
        self.rate, self._most = rate, round(most_s * rate)
        self.written = written  # samples returned so far
        self._dropping = False
        self._silent = 0  # samples of silence that were inserted
        self.has_gap = False  # more silence than may be inserted
        self._read = 0  # samples in the blocks so far
        self._offsets: deque[float | None] = deque()  # of the blocks around the next one
        self._before = 0  # how many of them come before it
        self._waiting: deque[tuple[int, np.ndarray]] = deque()  # (samples before it, block), not yet placed

    def add(self, time: Fraction | None, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next block, float32 (n,), with the time of its first sample in seconds (None: right after the
        previous one); yields what can now be placed."""
        self._offsets.append(None if time is None else float(time) - self._read / self.rate)
        self._waiting.append((self._read, samples))
        self._read += len(samples)
        # The last block waits for its length, see `end`.
        while len(self._waiting) > _NEIGHBOURS or (len(self._waiting) > 1 and self._is_certain()):
            yield from self._place()

    def end(self, last: int | None = None) -> Iterator[np.ndarray]:
        """Yields the rest. Of the last block only the first `last` samples count, if that is given."""
        if self._waiting and last is not None:
            read, samples = self._waiting.pop()
            self._waiting.append((read, samples[:last]))
        while self._waiting:
            yield from self._place()

    @property
    def too_long(self) -> bool:
        """Whether a block lies, or the sound goes on, beyond `most_s`."""
        return self.written > self._most

    def _is_certain(self) -> bool:
        """Whether the next block is placed where the samples so far end, whatever its later neighbours' stamps are: a
        stream need not wait for these. It and all those before it are more than half, so that the median is theirs."""
        read, near = self._waiting[0][0], list(islice(self._offsets, self._before + 1))
        stamps = [offset for offset in near if offset is not None]
        if len(stamps) < len(near):
            return False
        return -self._allowed <= self._late(min(stamps), read) and self._late(max(stamps), read) <= self._allowed

    @property
    def _allowed(self) -> float:
        """Samples by which a block may lie off without being moved."""
        return 0 if self._dropping else _TOLERANCE_S * self.rate

    def _late(self, offset: float, read: int) -> int:
        return round((offset + read / self.rate) * self.rate) - self.written

    def _place(self) -> Iterator[np.ndarray]:
        read, samples = self._waiting.popleft()
        # As many neighbours on the one side as on the other, or a gap near the end would be outvoted.
        side = min(self._before, len(self._offsets) - self._before - 1, _NEIGHBOURS)
        near = [self._offsets[i] for i in range(self._before - side, self._before + side + 1)]
        stamps = [offset for offset in near if offset is not None]
        if self._before == _NEIGHBOURS:
            self._offsets.popleft()
        else:
            self._before += 1
        if stamps:
            late = self._late(median(stamps), read)
            if abs(late) > self._allowed:
                gaps = self._silent + max(0, late)
                if late > self._most - self.written or gaps > MOST_GAP_S * self.rate + _SILENT_MOST * read:
                    self.written += late
                    self.has_gap = self.written <= self._most
                    yield samples[:0]
                    return
                if late > 0:
                    self._silent += late
                    for start in range(0, late, self.rate):
                        yield self._count(np.zeros(min(self.rate, late - start), np.float32))
                self._dropping = -late >= len(samples)  # then the next block loses the rest
                samples = samples[max(0, -late) :]
            else:
                self._dropping = False
        if len(samples):
            yield self._count(samples)

    def _count(self, samples: np.ndarray) -> np.ndarray:
        self.written += len(samples)
        return samples
