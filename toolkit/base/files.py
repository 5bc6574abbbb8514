"""Files that are either whole under their name or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on a clean exit its bytes are on disk and it takes `path`'s name.

    On an error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` through `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def require_space(path: Path, size: int) -> None:
    """Makes sure that `size` bytes can be written beside `path` now: libraries in C may crash where a disk is full.

    Raises:
        OSError: they cannot.
    """
    probe = path.with_name(f".{path.name}.{os.getpid()}.space")
    try:
        with open(probe, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, size))
    finally:
        probe.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power loss, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
