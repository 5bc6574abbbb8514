"""Disturbs a command at a fixed point of its progress; imported by every interpreter that the command starts.

A point is an event, in any of its processes: a file below CHAOS_ROOT is opened for writing, is synced, or is renamed
to its final name. Each is a line in the file CHAOS_LOG, so that its number is known to all processes. At number
CHAOS_POINT, before it happens, CHAOS_KIND is done.
"""

import errno
import fcntl
import os
import signal
import sys

_ROOT, _LOG, _KIND = (os.environ.get(f"CHAOS_{name}", "") for name in ("ROOT", "LOG", "KIND"))
_POINT = int(os.environ.get("CHAOS_POINT", "0"))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _happens(what: str, path: object) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    name = os.path.abspath(os.fsdecode(path))
    if not name.startswith(_ROOT + os.sep):
        return
    log = os.open(_LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(log, fcntl.LOCK_EX)
        number = os.pread(log, 1 << 24, 0).count(b"\n") + 1
        os.write(log, f"{what} {os.path.relpath(name, _ROOT)}\n".encode())
    finally:
        os.close(log)
    if _KIND == "fill" and number >= _POINT and what != "rename":  # and the disk stays full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    if number == _POINT:
        if _KIND == "kill":
            os.kill(os.getsid(0), signal.SIGKILL)
            signal.pause()  # whoever is not the first process and does not die with it
        elif _KIND == "stop":
            os.kill(os.getsid(0), signal.SIGSTOP)


def _hook(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        _happens("open", arguments[0])
    elif event == "os.rename":
        _happens("rename", arguments[1])


def _synced(handle: int) -> None:
    _happens("sync", os.readlink(f"/proc/self/fd/{handle}"))
    _sync(handle)


if _ROOT:
    _sync, os.fsync = os.fsync, _synced
    sys.addaudithook(_hook)
