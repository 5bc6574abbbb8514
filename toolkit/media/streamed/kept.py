"""The end of a signal that goes on."""

from __future__ import annotations

import numpy as np


class KeptSound:
    """The end of a signal: samples are added at its end and dropped at its beginning, and keep their numbers.

    Attributes:
        first: number of the first sample that is kept.
    """

    def __init__(self) -> None:
        self.first = 0
        self._data = np.zeros(1 << 14, np.float32)
        self._length = 0
        self.most = 0  # samples that were ever kept at once

    @property
    def end(self) -> int:
        """The number of the sample after the last."""
        return self.first + self._length

    def add(self, samples: np.ndarray) -> None:
        """Takes float32 (n,)."""
        need = self._length + len(samples)
        if need > len(self._data) or need < len(self._data) // 4:
            data = np.zeros(max(1 << 14, 2 * need), np.float32)
            data[: self._length] = self._data[: self._length]
            self._data = data
        self._data[self._length : need] = samples
        self._length = need
        self.most = max(self.most, need)

    def cut(self, start: int, end: int) -> np.ndarray:
        """The samples from one number to before another, as far as they are kept: float32 (n,), a copy."""
        return self._data[max(0, start - self.first) : max(0, min(self._length, end - self.first))].copy()

    def __getitem__(self, part: slice) -> np.ndarray:
        """As of an array of the whole signal, of what is kept; without negative numbers."""
        return self.cut(part.start or 0, self.end if part.stop is None else part.stop)

    def drop(self, before: int) -> None:
        """Forgets the samples before a number."""
        gone = min(self._length, max(0, before - self.first))
        if gone:
            self._data[: self._length - gone] = self._data[gone : self._length].copy()
            self.first, self._length = self.first + gone, self._length - gone
