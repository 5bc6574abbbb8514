"""What is left of commands that are ended from outside: no process, no half file, no traceback."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from process_support import left_over, members, start_until
from test_resume import command
from test_train_cli import SMALL as SMALL_RUN
from test_train_support import write_store


def test_nothing_is_left_of_a_killed_extraction(raw, text_encoder, tmp_path):
    out = tmp_path / "s.h5"
    arguments = [*command(raw, out, text_encoder, "--modalities", "audio")[3:]]
    for how, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)):
        process = start_until(arguments, "finish", r"audio--eGeMAPSv02/\d+-\w+\.npz$", 2, how, tmp_path / "errors")
        assert process.wait(120) == status
        assert not left_over(process.pid), how
        errors = (tmp_path / "errors").read_text()
        assert "Traceback" not in errors and len(errors.splitlines()) <= 1, errors
    assert not list(tmp_path.rglob("*.tmp"))  # SIGTERM removed its own, and what SIGKILL had left before


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_study(tmp_path):
    store = write_store(tmp_path / "s.h5")
    settings = [part for setting in SMALL_RUN for part in ("--set", setting)]
    arguments = ["study", store, "--grid", "model.window=0,1,2,3", "--out", tmp_path / "out", "--jobs", 2, *settings]
    for how, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start_until(arguments, "finish", r"study\.json$", 2, how, tmp_path / "errors")
        assert process.wait(200) == status
        assert not left_over(process.pid), how
        assert how == signal.SIGKILL or len((tmp_path / "errors").read_text().splitlines()) == 1


@pytest.mark.parametrize("how, status", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_a_killed_conversion(how, status, tmp_path):
    """The child reads a pickle that takes long; it does not finish."""
    out = tmp_path / "s.h5"
    many = {f"d{i}": [float(i)] * 10 for i in range(600_000)}
    (tmp_path / "big.pkl").write_bytes(pickle.dumps(many))
    process = subprocess.Popen(
        [sys.executable, "-m", "erc_toolkit", "convert", tmp_path / "big.pkl", "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(str(tmp_path / "big.pkl") in names for names in _open_files(process.pid)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.send_signal(how)
        assert process.wait(10) == status
        assert not left_over(process.pid)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "Traceback" not in errors and len(errors.splitlines()) == (how == signal.SIGTERM)
    assert [p.name for p in tmp_path.iterdir()] == ["big.pkl"]


def _open_files(session: int) -> list[list[str]]:
    """For each child in a session, the files that it has open."""
    found = []
    for process in members(session):
        if process.pid != session:
            with suppress(psutil.Error):
                found.append([file.path for file in process.open_files()])
    return found


_UNLIMITED = """
import resource
for name in ("RLIMIT_AS", "RLIMIT_CPU"):
    delattr(resource, name)
"""


@pytest.mark.parametrize("what", ["works", "memory", "time"])
def test_conversion_is_watched_where_the_system_has_no_limits(what, tmp_path):
    """Real processes, in which Python's module has no such limits, as elsewhere."""
    (tmp_path / "modules").mkdir()
    taken_away = _UNLIMITED
    if what != "works":  # the reader of a hostile file, and smaller limits, so that the test needs no large machine
        does = "taken.append(bytearray(8 << 20))" if what == "memory" else "pass"
        taken_away += (
            "import erc_toolkit.toolkit.exchange.confined as confined\n"
            "confined.MEMORY_SPARE, confined.SECONDS = 600 << 20, 3\n"
            "import erc_toolkit.toolkit.exchange.convert as module\n"
            f"def convert(**_):\n    taken = []\n    while True:\n        {does}\n"
            "module.convert = convert\n"
        )
    (tmp_path / "modules/sitecustomize.py").write_text(taken_away)
    out = tmp_path / "s.h5"
    source = tmp_path / "x.pkl"
    source.write_bytes(pickle.dumps(1))
    done = subprocess.run(
        [sys.executable, "-m", "erc_toolkit", "convert", source, "--out", out],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "modules")},
        timeout=120,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and str(source) in done.stderr, done.stderr
    expected = {"works": "x.pkl", "memory": "takes more than 60", "time": "3 s of processor time"}[what]
    assert expected in done.stderr and "cannot limit" not in done.stderr, done.stderr
    assert not out.exists() and not list(tmp_path.glob(".*"))
