"""Worker processes that may die, hang or be interrupted without ending the run, and that end when the run ends."""

from __future__ import annotations

import functools
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..cores import core_shares
from ..errors import UserError
from ..shared_cores import Cores
from .child import FORK, SPAWN, Child, preload, run_program
from .pool import Pool
from .worker import Failure, Start

__all__ = ["SPAWN", "Child", "Failure", "keep_workers", "preload", "run_program", "run_tasks", "work_off"]


def run_tasks(
    tasks: Iterable[Any],
    work: Callable[[Any], Any],
    workers: int,
    *,
    set_up: Callable[[], None] | None = None,
    time_limit: float | None = None,
    weight: Callable[[Any], int] = lambda task: 1,
    most_weight: int = 64,
    retry: bool = True,
    fresh: bool = False,
    threads: int | None = None,
    gpus: int = 0,
    memory: int | None = None,
    bind: bool = False,
    cores: tuple[Cores, int] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Runs `work(task)` for each task in worker processes and yields (task, result) in order of completion.

    A task that raises, exceeds the time limit or kills its worker yields a `Failure` as its result; the others continue
    in the remaining workers and in a replacement for the dead one. When this process ends, for whatever reason, the
    workers end at once. They import neither the running script nor anything from its directory or the working
    directory (`isolated_start`).

    Args:
        tasks: consumed lazily in the caller's thread as workers become free.
        work: a function that workers can import.
        workers: maximum number of processes; each does one task at a time.
        set_up: called once in each worker.
        time_limit: seconds for one task, kept by this process, so also for workers that are stopped or hang in C code;
            time in which this process itself is stopped does not count. None for no limit.
        weight, most_weight: tasks are handed out while the total weight of those not yet yielded is below
            `most_weight`, so that workers continue while the caller is busy and memory stays bounded.
        retry: repeat a task whose worker died or that ran out of memory, once and alone, since the memory use of other
            tasks may be the cause. Then it may take most of what the machine or the control group has left, and gets a
            MemoryError where there is no more, instead of an end without a reason (Linux).
        fresh: start workers as new interpreters, not as forks of the server that `preload` started.
        threads: PyTorch threads in each worker; None leaves PyTorch's default.
        gpus: number of GPUs; if there are several, worker i sees only GPU i modulo `gpus`.
        memory: bytes of address space that each worker may use beyond what it has after `set_up` (Linux); None for no
            bound.
        bind: bind each worker to its share of the cores, if that has enough for its threads (`core_shares`).
        cores: the cores of which each task takes one while it is done, and with which rank (`Cores.ask`); None if they
            are shared with nobody.

    Raises:
        FaultError: a worker could not start or import what it needs; the message contains the reason.
        UserError: `set_up` raised it.
    """
    functions = pickle.dumps((work, set_up))
    environ = dict(os.environ)
    workers = max(1, workers)
    shares = (core_shares(workers, threads) if bind and workers > 1 else None) or [None] * workers
    starts = [
        Start(functions, environ, threads, place % gpus if gpus > 1 else None, memory, share)
        for place, share in enumerate(shares)
    ]
    waiting = iter(tasks)
    weights, more, count = 0, True, 0
    method = SPAWN if fresh else FORK
    kind = functions, len(starts), threads, gpus, memory, method, retry, time_limit, bind, cores
    pool = _Kept.take(kind) or Pool(starts, method, retry, time_limit, cores)
    complete = False
    try:
        while True:
            while more and weights < most_weight:
                task = next(waiting, _END)
                if task is _END:
                    more = False
                    break
                weights, count = weights + weight(task), count + 1
                pool.put(task)
            if not count:
                complete = True
                return
            task, result = pool.get()
            weights, count = weights - weight(task), count - 1
            yield task, result
    finally:
        if not (complete and _Kept.put(kind, pool)):
            pool.close()


def keep_workers() -> None:
    """From now on this process keeps the workers of a `run_tasks` whose tasks are all done for a later one like it.

    It is for a process that does the same work again and again, in one thread or in several, and ends with it.
    """
    _Kept.on = True


class _Kept:
    on = False
    pools: dict[object, list[Pool]] = {}
    lock = threading.Lock()

    @classmethod
    def take(cls, kind: object) -> Pool | None:
        with cls.lock:
            found = cls.pools.get(kind)
            return found.pop() if found else None

    @classmethod
    def put(cls, kind: object, pool: Pool) -> bool:
        with cls.lock:
            if cls.on:
                cls.pools.setdefault(kind, []).append(pool)
            return cls.on


def work_off(
    function: Callable[..., object], tasks: Sequence[tuple], jobs: int, threads: int, gpus: int = 0
) -> Iterator[tuple[int, object]]:
    """Calls `function(*task)` for each task, `jobs` at a time, in processes that each handle many tasks.

    They are forks of one server, so that the function's module is imported once, not once for each. Each is bound to
    its share of the cores, if that has enough for its threads.

    Args:
        function, tasks: the function, which workers import, and the arguments of each call.
        jobs: number of processes.
        threads, gpus: see `run_tasks`.

    Yields:
        Index of a task and its result or `Failure`, in order of completion.
    """
    call = functools.partial(_call, function)
    preload(function.__module__)
    jobs = min(jobs, len(tasks))
    done = run_tasks(enumerate(tasks), call, jobs, retry=False, threads=threads, gpus=gpus, bind=True)
    for (number, _), result in done:
        yield number, result


_END = object()


def _call(function: Callable[..., object], task: tuple[int, tuple]) -> object:
    try:
        return function(*task[1])
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        raise
