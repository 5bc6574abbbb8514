"""A few inputs of every fuzzer, and the runner itself; `python tests/fuzz.py --inputs 1000000` runs more."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import pytest

from erc_toolkit.toolkit.base.errors import UserError

FEW, MANY = 200, 2000
ALL = sorted(fuzz.parsers())


@pytest.mark.parametrize("name", ALL)
def test_no_input_fails(name):
    # Not the time: tests do not depend on the load of the machine.
    outcome = fuzz.run_inputs(name, 0, FEW, limit_s=60)
    assert outcome.inputs == FEW and outcome.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_no_input_fails_of_more(name):
    assert fuzz.run_inputs(name, FEW, MANY, limit_s=60).failures == []


def test_the_runner_reports_what_fails(monkeypatch, capsys):
    def parse(rng: random.Random) -> None:
        kind = rng.randrange(4)
        if kind == 0:
            raise UserError("the right answer")
        if kind == 1:
            raise KeyError("x")
        if kind == 2:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                pass

    monkeypatch.setattr(fuzz, "parsers", lambda: {"mine": parse})
    outcome = fuzz.run_inputs("mine", 0, 20, limit_s=0.01)
    kinds = [random.Random(f"mine:{i}").randrange(4) for i in range(20)]
    assert [number for number, _ in outcome.failures] == [i for i, kind in enumerate(kinds) if kind in (1, 2)]
    assert {error for _, error in outcome.failures} == {"KeyError: 'x'", "more than 0.01 s"}
    assert kinds[outcome.slowest] == 2
    bad = kinds.index(1)
    assert fuzz.main(["--only", f"mine:{bad}"]) == 1 and "KeyError" in capsys.readouterr().err
    assert fuzz.main(["mine", "--inputs", str(bad + 1), "--seed", "0"]) == (1 if bad < 20 else 0)
    assert f"--only mine:{bad}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_line_in_processes():
    script = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(script), "--inputs", "1500", "--jobs", "2", "--seed", "1", "manifest_lines"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "manifest_lines: 1500 inputs, 0 failures" in done.stdout, done.stdout + done.stderr
