"""Processes that end with the one that started them, however it ends and whatever they are doing.

Each child watches a pipe into which nothing is ever written and whose other end only its parent has. Where the kernel
can report the end of a pipe by a signal of choice (Linux), it sends SIGKILL, which also ends a process that is stopped,
hangs in C code or is still importing; elsewhere a thread of the child waits for it. A parent-death signal
(PR_SET_PDEATHSIG) would follow the thread that started a child, and here the parent of the workers is the fork server.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import FaultError
from ..import_path import isolated_start

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SPAWN = "spawn"  # a new interpreter
# One server imports the libraries once (`preload`) and forks the workers from itself, free of this process's threads.
FORK = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else SPAWN
EXIT_S = 10.0  # how long a process may take to exit after it has closed its pipe or was killed
_KERNEL = hasattr(fcntl, "F_SETSIG")
_GUARD = f"{__package__}.fork_server"


class Child:
    """A process that runs `target(pipe, *arguments)` and does not outlive this one.

    It imports neither the running script nor anything from its directory or the working directory (`isolated_start`),
    and ignores SIGINT, which a terminal sends to all processes of a command: this one decides.

    Args:
        method: SPAWN or FORK.
        target: a function that can be imported; the process ends when it returns.
        arguments: what can be pickled.

    Attributes:
        pipe: this process's end of a pipe in both directions.

    Raises:
        FaultError: it could not be started.
    """

    def __init__(self, method: str, target: Callable[..., None], *arguments: object) -> None:
        context: Any = multiprocessing.get_context(method)
        if method != SPAWN and not _Server.modules:
            preload()
        ours, theirs = context.Pipe()
        watched, self._lifeline = context.Pipe(duplex=False)
        self.pipe: Connection = ours
        self._process = context.Process(target=_live, args=(watched, target, theirs, *arguments), daemon=True)
        try:
            with isolated_start():
                self._process.start()
        except OSError as error:
            raise FaultError(f"a worker process could not start: {error}") from None
        finally:
            theirs.close()
            watched.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_status(self) -> int | None:
        """Waits a while for it to exit; negative for a signal, None if it has not."""
        self._process.join(EXIT_S)
        return self._process.exitcode

    def kill(self) -> None:
        """Sends SIGKILL, without waiting."""
        self._process.kill()

    def end(self) -> None:
        """Kills it if it has not exited."""
        self.kill()
        self._process.join(EXIT_S)  # not for ever: a process that waits for a dead network disk does not even die
        self.pipe.close()
        self._lifeline.close()


def preload(*modules: str) -> None:
    """Starts importing modules for the workers of a later `run_tasks`, in the background."""
    if FORK != SPAWN:
        _Server.modules = [_GUARD, *modules]
        multiprocessing.get_context(FORK).set_forkserver_preload(_Server.modules)
        with isolated_start():
            forkserver.ensure_running()


def run_program(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Runs a program without input, captures its output, and where the kernel can, ends it when this process ends."""
    if not _KERNEL:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    watched, lifeline = os.pipe()
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[watched]
        ) as process:
            try:
                kill_at_end_of(watched, process.pid)
                output, errors = process.communicate()
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)
    finally:
        os.close(watched)
        os.close(lifeline)


def kill_at_end_of(pipe: int, pid: int) -> None:
    """Makes the kernel send SIGKILL to a process when nobody has the other end of a pipe any more, if it can."""
    if fcntl is not None and _KERNEL:
        fcntl.fcntl(pipe, fcntl.F_SETOWN, pid)
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([pipe], [], [], 0)[0]:  # it ended before
            os.kill(pid, signal.SIGKILL)


class _Server:
    modules: list[str] = []  # what the fork server imports; the first one makes it end with this process


def _live(watched: Connection, target: Callable[..., None], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "O_ASYNC"):
        kill_at_end_of(watched.fileno(), os.getpid())
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    target(*arguments)


def _end_with(watched: Connection) -> None:
    wait([watched])
    os._exit(1)
