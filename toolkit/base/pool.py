"""Worker processes that may die, hang or be interrupted without taking the run with them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A task that a worker could not do, through no defect of the input that is known: what happened."""

    what: str


def run_tasks(
    tasks: Iterable[Any],
    work: Callable[[Any], Any],
    workers: int,
    *,
    set_up: Callable[[], None],
    time_limit: float,
    weight: Callable[[Any], int] = lambda task: 1,
    most_weight: int = 64,
) -> Iterator[tuple[Any, Any]]:
    """Runs `work(task)` for each task in worker processes and yields (task, result) as they come.

    A task whose worker raises, dies twice or outlasts the time limit yields a `Fault` as its result. A dead worker
    breaks the pool: the tasks that were under way are then done again, each alone, to find the one that kills.

    Args:
        tasks: taken one by one as workers are free, so that they may be made as they are needed.
        work: a function at the top of a module.
        workers: number of processes.
        set_up: called once in each worker.
        time_limit: seconds for one task.
        weight, most_weight: tasks are handed out while the sum of the weights of those not yet done is below the most,
            so that workers go on while the caller is busy, and memory stays bounded.
    """
    waiting = iter(tasks)
    with _Pools(workers, set_up) as pools:
        pending: dict[Future, Any] = {}
        more = True
        while more or pending:
            suspects: list[Any] = []
            while more and not suspects and sum(map(weight, pending.values())) < most_weight:
                task = next(waiting, _END)
                if task is _END:
                    more = False
                    continue
                try:
                    pending[pools.shared.submit(_limited, work, task, time_limit)] = task
                except BrokenProcessPool:  # a worker died between two looks at it
                    suspects.append(task)
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task = pending.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(task)
                else:
                    yield task, _result(future)
            if suspects:
                suspects += pending.values()
                pending.clear()
                pools.renew()
                for task in suspects:
                    future = pools.alone.submit(_limited, work, task, time_limit)
                    wait([future])
                    if isinstance(future.exception(), BrokenProcessPool):
                        pools.renew()
                        yield task, Fault(f"its worker process died (killed, out of memory, or over {time_limit:g} s)")
                    else:
                        yield task, _result(future)


_END = object()


def _result(future: Future) -> Any:
    error = future.exception()
    return future.result() if error is None else Fault(f"{type(error).__name__}: {error}".splitlines()[0])


def _limited(work: Callable[[Any], Any], task: Any, time_limit: float) -> Any:
    # The default action of the alarm ends the process even when it hangs in a library's C code.
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, time_limit)
        try:
            return work(task)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return work(task)


def _begin(set_up: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    set_up()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the script that is running from multiprocessing, whose new processes would import it.

    Workers need nothing of it, and a script that calls us outside of `if __name__ == "__main__"` would begin anew in each.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_BASE = multiprocessing.get_context(_METHOD)


class _Process(_BASE.Process):
    @staticmethod
    def _Popen(process: multiprocessing.process.BaseProcess) -> object:
        with _without_main():
            return _BASE.Process._Popen(process)


class _Context(type(_BASE)):
    # One server imports the libraries once (`warm_up`) and forks the workers from itself, free of this process's threads.
    Process = _Process


class _Pools:
    """A pool that all tasks share and one of a single process for suspects; both can be made anew."""

    def __init__(self, workers: int, set_up: Callable[[], None]):
        self._workers, self._set_up = workers, set_up
        self._context = _Context()
        self._made: dict[str, ProcessPoolExecutor] = {}

    @property
    def shared(self) -> ProcessPoolExecutor:
        return self._get("shared", self._workers)

    @property
    def alone(self) -> ProcessPoolExecutor:
        return self._get("alone", 1)

    def renew(self) -> None:
        """Ends the processes; the next use starts new ones."""
        for pool in self._made.values():
            for process in list((pool._processes or {}).values()):  # shutdown alone would wait for what they decode
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
        self._made.clear()

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()

    def _get(self, name: str, workers: int) -> ProcessPoolExecutor:
        if name not in self._made:
            self._made[name] = ProcessPoolExecutor(
                workers, mp_context=self._context, initializer=_begin, initargs=(self._set_up,)
            )
        return self._made[name]


def warm_up(*modules: str) -> None:
    """Begins to import modules for the workers of a later `run_tasks`, beside what this process does meanwhile."""
    if _METHOD == "forkserver":
        _BASE.set_forkserver_preload(list(modules))
        with _without_main():
            forkserver.ensure_running()
