"""Interrupted and resumed training, several seeds, early stopping, schedules, clipping, curves, events."""

from __future__ import annotations

import json
import statistics
import sys

import numpy as np
import pytest
from kill_support import run_until
from test_train_cli import SMALL, call, one_line, train_on
from test_train_support import write_store

from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.data.features import Normaliser

# With schedule, warm-up and clipping, which a resumed run must reproduce too.
SETTINGS = (*SMALL, "train.schedule=cosine", "train.lr_warm_up=1.5", "train.max_grad_norm=1.0")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train_on(store, out, settings=SETTINGS).exit_code == 0
    return out


def content(out) -> dict[str, object]:
    """Everything in a run that must be reproduced exactly, which excludes the duration of epochs."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    result = json.loads((out / "result.json").read_text())["result"]
    return {
        "metrics": lines,
        "weights": (out / "model.safetensors").read_bytes(),
        "predictions": (out / "predictions.csv").read_bytes(),
        "files": sorted(p.name for p in out.iterdir() if not p.name.endswith(".tmp")),  # left by killed processes
        "selected": result["selected"],
        "test": result["test"],
    }


def train_until(store, out, event: str, pattern: str, count: int = 1) -> None:
    """Trains, or resumes, in a process that is killed at a point of `run_until`."""
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    run_until(["train", store, "--out", out, "--device", "cpu", "--resume", *changes], event, pattern, count)


def killed_after(store, out, epochs: int) -> None:
    """Trains in a process that is killed once metrics.jsonl and the checkpoint have the given number of epochs."""
    train_until(store, out, "append", r"metrics\.jsonl$", epochs + 1)


# Where training is killed, in this order, and how many epochs are in metrics.jsonl then.
POINTS = [
    ("finish", r"checkpoint\.safetensors$", 1, 1),  # the first epoch is in metrics.jsonl, but not in a checkpoint
    ("append", r"metrics\.jsonl$", 3, 2),
    ("import", r"^torch$", 1, 2),  # while loading
    ("finish", r"metrics\.jsonl$", 1, 2),  # while resuming
    ("finish", r"checkpoint\.safetensors$", 4, 6),
    ("finish", r"model\.safetensors$", 1, 12),
    ("finish", r"result\.json$", 1, 12),  # only the last file is missing
]


@pytest.mark.slow
def test_killed_and_resumed_runs_are_bit_identical(store, undisturbed, tmp_path):
    """Killed several times, also while loading or writing."""
    out = tmp_path / "run"
    for event, pattern, count, epochs in POINTS:
        train_until(store, out, event, pattern, count)
        assert len((out / "metrics.jsonl").read_text().splitlines()) == epochs, (event, pattern)
        assert not (out / "result.json").exists()
    result = train_on(store, out, "--resume", settings=SETTINGS)
    assert result.exit_code == 0, result.output
    assert content(out) == content(undisturbed)
    for name in (".checkpoint.safetensors.0.tmp.lock", ".result.json.0.tmp"):  # of a process killed at the very end
        (out / name).write_text("")
    again = train_on(store, out, "--resume", settings=SETTINGS)
    assert again.exit_code == 0 and f"{out}: " in again.output and "finished" in again.output
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_a_truncated_line_of_metrics_is_rewritten(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    killed_after(store, out, epochs=4)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 99, "lo')
    assert train_on(store, out, "--resume", settings=SETTINGS).exit_code == 0
    assert content(out) == content(undisturbed)


@pytest.mark.slow
def test_runs_that_cannot_be_resumed_are_reported(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    killed_after(store, out, epochs=2)
    message = one_line(train_on(store, out, settings=SETTINGS))
    assert str(out) in message and "--resume" in message and "--overwrite" in message
    checkpoint = out / "checkpoint.safetensors"
    message = one_line(train_on(store, out, "--resume", settings=(*SETTINGS, "train.lr=1e-3")))
    assert str(checkpoint) in message and "settings" in message and "--overwrite" in message
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    message = one_line(train_on(store, out, "--resume", settings=SETTINGS))
    assert str(checkpoint) in message and "--overwrite" in message
    assert train_on(store, out, "--overwrite", settings=SETTINGS).exit_code == 0
    assert content(out) == content(undisturbed)
    message = one_line(train_on(store, out, "--resume", settings=(*SETTINGS, "train.lr=1e-3")))
    assert str(out) in message and "settings" in message and "--overwrite" in message
    assert train_on(store, out, "--resume", "--overwrite", settings=SETTINGS).exit_code == 2


def test_several_seeds_give_mean_and_standard_deviation(store, tmp_path):
    out = tmp_path / "seeds"
    quick = (*SMALL, "train.epochs=3")
    result = train_on(store, out, "--seeds", 3, "--seed", 5, "--json", settings=quick)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary == json.loads((out / "summary.json").read_text()) and summary["seeds"] == [5, 6, 7]
    alone = [json.loads((out / f"seed-{seed}" / "result.json").read_text())["result"] for seed in (5, 6, 7)]
    values = [run["test"]["weighted_f1"] for run in alone]
    assert summary["test"]["weighted_f1"]["values"] == values and len(set(values)) > 1
    assert summary["test"]["weighted_f1"]["mean"] == pytest.approx(sum(values) / 3)
    assert summary["test"]["weighted_f1"]["std"] == pytest.approx(statistics.stdev(values))
    assert "3 seeds (5, 6, 7)" in result.stderr and "validation" in result.stderr
    again = train_on(store, out, "--seeds", 4, "--seed", 5, "--resume", settings=quick)
    assert again.exit_code == 0 and again.output.count("already finished") == 3
    evaluated = call(eval_command, out / "seed-6", "--json", "--device", "cpu")
    assert json.loads(evaluated.stdout)["weighted_f1"] == values[1]


def test_patience_stops_early(tmp_path):
    out = tmp_path / "run"
    hard = write_store(tmp_path / "hard.h5", noise=4.0)
    result = train_on(hard, out, settings=(*SMALL, "train.epochs=60", "train.patience=2"))
    assert result.exit_code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["val"]["weighted_f1"], -line["val"]["loss"]))["epoch"]
    assert len(lines) == best + 2 < 60


def test_curves_and_events(store, tmp_path):
    import cv2

    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert train_on(store, out, "--tensorboard", settings=(*SMALL, "train.epochs=3")).exit_code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("val/weighted_f1")] == pytest.approx(
        [line["val"]["weighted_f1"] for line in lines]
    )
    image = cv2.imread(str(out / "curves.png"))
    assert image.shape[0] > 300 and image.shape[1] > 800 and image.std() > 10


def test_tensorboard_not_installed(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = one_line(train_on(store, tmp_path / "run", "--tensorboard"))
    assert "pip install 'erc-toolkit[tensorboard]'" in message and not (tmp_path / "run").exists()


def test_clipping_bounds_values_outside_the_range_of_training():
    values = np.array([[0.0], [1.0], [2.0], [1000.0]], np.float32)
    normaliser = Normaliser.fit(values, np.arange(3), clip=10.0)
    normaliser.apply(values)
    assert values[3, 0] == 10.0 and abs(values[:3].mean()) < 1e-6
