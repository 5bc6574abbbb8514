"""Converting in a separate process with limits on memory and time.

A pickle of a kilobyte can request a terabyte, or the hash of a nested tuple that takes years; neither can be detected
by checking the names it uses. Linux limits the process; elsewhere its parent watches it and kills it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from ..base.errors import FaultError, UserError
from ..base.files import remove_leftovers
from ..base.processes import SPAWN, Child
from ..base.processes.memory import bound
from ..base.processes.worker import reason

# Content takes at most this many times the file's size in memory: a list of one-byte numbers at 8 bytes each.
MEMORY_FACTOR, MEMORY_SPARE = 20, 1 << 30
SECONDS, SECONDS_A_MEGABYTE = 120, 2
_PATIENCE = 10  # times the processor time, on the clock: for a slow disk, or a machine that has other work
_LOOK_S = 0.02  # between two looks at a child that the system does not limit
_XCPU, _KILLED = getattr(signal, "SIGXCPU", 0), getattr(signal, "SIGKILL", 0)


def convert_confined(
    files: Sequence[str],
    out: Path,
    *,
    manifest: Path | None = None,
    corpus: str | None = None,
    labels: Sequence[str] = (),
    keep_zeros: bool = False,
    command: str = "",
) -> dict[str, object]:
    """Calls `convert` (toolkit/exchange/convert.py) in a child process with limited memory and processor time.

    Raises:
        UserError: as in `convert`, or a file needs more memory or time than its size justifies.
    """
    paths = {path for f in files for path in (Path(f), Path(f.partition("=")[2] or f))}
    size = sum(_size(path) for path in paths)
    memory, seconds = _most(MEMORY_SPARE + MEMORY_FACTOR * size), SECONDS + SECONDS_A_MEGABYTE * (size >> 20)
    job = {
        "files": list(files),
        "out": str(out),
        "manifest": None if manifest is None else str(manifest),
        "corpus": corpus,
        "labels": list(labels),
        "keep_zeros": keep_zeros,
        "command": command,
        "memory": memory,
        "seconds": seconds,
    }
    child = Child(SPAWN, _main, json.dumps(job))
    try:
        answer, code = _wait(child, memory, seconds)
    finally:
        child.end()
        remove_leftovers(out)
    names = ", ".join(files)
    if "error" in answer:
        raise UserError(str(answer["error"]))
    if "fault" in answer:
        raise FaultError(f"{names}: the converting process failed: {answer['fault']}")
    if "over" in answer or code in (-_XCPU, -_KILLED):
        what = answer.get("over") or f"{seconds} s of processor time"
        raise UserError(f"{names}: takes more than {what}, far more than its size justifies; refused")
    if code is not None and code < 0:
        raise UserError(f"{names}: damaged: reading it ends with {signal.Signals(-code).name}; refused")
    if code:
        raise FaultError(f"{names}: the converting process failed: it ended with exit status {code}")
    return answer


def _wait(child: Child, memory: int, seconds: int) -> tuple[dict[str, object], int | None]:
    """The child's answer, or {"over": the limit that it exceeded}, or {} and its exit status.

    Where the system limits the child itself, only its time on the clock is kept here, in case it is stopped.
    """
    began, limited = time.monotonic(), True
    while True:
        if child.pipe.poll(1 if limited else _LOOK_S):
            try:
                answer = json.loads(child.pipe.recv_bytes())
            except (EOFError, OSError):  # it died
                return {}, child.exit_status()
            if "limited" not in answer:
                return answer, 0
            limited = answer["limited"]
        used = None if limited else _used(child.pid)
        if used is not None and used[0] > memory:
            return {"over": f"{memory >> 20} MB"}, None
        if used is not None and used[1] > seconds:
            return {"over": f"{seconds} s of processor time"}, None
        if time.monotonic() - began > _PATIENCE * seconds:
            return {"over": f"{_PATIENCE * seconds} s"}, None


def _used(pid: int) -> tuple[int, float] | None:
    """Bytes of memory and seconds of processor time of a process, None if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:
        return None


def _size(path: Path) -> int:
    """Bytes of a file, or of the files below a folder; 0 if there is none."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # a link to nowhere
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _most(memory: int) -> int:
    """That much memory, or most of the machine's if it has less."""
    import psutil

    return min(memory, psutil.virtual_memory().total * 4 // 5)


def _limit(memory: int, seconds: int) -> bool:
    """Limits this process to `memory` bytes beyond what it uses now and `seconds` of processor time.

    Returns:
        Whether the system can do that; otherwise the parent has to watch.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    except (ImportError, AttributeError, OSError, ValueError):
        return False
    return bound(memory)


def _main(pipe: Connection, text: str) -> None:
    """The child: converts and sends the answer as JSON, because this process handles files that nobody trusts."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # every thread reserves memory
    with open(os.devnull, "w", encoding="ascii") as nowhere:  # libraries' messages; the answer says what happened
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    job = json.loads(text)
    memory, seconds = job.pop("memory"), job.pop("seconds")
    answer: dict[str, object]
    try:
        from ..base.reading.file_kinds import file_kind
        from .convert import convert  # before the limit, which is for the file alone
        from .pickles.opening import COMPRESSED

        pipe.send_bytes(json.dumps({"limited": _limit(memory, seconds)}).encode())
        out, manifest = Path(job.pop("out")), job.pop("manifest")
        answer = convert(out=out, manifest=None if manifest is None else Path(manifest), **job)
    except UserError as error:
        answer = {"error": error.message}
    except MemoryError:
        names = ", ".join(job["files"])
        packed = any(file_kind(f).name in COMPRESSED for f in job["files"])
        hint = "decompress it first" if packed else "refused"
        answer = {"error": f"{names}: needs more than {memory >> 20} MB, far more than its size justifies; {hint}"}
    except RecursionError:
        answer = {"error": f"{', '.join(job['files'])}: nested too deeply; refused"}
    except Exception as error:
        answer = {"fault": reason(error)}
    pipe.send_bytes(json.dumps(answer).encode())
    os._exit(0)  # freeing what a hostile file built, nested a million levels deep, could crash
