"""`benchmarks/gpu.py` on the CPU: every step runs, and a step that crashes or hangs costs only its own results."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erc_toolkit.train.models.registry import MODELS

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STEPS = ["agreement", "epochs", "encoders", "long_dialogue", "resume", "extraction", "compiled"]
pytestmark = pytest.mark.slow


def run(script: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, script, "--out", out, *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent, check=False)


def report_in(out: Path) -> dict:
    return json.loads((out / "gpu.json").read_text())


def measured(report: dict, step: str, **key) -> list[dict]:
    rows = [row for row in report["steps"][step]["results"] if key.items() <= row["key"].items()]
    return [row["values"] for row in rows if row["status"] == "done"]


def finite(value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "results"
    done = run(BENCHMARKS / "gpu.py", out, "--device", "cpu", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_step_runs(finished):
    report = report_in(finished)
    assert list(report["steps"]) == STEPS
    for name, step in report["steps"].items():
        assert step["status"] == ("skipped" if name == "compiled" else "done"), (name, step["reason"])
        assert step["results"]
        for row in step["results"]:
            assert row["status"] == "done" or (row["status"] == "skipped" and row["reason"]), row
            assert all(map(finite, row.get("values", {}).values())), row


def test_everything_is_measured(finished):
    report = report_in(finished)
    agreement = measured(report, "agreement")
    assert len(agreement) == 2 * len(MODELS) and all(row["agrees"] for row in agreement)
    for corpus in ("iemocap", "meld"):
        (naive,) = measured(report, "epochs", corpus=corpus, how="naive, padded", on="cpu")
        (ours,) = measured(report, "epochs", corpus=corpus, how="eager, float32", on="cpu")
        assert ours["naive CPU / this"] == pytest.approx(naive["s"] / ours["s"]) and 0 < ours["share in products"] < 1
    assert all(row["items a second"] > 0 for row in measured(report, "encoders"))
    assert len(measured(report, "encoders", arithmetic="float32")) == 5
    assert len(measured(report, "long_dialogue")) == 2
    (resumed,) = measured(report, "resume", execution="eager")
    assert resumed["equal in every bit"] and resumed["weights"] == 0
    assert measured(report, "extraction", modalities="all")[0]["clips"] > 0


def test_the_table_is_for_people(finished):
    text = (finished / "gpu.md").read_text()
    environment = report_in(finished)["environment"]
    assert environment["device name"] in text.splitlines()[0] and environment["date"] in text.splitlines()[0]
    assert all(f"| {step} |" in text for step in STEPS) and "not measured" in text
    assert not list(finished.glob("*.part"))


CRASH = """
import os, signal
def run(job):
    job.measure("T", lambda: {"s": 1.0}, what="before")
    job.measure("T", lambda: 1 / 0, what="raises")
    job.measure("T", lambda: os.kill(os.getpid(), signal.SIGSEGV), what="dies")
    job.measure("T", lambda: {"s": 2.0}, what="after")
"""
# Ignores its own clock, and leaves a child that would outlive it.
HANG = """
import signal, subprocess, sys, time
def run(job):
    job.measure("T", lambda: {"s": 1.0}, what="before")
    signal.setitimer = lambda *_: None
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (job._file.parent / "pid").write_text(str(child.pid))
    job.measure("T", lambda: time.sleep(600), what="hangs")
"""
BROKEN = "import a_package_that_is_missing\n"


def test_a_step_that_fails_costs_only_its_own_results(tmp_path):
    copy = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, copy)
    for step, code in {"agreement": CRASH, "epochs": HANG, "encoders": BROKEN}.items():
        (copy / "gpu_steps" / f"{step}.py").write_text(code)
    out = tmp_path / "results"
    chosen = ["--only", "agreement", "epochs", "encoders", "long_dialogue", "--limit", "epochs=15"]
    done = run(copy / "gpu.py", out, "--device", "cpu", "--small", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    steps, text = report_in(out)["steps"], (out / "gpu.md").read_text()
    crashed = {row["key"]["what"]: row for row in steps["agreement"]["results"]}
    assert {what: row["status"] for what, row in crashed.items()} == {
        "before": "done",
        "raises": "failed",
        "dies": "failed",
        "after": "done",
    }
    assert "ZeroDivisionError" in crashed["raises"]["reason"] and steps["agreement"]["status"] == "done"
    assert steps["epochs"]["status"] == "stopped" and "15 s" in steps["epochs"]["reason"]
    assert [row["status"] for row in steps["epochs"]["results"]] == ["done", "failed"]
    assert steps["encoders"]["status"] == "failed" and "a_package_that_is_missing" in steps["encoders"]["reason"]
    assert steps["long_dialogue"]["status"] == "done"
    assert "stopped after 15 s" in text and "a_package_that_is_missing" in text
    assert gone(int((out / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process has ended; one that was killed may need a moment."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("device", ["auto", "cuda:7", "tpu"])
def test_without_such_a_device(tmp_path, device):
    done = run(BENCHMARKS / "gpu.py", tmp_path / "results", "--device", device, "--small", "--only", "long_dialogue")
    if device == "auto" and done.returncode == 0:
        pytest.skip("there is a CUDA device")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert ("CUDA" in done.stderr) == (device != "tpu") or device in done.stderr
