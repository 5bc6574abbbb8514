"""SIGINT and SIGTERM at any moment of a command: one line, the status of the signal, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_support import left_over
from test_resume import command
from test_train_cli import SMALL
from test_train_support import write_store

# Sends itself a signal at the event with number `first`: an import, or a file that is opened or gets its name.
_CHILD = """
import os, signal, sys
first, number, again = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "again"
sys.argv[:4] = ["erc-toolkit"]
count = 0
def watch(name, arguments):
    global count
    if name in ("import", "os.rename", "open"):
        count += 1
        if count == first or (again and count == first + 1):
            os.kill(os.getpid(), number)
from erc_toolkit.toolkit.commands import start
from erc_toolkit.toolkit.base.interrupt import take_over
def began():
    take_over()
    sys.addaudithook(watch)
start.interrupt.take_over = began
try:
    start.main()
finally:
    print("events", count, flush=True)
"""


def interrupted(arguments: list, first: int, number: int = signal.SIGINT, again: bool = False):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _CHILD,
            str(first),
            str(int(number)),
            "again" if again else "once",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output, errors = process.communicate(timeout=200)
    assert not left_over(process.pid)
    return process.returncode, output, errors


def events(arguments: list) -> int:
    """How many moments a whole run of a command has."""
    status, output, errors = interrupted(arguments, -1)
    assert status == 0, errors
    return int(output.rsplit("events", 1)[1])


def check(arguments: list, moments: list[int], number: int = signal.SIGINT, again: bool = False) -> None:
    for moment in moments:
        status, _, errors = interrupted(arguments, moment, number, again)
        assert status == 128 + number, (moment, status, errors)
        assert len(errors.splitlines()) == 1 and errors.startswith("Error: "), (moment, errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_moment_of_a_short_command(number):
    count = events(["models"])
    check(["models"], [1, 2, count // 2], number)


def test_twice_in_a_row(tmp_path):
    store = write_store(tmp_path / "s.h5")
    check(["info", store], [40, 400], again=True)


@pytest.mark.slow
def test_any_moment_of_a_training(tmp_path):
    store = write_store(tmp_path / "s.h5")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    arguments = ["train", store, "--out", tmp_path / "run", "--device", "cpu", "--resume", *settings]
    count = events(["train", store, "--out", tmp_path / "whole", "--device", "cpu", *settings])
    check(arguments, [count * k // 6 for k in range(1, 6)])
    assert not hidden(tmp_path / "run")
    done = subprocess.run([sys.executable, "-m", "erc_toolkit", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == resumed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_moment_of_an_extraction(number, raw, text_encoder, tmp_path):
    out = tmp_path / "s.h5"
    arguments = command(raw, out, text_encoder, "--modalities", "text,audio")[3:]
    count = events(command(raw, tmp_path / "whole.h5", text_encoder, "--modalities", "text,audio")[3:])
    for moment in [count * k // 5 for k in range(1, 5)]:
        status, _, errors = interrupted(arguments, moment, number)
        assert "Traceback" not in errors and len(errors.splitlines()) <= 1, (moment, errors)
        assert status in (0, 128 + number), (moment, status, errors)
        if status == 0:  # the whole store was written
            assert out.exists()
            break
    assert not hidden(tmp_path)


def hidden(folder: Path) -> list[str]:
    """Temporary files and locks, which must not be left."""
    return [path.name for path in folder.rglob(".*")]
