"""The cores of a run, and how its threads and processes share them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Result = TypeVar("Result")


class Cores:
    """The cores of a run. Whoever computes takes some and gives them back, so that no more compute than there are.

    Args:
        count: how many there are.
        threads: how many of them the networks in this process may use together, PyTorch's number of threads.
    """

    def __init__(self, count: int, threads: int):
        self.count, self.threads = count, threads
        self._free = count
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def ask(self, number: int, rank: int, granted: Callable[[], None]) -> None:
        """Calls `granted` as soon as there are cores, in this thread or in the one that gives them back.

        Who asks for several gets them as soon as one is free, and the others wait until all are given back: waiting for
        several at once could take as long as the longest file.

        Args:
            number: of cores.
            rank: those with a lower one are served first; among equals, who asked first.
            granted: must not take long.
        """
        with self._lock:
            heapq.heappush(self._waiting, (rank, next(self._order), number, granted))
        self._serve()

    def give(self, number: int) -> None:
        """Gives cores back."""
        with self._lock:
            self._free += number
        self._serve()

    @contextmanager
    def taken(self, number: int, rank: int) -> Iterator[None]:
        """A context that has cores, after waiting for them; arguments as of `ask`."""
        come = threading.Event()
        self.ask(number, rank, come.set)
        come.wait()
        try:
            yield
        finally:
            self.give(number)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if self._free < 1 or not self._waiting:
                    return
                _, _, number, granted = heapq.heappop(self._waiting)
                self._free -= number
            granted()


class Share:
    """What the networks of one stage of a run may use of its cores.

    Args:
        cores: of the run.
        rank: of the stage, as of `Cores.ask`.

    Attributes:
        busy: seconds of a core that were used so far.
    """

    def __init__(self, cores: Cores, rank: int):
        self.cores, self.rank, self.busy = cores, rank, 0.0
        self._lock = threading.Lock()
        # Not shared between stages: the threads of one that has to wait would be missing in another.
        self._pool = ThreadPoolExecutor(_most_lanes(cores))

    @contextmanager
    def used(self) -> Iterator[None]:
        """A context in which `share` returns this."""
        token = _SHARE.set(self)
        try:
            yield
        finally:
            _SHARE.reset(token)

    def lanes(self, pieces: int) -> tuple[int, int]:
        """How many of so many pieces of work are done at once, and the threads of each.

        Pieces side by side with a thread each are faster than one after the other with several, whose threads wait for
        each other. The numbers depend on nothing that differs from run to run: the last bits of a network's results
        depend on its number of threads.
        """
        lanes = max(1, min(pieces, _most_lanes(self.cores)))
        return lanes, max(1, self.cores.threads // lanes)

    def submit(self, number: int, work: Callable[[], Result]) -> Future[Result]:
        """Calls `work` in another thread as soon as it has so many cores."""
        return self._pool.submit(self._run, number, work)

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """A context for a network of which nothing is known: it has the cores of all networks, and asks for no more."""
        token = _SHARE.set(None)
        try:
            with self.cores.taken(self.cores.threads, self.rank):
                began = time.perf_counter()
                yield
                self.busy += self.cores.threads * (time.perf_counter() - began)
        finally:
            _SHARE.reset(token)

    def close(self) -> None:
        """Ends its threads, after what they are doing."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, number: int, work: Callable[[], Result]) -> Result:
        with self.cores.taken(number, self.rank):
            began = time.perf_counter()
            try:
                return work()
            finally:
                with self._lock:
                    self.busy += number * (time.perf_counter() - began)


def share() -> Share | None:
    """What the networks of this thread may use, if the run's cores are shared."""
    return _SHARE.get()


_SHARE: ContextVar[Share | None] = ContextVar("share", default=None)
# Each lane needs Python's interpreter between its layers, which only one thread can use at a time.
_MOST_LANES = 16


def _most_lanes(cores: Cores) -> int:
    return min(cores.threads, _MOST_LANES)
