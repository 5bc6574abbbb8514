"""Work on many files at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .cores import core_count

_AHEAD = 16  # items per thread that are begun before the first result is taken

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> Iterator[Result]:
    """Yields function(item) in the order of the items.

    Unlike with `Executor.map`, only a few items per thread are waiting at a time: what a million take in memory does
    not grow with their number. What has not begun when an error occurs, or the results are no longer wanted, is
    cancelled.

    Args:
        function: called in a thread.
        items: its arguments.
        workers: number of threads; 0 for one per core.
    """
    workers = workers or core_count()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
