"""The pool behind `run_tasks`: hands tasks to workers, keeps their time, and replaces those that die or hang."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import queue
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from ..errors import FaultError
from ..shared_cores import Cores
from . import memory
from .child import Child
from .worker import DONE, NO_MEMORY, READY, UNABLE, Failure, Start, reason, serve


@dataclass(slots=True, eq=False)
class _Task:
    task: Any
    pickled: bytes
    alone: bool = False  # its worker has died once, or it ran out of memory


class _Worker:
    """A worker process and what it is doing; `deadline` is on the clock of `_Pool._now`."""

    def __init__(self, place: int, start: Start, method: str, deadline: float) -> None:
        self.place = place
        self.ready = False
        self.task: _Task | None = None
        self.deadline: float | None = deadline
        self.child = Child(method, serve, start)
        _do_not_wait_long(self.child.pipe)


class Pool:
    """Hands tasks to workers in a separate thread, so that they continue while the caller processes a result.

    Args:
        starts: what each worker is started with.
        method: how, SPAWN or FORK.
        retry, time_limit: see `run_tasks`.
        cores: of which each task takes one, and with which rank; None if workers have cores of their own.
    """

    def __init__(
        self,
        starts: list[Start],
        method: str,
        retry: bool,
        time_limit: float | None,
        cores: tuple[Cores, int] | None = None,
    ) -> None:
        self._starts, self._method, self._retry, self._limit = starts, method, retry, time_limit
        self._ticket = _Ticket(*cores, self._wake) if cores is not None else None
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._workers: dict[Connection, _Worker] = {}
        self._results: queue.SimpleQueue[tuple[Any, Any] | BaseException] = queue.SimpleQueue()
        self._woken, self._waker = multiprocessing.get_context(method).Pipe(duplex=False)
        self._closed = False
        self._now = 0.0  # seconds of waiting, without those in which this process was stopped
        self._thread = threading.Thread(target=self._run, name="worker pool", daemon=True)
        self._thread.start()

    def put(self, task: Any) -> None:
        self._waiting.append(_Task(task, pickle.dumps(task)))
        self._wake()

    def get(self) -> tuple[Any, Any]:
        """The next completed task and its result."""
        found = self._results.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed = True
        self._wake()
        self._thread.join()
        self._end_workers()
        if self._ticket is not None:
            self._ticket.close()
        self._woken.close()
        self._waker.close()

    def _wake(self) -> None:
        self._waker.send_bytes(b"\0")

    def _run(self) -> None:
        try:
            while not self._closed:
                self._hand_out()
                for pipe in self._wait():
                    if pipe is self._woken:
                        self._woken.recv_bytes()
                    else:
                        self._receive(self._workers[pipe])
                self._end_late()
        except BaseException as error:
            self._results.put(error)

    def _wait(self) -> list[Connection]:
        """The pipes with something to read, after a second at most, so that a stop of this process is noticed."""
        timed = any(worker.deadline is not None for worker in self._workers.values())
        began = time.monotonic()
        found = wait([self._woken, *self._workers], _TICK_S if timed else None)
        self._now += min(time.monotonic() - began, 2 * _TICK_S)
        return cast(list[Connection], found)

    def _end_late(self) -> None:
        for worker in list(self._workers.values()):
            if worker.deadline is None or worker.deadline > self._now:
                continue
            if not worker.ready:
                raise FaultError(f"a worker process could not start: it took longer than {_START_S:g} s")
            if (task := self._remove(worker)) is not None:
                self._results.put((task.task, Failure(f"took longer than {self._limit:g} s")))

    def _hand_out(self) -> None:
        while self._suspects or self._waiting:
            if self._suspects:  # one at a time, each in a new process
                if any(worker.task is not None for worker in self._workers.values()):
                    return
                self._end_workers()
            idle = next((w for w in self._workers.values() if w.task is None), None)
            if idle is None and len(self._workers) == len(self._starts):
                return
            if self._ticket is not None and not self._ticket.use():
                return
            worker = idle or self._start()
            worker.task = (self._suspects or self._waiting).popleft()
            if worker.ready:
                self._send(worker)

    def _start(self) -> _Worker:
        taken = {worker.place for worker in self._workers.values()}
        place = next(i for i in range(len(self._starts)) if i not in taken)
        start = self._starts[place]
        if self._suspects and start.memory is None and start.gpu is None:
            start = dataclasses.replace(start, memory=int(memory.available() * _SHARE))
        worker = _Worker(place, start, self._method, self._now + _START_S)
        self._workers[worker.child.pipe] = worker
        return worker

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None
        try:
            worker.child.pipe.send_bytes(worker.task.pickled)
        except OSError:  # it died or was stopped while idle, so not because of this task
            task = cast(_Task, self._remove(worker))
            (self._suspects if task.alone else self._waiting).appendleft(task)
            return
        worker.deadline = None if self._limit is None else self._now + self._limit

    def _receive(self, worker: _Worker) -> None:
        kind: str
        value: Any
        try:
            kind, value = pickle.loads(worker.child.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self._handle_death(worker, isinstance(error, BlockingIOError))
            return
        except Exception as error:
            kind, value = DONE, Failure(reason(error))
        if kind == UNABLE:
            raise value
        worker.deadline = None
        if kind == READY:
            worker.ready = True
            if worker.task is not None:
                self._send(worker)
        elif (task := self._taken_from(worker)) is not None:
            if kind == NO_MEMORY and self._retry and not task.alone:
                self._repeat(task)
            else:
                self._results.put((task.task, value))
            if task.alone:  # its bound is not for others
                self._remove(worker)

    def _handle_death(self, worker: _Worker, stopped: bool) -> None:
        """Retries or fails the task of a worker that died, or that was stopped in the middle of a result."""
        code = None if stopped else worker.child.exit_status()
        task = self._remove(worker)
        if not worker.ready and code is not None and code >= 0:
            raise FaultError(f"a worker process could not start: it ended with exit status {code} (see its output)")
        if task is None:
            return
        if self._retry and not task.alone:
            self._repeat(task)
        else:
            self._results.put((task.task, Failure("its process stopped" if stopped else _death(code))))

    def _repeat(self, task: _Task) -> None:
        task.alone = True
        self._suspects.append(task)

    def _remove(self, worker: _Worker) -> _Task | None:
        """Ends a worker; the result is the task that it had."""
        del self._workers[worker.child.pipe]
        worker.child.end()
        return self._taken_from(worker)

    def _taken_from(self, worker: _Worker) -> _Task | None:
        """The task that a worker has, which it has no more, nor a core for it."""
        task, worker.task = worker.task, None
        if task is not None and self._ticket is not None:
            self._ticket.give()
        return task

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.child.kill()
        for worker in list(self._workers.values()):
            self._remove(worker)


class _Ticket:
    """A pool's requests for cores, one at a time.

    Args:
        cores, rank: of `Cores.ask`.
        wake: called when a core has come, from any thread.
    """

    def __init__(self, cores: Cores, rank: int, wake: Callable[[], None]):
        self._cores, self._rank, self._wake = cores, rank, wake
        self._lock = threading.Lock()
        self._asked = self._here = self._closed = False

    def use(self) -> bool:
        """Whether there is a core for a task, which is taken; if not, `wake` is called when there is one."""
        if not self._asked:
            self._asked = True
            self._cores.ask(1, self._rank, self._come)
        with self._lock:
            if not self._here:
                return False
            self._asked = self._here = False
            return True

    def give(self) -> None:
        """Gives the core of a task back."""
        self._cores.give(1)

    def close(self) -> None:
        """Gives back what is not used, also if it comes later."""
        with self._lock:
            self._closed = True
            unused = self._here
        if unused:
            self._cores.give(1)

    def _come(self) -> None:
        with self._lock:
            self._here = not self._closed
            if self._here:
                self._wake()
                return
        self._cores.give(1)


_TICK_S = 1.0
_START_S = 600.0  # for a worker's imports and `set_up`, from a slow network disk too
_PIPE_S = 30  # for a worker to take a task or to go on with a result
_SHARE = 0.9  # of the available memory, for a task that runs alone


def _do_not_wait_long(pipe: Connection) -> None:
    """Lets reading from and writing to a pipe fail after a while: a worker may be stopped in the middle of a result."""
    if hasattr(socket, "AF_UNIX"):  # where `multiprocessing.Pipe` makes sockets
        with socket.socket(fileno=pipe.fileno()) as own:
            try:
                for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    own.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", _PIPE_S, 0))
            finally:
                own.detach()


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "needs more memory than there is, or was killed (its process died: signal SIGKILL)"
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
    return f"its process died ({how})"
