"""Training that is killed on the device and resumed, against training that nothing disturbed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_steps.common import Job, Row, difference
from gpu_steps.epochs import TINY
from safetensors.torch import load_file

from train import write_store

TABLE = "Killed and resumed"
EPOCHS, KILLED_AFTER = 6, 3
# `erc-toolkit ARGUMENTS`, which kills itself just before it opens metrics.jsonl to add a line for the given time.
_CHILD = """
import os, signal, sys
left = int(sys.argv.pop(1))
def watch(event, what):
    global left
    if event == "open" and left and str(what[0]).endswith("metrics.jsonl") and "a" in str(what[1]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
from erc_toolkit.toolkit.commands.main import main
main()
"""


def run(job: Job) -> None:
    """One operation after the other, and recorded graphs on CUDA."""
    store = job.scratch / "store.h5"
    write_store(store, "iemocap", TINY)
    # What repeats of the same training differ by is the measure for what resuming may change.
    for execution in ("eager", "cuda-graphs"):
        if execution == "cuda-graphs" and not job.cuda:
            job.skip(TABLE, "CUDA only", execution=execution, compared="killed and resumed")
            continue
        whole = job.scratch / f"whole-{execution}"
        job.measure(
            TABLE,
            lambda e=execution, w=whole: resumed(job, store, e, w),
            needs=15 if job.cuda else 5,
            execution=execution,
            compared="killed and resumed",
        )
        if job.cuda:
            job.measure(
                TABLE,
                lambda e=execution, w=whole: again(job, store, e, w),
                needs=10,
                execution=execution,
                compared="the same training once more",
            )


def resumed(job: Job, store: Path, execution: str, whole: Path) -> Row:
    """A run that was killed after some epochs and resumed, against one that was not."""
    train(job, store, execution, whole)
    out = job.scratch / f"killed-{execution}"
    killed = train(job, store, execution, out, kill=True)
    lines = len((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    if killed != -signal.SIGKILL or lines != KILLED_AFTER:
        raise ValueError(f"the run was to be killed after {KILLED_AFTER} epochs; it has {lines}, exit status {killed}")
    train(job, store, execution, out, "--resume")
    return {"killed after": f"{lines} of {EPOCHS} epochs", **compared(out, whole)}


def again(job: Job, store: Path, execution: str, whole: Path) -> Row:
    """A second run with the same settings against the first."""
    out = job.scratch / f"again-{execution}"
    train(job, store, execution, out)
    return {"killed after": None, **compared(out, whole)}


def train(job: Job, store: Path, execution: str, out: Path, *more: str, kill: bool = False) -> int:
    """Exit status of a training on the device, which with `kill` kills itself."""
    changes = [
        f"train.epochs={EPOCHS}",
        f"train.execution={execution}",
        "train.batch_size=4",
        "train.schedule=cosine",
        "model.hidden=32",
        "model.dropout_warm_up=1",
        "data.speaker_slots=null",
        "data.val_fraction=0.3",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            _CHILD,
            str(KILLED_AFTER + 1 if kill else 0),
            "train",
            str(store),
            "--recipe",
            "iemocap",
            "--out",
            str(out),
            "--device",
            str(job.device),
            *more,
            *(w for c in changes for w in ("--set", c)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and not kill:
        raise RuntimeError(f"train ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.returncode


def compared(out: Path, whole: Path) -> Row:
    """The largest relative differences of a run's weights and metrics, and whether both are equal."""
    found, expected = (load_file(run / "model.safetensors") for run in (out, whole))
    if found.keys() != expected.keys():
        raise ValueError("the two runs have different weights")
    metrics = [metrics_of(run) for run in (out, whole)]
    if [len(m) for m in metrics] != [EPOCHS, EPOCHS]:
        raise ValueError(f"runs of {[len(m) for m in metrics]} epochs instead of {EPOCHS}")
    pairs = list(zip(*(numbers(m) for m in metrics), strict=True))
    weights = [name for name in expected if expected[name].is_floating_point()]
    same = all(found[name].equal(expected[name]) for name in expected)
    return {
        "weights": max(difference(found[name], expected[name]) for name in weights),
        "metrics": max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs),
        "equal in every bit": same and metrics[0] == metrics[1],
    }


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without how long the epochs took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def numbers(value: Any) -> list[float]:
    """Every number in nested lists and dicts."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for one in value for x in numbers(one)]
    return [float(value)] if isinstance(value, (int, float)) else []
