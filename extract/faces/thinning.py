"""Frames of an utterance, examined less often the more there are, so that memory stays bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

# Mean of 8-bit grey below which a frame is black; video's own black is 16 before it is expanded to 0.
BLACK = 8.0


@dataclass(frozen=True)
class Look:
    """What there is to know of one frame, whatever comes before it.

    Attributes:
        brightness: mean grey level, 0 to 255.
    """

    brightness: float


L = TypeVar("L", bound=Look)


class ThinnedFrames(ABC, Generic[L]):
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
        self.offer(time, lambda: self.look(image))

    def offer(self, time: float, look: Callable[[], L]) -> None:
        """Adds the next frame; `look` is called only if the frame is to be examined, and may know its result."""
        if (number := self._next()) is not None:
            self._take(number, time, look())

    def add_look(self, time: float, look: L) -> None:
        """Adds the next frame, which `look` was called with before: nobody knew yet which utterance it belongs to."""
        self.offer(time, lambda: look)

    @abstractmethod
    def look(self, image: np.ndarray) -> L:
        """What is examined of a frame, uint8 (height, width, 3), a function of that frame alone."""

    @abstractmethod
    def examine(self, number: int, time: float, look: L) -> int:
        """Takes frame `number` (counted from 0); returns how many results are kept now, where there are most."""

    @abstractmethod
    def thin(self, stride: int) -> None:
        """Drops what was kept of frames whose number is not a multiple of `stride`; from now on only those come."""

    def _next(self) -> int | None:
        """The number of the next frame if it is to be examined."""
        number, self._seen = self._seen, self._seen + 1
        return None if number % self._stride else number

    def _take(self, number: int, time: float, look: L) -> None:
        self.examined += 1
        self.brightest = max(self.brightest, look.brightness)
        if self.examine(number, time, look) >= 2 * self._most:
            self._stride *= 2
            self.thin(self._stride)
