"""Worker processes that may die, hang or be interrupted without ending the run, and that end when the run ends."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from .errors import FaultError, UserError
from .import_path import isolated_start


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result, on one line."""

    reason: str


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
        time_limit: seconds for one task, if the system has timers; None for no limit.
        weight, most_weight: tasks are handed out while the total weight of those not yet yielded is below
            `most_weight`, so that workers continue while the caller is busy and memory stays bounded.
        retry: repeat a task whose worker died, once and alone, since the memory use of other tasks may be the cause.
        fresh: start workers as new interpreters, not as forks of the server that `preload` started.
        threads: PyTorch threads in each worker; None leaves PyTorch's default.
        gpus: number of GPUs; if there are several, worker i sees only GPU i modulo `gpus`.

    Raises:
        FaultError: a worker could not start or import what it needs; the message contains the reason.
        UserError: `set_up` raised it.
    """
    functions = pickle.dumps((work, set_up))
    starts = [
        _Start(functions, time_limit, threads, place % gpus if gpus > 1 else None) for place in range(max(1, workers))
    ]
    waiting = iter(tasks)
    weights, more, count = 0, True, 0
    pool = _Pool(starts, "spawn" if fresh else _METHOD, retry)
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
                return
            task, result = pool.get()
            weights, count = weights - weight(task), count - 1
            yield task, result
    finally:
        pool.close()


def work_off(
    function: Callable[..., object], tasks: Sequence[tuple], jobs: int, threads: int, gpus: int = 0
) -> Iterator[tuple[int, object]]:
    """Calls `function(*task)` for each task, `jobs` at a time, in new interpreters that each handle many tasks.

    Args:
        function, tasks: the function, which workers import, and the arguments of each call.
        jobs: number of processes.
        threads, gpus: see `run_tasks`.

    Yields:
        Index of a task and its result or `Failure`, in order of completion.
    """
    call = functools.partial(_call, function)
    jobs = min(jobs, len(tasks))
    done = run_tasks(enumerate(tasks), call, jobs, retry=False, fresh=True, threads=threads, gpus=gpus)
    for (number, _), result in done:
        yield number, result


def preload(*modules: str) -> None:
    """Starts importing modules for the workers of a later `run_tasks`, in the background."""
    if _METHOD == "forkserver":
        multiprocessing.get_context(_METHOD).set_forkserver_preload(list(modules))
        with isolated_start():
            forkserver.ensure_running()


_END = object()
# One server imports the libraries once (`preload`) and forks the workers from itself, free of this process's threads.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass(frozen=True, slots=True)
class _Start:
    """What a worker receives at startup. Functions are pickled, so that the worker itself reports import errors."""

    functions: bytes
    time_limit: float | None
    threads: int | None
    gpu: int | None


@dataclass(slots=True, eq=False)
class _Task:
    task: Any
    pickled: bytes
    died: bool = False  # whether its worker has died once


class _Worker:
    def __init__(self, place: int, start: _Start, method: str) -> None:
        context: Any = multiprocessing.get_context(method)
        self.place = place
        self.ready = False
        self.task: _Task | None = None
        ours, theirs = context.Pipe()
        self.pipe: Connection = ours
        self.process = context.Process(target=_serve, args=(theirs, start), daemon=True)
        try:
            with isolated_start():
                self.process.start()
        except OSError as error:
            raise FaultError(f"a worker process could not start: {error}") from None
        finally:
            theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Pool:
    """Hands tasks to workers in a separate thread, so that they continue while the caller processes a result."""

    def __init__(self, starts: list[_Start], method: str, retry: bool) -> None:
        self._starts, self._method, self._retry = starts, method, retry
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._workers: dict[Connection, _Worker] = {}
        self._results: queue.SimpleQueue[tuple[Any, Any] | BaseException] = queue.SimpleQueue()
        self._woken, self._waker = multiprocessing.get_context(method).Pipe(duplex=False)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="worker pool", daemon=True)
        self._thread.start()

    def put(self, task: Any) -> None:
        self._waiting.append(_Task(task, pickle.dumps(task)))
        self._waker.send_bytes(b"\0")

    def get(self) -> tuple[Any, Any]:
        """The next completed task and its result."""
        found = self._results.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed = True
        self._waker.send_bytes(b"\0")
        self._thread.join()
        self._end_workers()
        self._woken.close()
        self._waker.close()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._hand_out()
                for pipe in cast(list[Connection], wait([self._woken, *self._workers])):
                    if pipe is self._woken:
                        self._woken.recv_bytes()
                    else:
                        self._receive(self._workers[pipe])
        except BaseException as error:
            self._results.put(error)

    def _hand_out(self) -> None:
        while self._suspects or self._waiting:
            if self._suspects:  # one at a time, each in a new process
                if any(worker.task is not None for worker in self._workers.values()):
                    return
                self._end_workers()
            worker = next((w for w in self._workers.values() if w.task is None), None) or self._start()
            if worker is None:
                return
            worker.task = (self._suspects or self._waiting).popleft()
            if worker.ready:
                self._send(worker)

    def _start(self) -> _Worker | None:
        taken = {worker.place for worker in self._workers.values()}
        place = next((i for i in range(len(self._starts)) if i not in taken), None)
        if place is None:
            return None
        worker = _Worker(place, self._starts[place], self._method)
        self._workers[worker.pipe] = worker
        return worker

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None
        try:
            worker.pipe.send_bytes(worker.task.pickled)
        except OSError:  # it died while idle, so not because of this task
            self._waiting.appendleft(worker.task)
            worker.task = None
            self._remove(worker)

    def _receive(self, worker: _Worker) -> None:
        kind: str
        value: Any
        try:
            kind, value = pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            self._handle_death(worker)
            return
        except Exception as error:
            kind, value = _DONE, Failure(_reason(error))
        if kind == _UNABLE:
            raise value
        if kind == _READY:
            worker.ready = True
            if worker.task is not None:
                self._send(worker)
        elif worker.task is not None:
            task, worker.task = worker.task.task, None
            self._results.put((task, value))

    def _handle_death(self, worker: _Worker) -> None:
        """Retries or fails the task of a worker that died."""
        worker.process.join(_EXIT_S)
        self._remove(worker)
        code, task = worker.process.exitcode, worker.task
        if not worker.ready and code is not None and code >= 0:
            raise FaultError(f"a worker process could not start: it ended with exit status {code} (see its output)")
        if task is None:
            return
        limit = self._starts[worker.place].time_limit
        if limit is not None and code == -_ALARM:
            self._results.put((task.task, Failure(f"took longer than {limit:g} s")))
        elif self._retry and not task.died:
            task.died = True
            self._suspects.append(task)
        else:
            self._results.put((task.task, Failure(f"its process died ({_death(code)})")))

    def _remove(self, worker: _Worker) -> None:
        del self._workers[worker.pipe]
        worker.end()

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()


_EXIT_S = 10.0  # how long a worker may take to exit after closing its pipe
# The kinds of messages that a worker sends.
_READY, _UNABLE, _DONE = "ready", "unable", "done"
_ALARM = getattr(signal, "SIGALRM", 0)


def _serve(pipe: Connection, start: _Start) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        work = _prepare(start)
    except UserError as error:
        pipe.send((_UNABLE, UserError(error.message)))
        return
    except Exception as error:
        pipe.send((_UNABLE, FaultError(f"a worker process could not start: {_reason(error)}")))
        return
    try:
        pipe.send((_READY, None))
        while True:
            task = pipe.recv_bytes()
            result = _result(work, task, start.time_limit)
            try:
                pipe.send((_DONE, result))
            except OSError:
                raise
            except Exception as error:  # a result that cannot be pickled
                pipe.send((_DONE, Failure(_reason(error))))
    except (EOFError, OSError):
        return  # the parent is gone


def _prepare(start: _Start) -> Callable[[Any], Any]:
    if start.gpu is not None:
        # Before anything asks CUDA for its devices. The number counts those that the user left visible.
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[start.gpu] if visible else str(start.gpu)
    work, set_up = pickle.loads(start.functions)
    if start.threads is not None:
        import torch

        torch.set_num_threads(start.threads)
    if set_up is not None:
        set_up()
    return work


def _result(work: Callable[[Any], Any], pickled: bytes, time_limit: float | None) -> Any:
    # The default action of the alarm ends the process even when it hangs in a library's C code.
    limit = time_limit if hasattr(signal, "setitimer") else None
    try:
        task = pickle.loads(pickled)
        if limit is not None:
            signal.signal(_ALARM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return work(task)
        finally:
            if limit is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception as error:
        return Failure(_reason(error))


def _call(function: Callable[..., object], task: tuple[int, tuple]) -> object:
    try:
        return function(*task[1])
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return error.message
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].name} in {frames[-1].filename})" if frames else text


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # waits on a pipe that only the parent keeps open, so that SIGKILL is noticed too
        os._exit(1)


def _death(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
