"""What a run spends its time on: the stages by the clock, and the parts of the work in seconds of a process each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Costs:
    """Collected while the run goes on, from several threads.

    Attributes:
        stages: seconds by the clock of the stages, which overlap.
        work: seconds of work by what it was for: decoding, faces, and each feature by its name. Work in several
            processes at once counts for each, so the sum may exceed the run's time.
    """

    stages: dict[str, float] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, seconds: float) -> None:
        """Adds work."""
        with self._lock:
            self.work[name] = self.work.get(name, 0.0) + seconds

    def shares(self) -> Iterator[tuple[str, float, float]]:
        """Name, seconds and share of the work, the largest first."""
        total = sum(self.work.values()) or 1.0
        for name, seconds in sorted(self.work.items(), key=lambda one: -one[1]):
            yield name, seconds, seconds / total
