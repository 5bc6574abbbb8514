"""Converting in a process of its own, with a limit on memory and on time.

A pickle of a kilobyte can ask for a terabyte, or for the hash of a tuple nested so that it takes years; neither can be
told from its names. The limits hold on Linux; where the system has none, that is said.
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

# A file's content takes this many times its size in memory at most: a list of one-byte numbers, 8 bytes each, converted.
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
    """`erc_toolkit.toolkit.exchange.convert.convert` in a child process that may use so much memory and processor time and no more.

    Raises:
        UserError: as there; or a file needs more memory or time than one of its size should.
    """
    size = sum(
        path.stat().st_size for f in files for path in (Path(f), Path(f.partition("=")[2] or f)) if path.is_file()
    )
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
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads reserve memory each
    child = subprocess.run(
        [sys.executable, "-P", "-m", "erc_toolkit.toolkit.exchange.confined"],  # -P: not what lies where the user works
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
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
            f"{names}: takes more than {seconds} s of processor time, far more than its size explains; refused"
        )
    if child.returncode < 0:
        raise UserError(
            f"{names}: damaged so that reading it ends in {signal.Signals(-child.returncode).name}; refused"
        )
    raise FaultError(
        f"{names}: the converting process failed: {(child.stderr.strip().splitlines() or ['no message'])[-1]}"
    )


def _limit(memory: int, seconds: int) -> None:
    """Limits this process to so much memory beside what it has now, and so much processor time."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            mine = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        memory = min(memory, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5)
        resource.setrlimit(resource.RLIMIT_AS, (mine + memory, mine + memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"this system cannot limit a process's memory ({error}); convert on Linux") from None


def _main() -> None:
    job = json.load(sys.stdin)
    memory, seconds = job.pop("memory"), job.pop("seconds")
    from .convert import convert  # before the limit: what is imported is not the file's

    try:
        _limit(memory, seconds)
        out, manifest = Path(job.pop("out")), job.pop("manifest")
        answer = convert(out=out, manifest=None if manifest is None else Path(manifest), **job)
    except UserError as error:
        answer = {"error": error.message}
    except MemoryError:
        names = ", ".join(job["files"])
        answer = {"error": f"{names}: asks for more than {memory >> 20} MB, far more than its size explains; refused"}
    except RecursionError:
        answer = {"error": f"{', '.join(job['files'])}: nested too deep; refused"}
    print(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace").decode(), flush=True)
    os._exit(0)  # taking apart what a hostile file built, nested a million deep, is not worth the risk


if __name__ == "__main__":
    _main()
