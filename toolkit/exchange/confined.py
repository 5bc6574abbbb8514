"""Converting in a separate process with limits on memory and time.

A pickle of a kilobyte can request a terabyte, or the hash of a nested tuple that takes years; neither can be detected
by checking the names it uses. The limits need Linux; elsewhere the conversion is refused with an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import FaultError, UserError
from ..base.import_path import import_path

# Content takes at most this many times the file's size in memory: a list of one-byte numbers at 8 bytes each.
MEMORY_FACTOR, MEMORY_SPARE = 20, 1 << 30
SECONDS, SECONDS_A_MEGABYTE = 120, 2


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
    memory, seconds = MEMORY_SPARE + MEMORY_FACTOR * size, SECONDS + SECONDS_A_MEGABYTE * (size >> 20)
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
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # every thread reserves memory
    child = subprocess.run(
        [sys.executable, "-P", "-m", "erc_toolkit.toolkit.exchange.confined"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(import_path())},
        check=False,
    )
    names = ", ".join(files)
    if child.returncode == 0:
        answer = json.loads(child.stdout.splitlines()[-1])
        if "error" in answer:
            raise UserError(answer["error"])
        return answer
    for left in out.parent.glob(f".{out.name}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise UserError(
            f"{names}: takes more than {seconds} s of processor time, far more than its size justifies; refused"
        )
    if child.returncode < 0:
        raise UserError(f"{names}: damaged: reading it ends with {signal.Signals(-child.returncode).name}; refused")
    raise FaultError(
        f"{names}: the converting process failed: {(child.stderr.strip().splitlines() or ['no message'])[-1]}"
    )


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


def _limit(memory: int, seconds: int) -> None:
    """Limits this process to `memory` bytes beyond what it uses now and `seconds` of processor time."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        memory = min(memory, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5)
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"this system cannot limit a process's memory ({error}); convert on Linux") from None


def _main() -> None:
    job = json.load(sys.stdin)
    memory, seconds = job.pop("memory"), job.pop("seconds")
    from ..base.reading.file_kinds import file_kind
    from .convert import convert  # before the limit, which is for the file alone
    from .pickles.opening import COMPRESSED

    try:
        _limit(memory, seconds)
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
    print(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace").decode(), flush=True)
    os._exit(0)  # freeing what a hostile file built, nested a million levels deep, could crash


if __name__ == "__main__":
    _main()
