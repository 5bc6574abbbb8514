"""Processes that work off a list of tasks, none of which can take another one down."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from .errors import UserError

_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result, in one line."""

    reason: str


def work_off(
    function: Callable[..., object], tasks: Sequence[tuple], jobs: int, threads: int, gpus: int = 0
) -> Iterator[tuple[int, object]]:
    """Calls `function(*task)` for each task, `jobs` at a time, each in a process of its own that serves many tasks.

    An exception, or the death of a process, fails its task alone. When this process dies, however it does, the others
    follow at once, so that nobody writes any more when the work is taken up again.

    Args:
        function, tasks: what to call, found by name in the new process.
        jobs: number of processes.
        threads: of PyTorch in each.
        gpus: of the machine; with several, process i sees only the one of number i modulo `gpus`.

    Yields:
        Number of a task and its result or Failure, as they come.
    """
    waiting = list(range(len(tasks)))[::-1]
    busy: dict[Connection, tuple[_Worker, int]] = {}
    try:
        for place in range(min(jobs, len(tasks))):
            worker, number = _Worker(function, threads, place % gpus if gpus > 1 else None), waiting.pop()
            worker.pipe.send(tasks[number])
            busy[worker.pipe] = worker, number
        while busy:
            for pipe in wait(list(busy)):
                worker, number = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    outcome = Failure(f"its process died ({_death(worker.process.exitcode)})")
                    worker = _Worker(function, threads, worker.gpu) if waiting else worker
                if waiting:
                    following = waiting.pop()
                    worker.pipe.send(tasks[following])
                    busy[worker.pipe] = worker, following
                else:
                    worker.process.kill()
                yield number, outcome
    finally:
        for worker, _ in busy.values():
            worker.process.kill()


class _Worker:
    def __init__(self, function: Callable[..., object], threads: int, gpu: int | None) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
        self.gpu = gpu
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, os.getpid(), threads, gpu), daemon=True)
        self.process.start()
        theirs.close()


def _serve(pipe: Connection, function: Callable[..., object], parent: int, threads: int, gpu: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch

    torch.set_num_threads(threads)
    while True:
        task = pipe.recv()
        try:
            result = function(*task)
        except UserError as error:
            result = Failure(str(error))
        except Exception as error:
            traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)[-1]
            result = Failure(
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({last.name} in {last.filename})"
            )
        pipe.send(result)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def _death(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
