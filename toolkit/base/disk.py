"""Faults of the place that is written to - a full disk, a read-only folder, a limit - as one line with the remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ToolkitError, UserError

_ROOM = "free some space (and inodes: df -h, df -i) or choose another place"
_ACCESS = "change its permissions or choose another place"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: f"your quota is used up; {_ROOM}",
    errno.EFBIG: "the file system, or the limit of this process (ulimit -f), allows no larger file; raise it or choose "
    "another place",
    errno.EROFS: "its file system is read-only; choose another place",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EIO: "the device reports an error; check it, or choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "a folder is where a file must be; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle; choose another place",
    errno.EMFILE: "this process may open no more files; raise ulimit -n",
    errno.ENFILE: "the system may open no more files; close other programs",
    errno.ESTALE: "the network file system has lost it; mount it again",
}
# The number in messages of libraries that raise errors of their own: safetensors, pyarrow, HDF5; and of ffmpeg.
_NUMBER = re.compile(r"os error (\d+)|\berrno (\d+)|\berrno = (\d+)|\berror code: -(\d+)", re.IGNORECASE)
_TEMPORARY = re.compile(r"\.(.+)\.[^.]+\.(?:tmp|tmp\.lock|space)", re.DOTALL)  # the names of `files` and `outputs`


def disk_fault(error: BaseException, place: Path | None = None) -> UserError | None:
    """The line for an error that the machine is at fault for; None for any other error.

    Args:
        error: any exception, also of a library that wraps the system's error.
        place: what was being written, for errors that do not say.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[found.lastindex or 0])
    if number not in REMEDIES:
        return None
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(named, str | os.PathLike):
        place = _final(Path(named))
    where = "the disk" if place is None else place
    return UserError(f"{where}: {os.strerror(number)}; {REMEDIES[number]}")


def error_in(text: str, place: Path) -> OSError | None:
    """The system's error that another program reports in words: "Error writing trailer: No space left on device".

    Args:
        text: what the program printed.
        place: what it was writing.
    """
    number = next((number for number in REMEDIES if os.strerror(number) in text), None)
    return None if number is None else OSError(number, os.strerror(number), str(place))


@contextmanager
def disk_faults(place: Path | None = None) -> Iterator[None]:
    """A context in which an error of the disk is a `UserError`; `place` as for `disk_fault`."""
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:  # libraries wrap the system's error in classes of their own
        if (fault := disk_fault(error, place)) is None:
            raise
        raise fault from None


def _final(path: Path) -> Path:
    """What the user knows of a path: without temporary names, and without what is below a temporary folder."""
    for i, part in enumerate(path.parts):
        if found := _TEMPORARY.fullmatch(part):
            return Path(*path.parts[:i], found[1])
    return path
