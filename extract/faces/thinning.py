"""Frames of an utterance, examined less often the more there are, so that memory stays bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

# Mean of 8-bit grey below which a frame is black; video's own black is 16 before it is expanded to 0.
BLACK = 8.0


class ThinnedFrames(ABC):
    """Base class of collectors of an utterance's frames: it decides which of them are examined.

    Args:
        most: half the greatest number of results kept; see `thin`.

    Attributes:
        examined: number of frames examined.
        brightest: greatest mean grey level of an examined frame, 0 to 255.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.examined = 0
        self.brightest = 0.0
        self._seen, self._stride = 0, 1

    def add(self, time: float, image: np.ndarray) -> None:
        """Adds the next frame, uint8 (height, width, 3), at `time` seconds."""
        number, self._seen = self._seen, self._seen + 1
        if number % self._stride:
            return
        self.examined += 1
        self.brightest = max(self.brightest, float(image.mean()))
        if self.examine(number, time, image) >= 2 * self._most:
            self._stride *= 2
            self.thin(self._stride)

    @abstractmethod
    def examine(self, number: int, time: float, image: np.ndarray) -> int:
        """Takes frame `number` (counted from 0); returns how many results are kept now, where there are most."""

    @abstractmethod
    def thin(self, stride: int) -> None:
        """Drops what was kept of frames whose number is not a multiple of `stride`; from now on only those come."""
