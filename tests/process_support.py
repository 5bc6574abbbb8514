"""Processes of a command that is ended at a fixed point, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from kill_support import CHILD

LIMIT_S = 2.0  # after which nothing of an ended command may be left


def start_until(
    arguments: Sequence[object], event: str, pattern: str, count: int, how: int, errors: Path
) -> subprocess.Popen:
    """Starts `erc-toolkit ARGUMENTS` in a session of its own; it sends itself a signal at a point of `run_until`."""
    with open(errors, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, event, pattern, str(count), str(int(how)), "alone", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def members(session: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def left_over(session: int, limit: float = LIMIT_S) -> list[str]:
    """Waits until a session has no process, and returns the command lines of those that are there after the limit."""
    deadline = time.monotonic() + limit
    while (left := members(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    names = [f"{process.pid} {' '.join(process.cmdline())[:200]}" for process in left if process.is_running()]
    for process in left:
        process.kill()
    return names
