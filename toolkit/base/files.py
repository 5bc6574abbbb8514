"""Writing files atomically: a file is either complete under its name or absent."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .interrupt import INCOMPLETE
from .lock import INSIDE, release, take

_WRITERS = 100  # of one file at once
_TEMPORARY = re.compile(r"\..+\.(?:[^.]+\.tmp(?:\.lock)?|lock)", re.DOTALL)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; on a clean exit the file is synced to disk and renamed to `path`.

    On an error the temporary file is removed and `path` is left unchanged.
    """
    path = Path(path)
    with temporary_path(path) as temporary:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yields a path next to `path` that nobody else uses, and removes what is there in the end.

    The name is `.NAME.N.tmp` with the first N whose lock, a file of its own because HDF5 locks its files itself, is
    free. What lies under a name with a free lock is what a killed writer left, so the next writer replaces it; a living
    one keeps its name, in whatever container or on whatever machine it lives. Where files cannot be locked the name is
    random.
    """
    temporary, lock, handle = _reserve(Path(path))
    INCOMPLETE.add(str(temporary))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        INCOMPLETE.discard(str(temporary))
        if handle is not None:
            release(lock, handle)


def remove_leftovers(path: Path) -> None:
    """Removes what a killed writer of `path` left, as its next writer would."""
    path = Path(path)
    for number in range(_WRITERS):
        temporary, lock = _names(path, number)
        if not temporary.exists() and not lock.exists():
            return
        with suppress(OSError):
            handle = take(lock)
            temporary.unlink(missing_ok=True)
            release(lock, handle)


def _reserve(path: Path) -> tuple[Path, Path, int | None]:
    for number in range(_WRITERS):
        temporary, lock = _names(path, number)
        try:
            handle = take(lock)
        except BlockingIOError:
            continue
        except PermissionError:
            if not lock.exists():
                raise
            continue  # of another user
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EFBIG):
                raise
            break  # no locks here
        try:
            temporary.unlink(missing_ok=True)
        except BaseException:
            release(lock, handle)
            raise
        return temporary, lock, handle
    temporary, lock = _names(path, secrets.token_hex(8))
    return temporary, lock, None


def _names(path: Path, number: int | str) -> tuple[Path, Path]:
    temporary = path.with_name(f".{path.name}.{number}.tmp")
    return temporary, temporary.with_name(f"{temporary.name}.lock")


def is_temporary(name: str) -> bool:
    """Whether a file name is one of `temporary_path` or a lock's: such files are what a killed process left."""
    return name == INSIDE or _TEMPORARY.fullmatch(name) is not None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` through `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def require_space(path: Path, size: int) -> None:
    """Checks that `size` bytes can currently be written next to `path`: C libraries may crash when a disk is full.

    Raises:
        OSError: there is too little space.
    """
    with temporary_path(path) as probe, open(probe, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(1, size))


def append_text(path: Path, text: str) -> None:
    """Adds text in UTF-8 to the end of a file, and waits until it is on the disk."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power failure, where the system supports it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
