"""One writer for an output: a lock beside it that says who holds it and that ends with its holder.

The lock is the kernel's (`flock`), not the file's existence: the kernel releases it when the holder ends, however it
ends, and knows it apart from a process with the same number in another container; NFS passes it to its server. Where a
file system has no such locks, and on Windows, the holder touches the file every few seconds instead.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from .disk import REMEDIES
from .errors import UserError
from .interrupt import INCOMPLETE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

INSIDE = ".lock"  # the lock of a folder whose parent cannot be written
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
BEAT_S, DEAD_S = 15.0, 60.0  # how often a holder without flock touches its file, and after how long it counts as dead


@contextmanager
def locked(out: Path, what: str, *, parents: bool = False) -> Iterator[None]:
    """Holds an output, a file or a folder, for this process; nested and repeated use within a process is refused too.

    The lock lies beside the output, as `.NAME.lock`, and is removed in the end. That of a process that was killed stays
    and is taken over.

    Args:
        out: the output, which need not exist.
        what: the command that writes it, for those who come second.
        parents: create the folders above it.

    Raises:
        UserError: somebody holds it (the message says who, where and since when), or the lock cannot be written.
    """
    real = Path(os.path.realpath(out))
    path = real.with_name(f".{real.name}.lock")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        if real.is_dir() and not os.access(path.parent, os.W_OK):
            path = real / INSIDE
        held = _hold(path, what)
    except BlockingIOError:
        raise UserError(
            f"{out}: {_holder(path)}; wait until it has ended, or choose another name for the output"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{out}: the folder {real.parent} does not exist; create it first") from None
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose another place")
        raise UserError(f"{out}: its lock {path.name} cannot be written: {error.strerror or error}; {remedy}") from None
    with held:
        yield


def take(path: Path) -> int:
    """Locks a file, which is created if needed, until `release` or the end of this process.

    Returns:
        The open file, which processes started later do not inherit.

    Raises:
        BlockingIOError: another process or thread holds it.
        OSError: the file cannot be opened, or the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no file locks")
    while True:
        try:
            handle, created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                handle, created = os.open(path, os.O_RDWR), False
            except FileNotFoundError:  # removed in between
                continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, handle):
                INCOMPLETE.add(str(path))
                return handle
        except BaseException as error:
            os.close(handle)
            if created and not isinstance(error, BlockingIOError):
                os.unlink(path)
            raise
        os.close(handle)  # whoever held it removed the file between opening and locking


def release(path: Path, handle: int) -> None:
    """Removes a lock's file, then gives the lock up: who gets it next sees that the file is another one."""
    with suppress(OSError):
        if _is(path, handle):
            os.unlink(path)
    INCOMPLETE.discard(str(path))
    os.close(handle)


def _hold(path: Path, what: str) -> AbstractContextManager[None]:
    try:
        handle = take(path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _Heartbeat(path, what)
    with suppress(OSError):  # a full disk: the lock holds without a description
        os.ftruncate(handle, 0)
        os.write(handle, _description(what))
    return _released(path, handle)


@contextmanager
def _released(path: Path, handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        release(path, handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _description(what: str) -> bytes:
    own = {
        "what": what,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "token": secrets.token_hex(8),
    }
    return json.dumps(own).encode()


def _holder(path: Path) -> str:
    for _ in range(20):
        with suppress(OSError, ValueError, KeyError, TypeError):  # just created, and not described yet
            by = json.loads(path.read_bytes()[:4096])
            return f"`{by['what']}` has been writing it since {by['since']}: process {by['pid']} on {by['host']}"
        time.sleep(0.05)
    return "another process is writing it"


class _Heartbeat(AbstractContextManager[None]):
    """A lock where the file system has none: a file that its holder touches as long as it lives."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._own = path, _description(what)
        self._ended = threading.Event()
        self._remove_dead()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise BlockingIOError(errno.EAGAIN, "held") from None
        with os.fdopen(handle, "wb") as file:
            file.write(self._own)
        INCOMPLETE.add(str(path))
        threading.Thread(target=self._beat, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            if self._path.read_bytes() == self._own:
                self._path.unlink()
        INCOMPLETE.discard(str(self._path))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self._path)

    def _remove_dead(self) -> None:
        """Removes a lock that nobody has touched for long, by the clock of the file system. Renaming decides between
        two that try; one that catches a new holder's lock puts it back."""
        aside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        try:
            seen = self._path.read_bytes()
            aside.touch()
            age = aside.stat().st_mtime - self._path.stat().st_mtime
            if age < DEAD_S:
                return
            os.replace(self._path, aside)
            if aside.read_bytes() != seen:
                os.link(aside, self._path)
        except (FileNotFoundError, FileExistsError):
            return
        finally:
            aside.unlink(missing_ok=True)
