"""Whether HDF5 can read a file at all: a damaged one may hang in its C code, or end the process.

A file that this process has not written is first read in a child process: a fork where a fork is safe, as it only calls
HDF5 and then ends, and elsewhere a new interpreter. Files are remembered by their identity, so that each is read once.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from ..base.errors import UserError
from . import touch

LIMIT = 30.0  # seconds for a step such as reading an attribute or the index of a dataset
_WAIT = 0.5
_DONE = b"."
_known: set[tuple[int, ...]] = set()


def trust(path: Path) -> None:
    """Remembers that this process wrote a file."""
    _known.add(_identity(path))


def check_structure(path: Path) -> None:
    """Checks that reading a file's structure, attributes and texts neither hangs nor ends the process.

    Raises:
        UserError: it does, or there is no such file.
    """
    try:
        identity = _identity(path)
        if identity in _known:
            return
        problem = _in_a_fork(path) if sys.platform == "linux" else _in_an_interpreter(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be checked ({error.strerror or error})") from None
    if problem:
        raise UserError(f"{path}: damaged feature store ({problem}); extract it again")
    _known.add(identity)


def _identity(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _in_a_fork(path: Path) -> str:
    """What is wrong, or an empty string."""
    read, write = os.pipe()
    status, hung, last = 0, False, b""
    # An interruption between the fork and the `try` would leave the child behind.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with warnings.catch_warnings():
        # Python warns of forks of processes with threads, since locks may be held: the child takes none but h5py's,
        # which h5py holds during a fork, and the C library's, which does the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _child(path, write)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        while last != _DONE:
            # In short waits: a signal that comes just before one begins does not end it.
            if hung := not any(poll.poll(1000 * _WAIT) for _ in range(math.ceil(LIMIT / _WAIT))):
                break
            if not (sent := os.read(read, 1 << 12)):
                break
            last = sent[-1:]
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        try:
            _, status = os.waitpid(child, 0)
        except ChildProcessError:  # the process ignores SIGCHLD, so the kernel has already forgotten the child
            pass
    if last == _DONE:
        return ""
    return _hung() if hung else _died(-status if status < 128 else 0)


def _child(path: Path, write: int) -> None:
    """Reads the file and ends. It must not return: everything in it is a copy of another process's."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends it if it hangs and its parent is gone
        faulthandler.disable()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # nobody waits for the end of what it inherited
        os.dup2(nowhere, 2)  # the C library reports there what ends the process

        def progress() -> None:
            signal.setitimer(signal.ITIMER_REAL, 2 * LIMIT)
            os.write(write, b"+")

        progress()
        touch.touch(str(path), progress)
        os.write(write, _DONE)
    finally:
        os._exit(0)


def _in_an_interpreter(path: Path) -> str:
    """What is wrong, or an empty string."""
    command = [sys.executable, "-P", touch.__file__, str(path)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=4 * LIMIT
        )
    except subprocess.TimeoutExpired:
        return _hung()
    return "" if ended.stdout.strip() == b"done" else _died(ended.returncode)


def _hung() -> str:
    return "HDF5 does not come back from reading it"


def _died(code: int) -> str:
    return "HDF5 crashes on reading it" + (f": {signal.Signals(-code).name}" if -code in set(signal.Signals) else "")
