"""What a run spends its time on: the stages by the clock, and the parts of the work in seconds of a process each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...toolkit.base.shared_cores import share


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

    @contextmanager
    def spent(self, name: str) -> Iterator[None]:
        """A context whose work is added: the time that cores were busy with its networks, without waiting for them, or
        by the clock if it has none on the CPU.
        """
        own, began = share(), time.perf_counter()
        before = 0.0 if own is None else own.busy
        yield
        busy = 0.0 if own is None else own.busy - before
        self.add(name, busy or time.perf_counter() - began)

    def shares(self) -> Iterator[tuple[str, float, float]]:
        """Name, seconds and share of the work, the largest first."""
        total = sum(self.work.values()) or 1.0
        for name, seconds in sorted(self.work.items(), key=lambda one: -one[1]):
            yield name, seconds, seconds / total
