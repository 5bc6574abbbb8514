"""Whole runs on the device that is not there: training, resuming, evaluation, prediction, studies on several GPUs."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from stand_in import DEVICE, HOME, StandIn, Wait
from test_train_support import TINY, write_store
from transformers import PreTrainedModel

from erc_toolkit.extract.tuning import face as tuning_face
from erc_toolkit.extract.tuning import processes
from erc_toolkit.extract.tuning import text as tuning_text
from erc_toolkit.extract.tuning.loop import Training
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.inference.turn_classifier import TurnClassifier
from erc_toolkit.train.loop.evaluation import evaluate_run
from erc_toolkit.train.loop.trainer import train
from erc_toolkit.train.reports.attention import attention_edges
from erc_toolkit.train.studies.definition import Study, grid
from erc_toolkit.train.studies.runs import run_study, work

pytestmark = pytest.mark.slow
DIMS = {"text": 6, "audio": 5}
CHANGES = [f"model.{key}={getattr(TINY, key)}" for key in ("hidden", "heads", "window", "dropout", "dropout_warm_up")]
CHANGES += ["train.epochs=3", "train.batch_size=4", "data.speaker_slots=null"]
ROOMS = ["loop.trainer", "loop.evaluation", "inference.turn_classifier", "studies.runs"]


def use(device: torch.device, put=setattr) -> None:
    """Makes every command select a device, whatever `--device` says."""
    for room in ROOMS:
        put(import_module(f"erc_toolkit.train.{room}"), "pick_device", lambda name: device)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("runs") / "store.h5", sizes={"train": 9, "val": 3, "test": 4}, dims=DIMS)


def test_a_run_on_a_device(path, tmp_path, monkeypatch):
    config = load_config("demo", CHANGES)
    lines: list[str] = []
    monkeypatch.setattr(sys.modules["erc_toolkit.train.loop.trainer"], "device_name", str)
    use(DEVICE, monkeypatch.setattr)
    with StandIn(float64=False), FeatureStore.open(path) as store:
        train(store, config, tmp_path / "whole", "auto", lines.append)
        stop_after_first_epoch(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            train(store, config, tmp_path / "cut", "auto", lines.append)
        result = train(store, config, tmp_path / "cut", "auto", lines.append, resume=True)
        assert result["device"] == "standin:0" and "resuming after epoch 1" in lines
        evaluated = evaluate_run(tmp_path / "cut", None, "test", "auto", lines.append)
        classifier = TurnClassifier(tmp_path / "cut", "auto", lines.append)
        turns, batch = classifier.turns(store)
        edges = attention_edges(classifier.model, batch)
    assert evaluated["device"] == "standin:0" and evaluated["weighted_f1"] == result["test"]["weighted_f1"]
    assert len(turns) == len(batch.labels) and set(edges) == set(DIMS)
    for name in ("model.safetensors", "predictions.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    use(torch.device("cpu"), monkeypatch.setattr)  # a run of one device is a run for any other
    with FeatureStore.open(path) as store:
        again, _ = TurnClassifier(tmp_path / "cut", "auto", lines.append).turns(store)
    assert [turn.emotion for turn in again] == [turn.emotion for turn in turns]


def stop_after_first_epoch(monkeypatch) -> None:
    """Interrupts the next training after its first checkpoint, once."""
    trainer = sys.modules["erc_toolkit.train.loop.trainer"]
    save = trainer.save_checkpoint

    def once(*given):
        monkeypatch.setattr(trainer, "save_checkpoint", save)
        save(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", once)


def test_finetuning_text_on_a_device(path, tmp_path, monkeypatch):
    make_text_encoder(tmp_path / "encoder", ["I am so happy to see you!", "What do you want from me?"])
    monkeypatch.setattr(processes, "pick_device", lambda name: DEVICE)
    save = PreTrainedModel.save_pretrained  # it reads memory, which the stand-in does not have

    def from_host(model, folder):
        save(model, folder, state_dict={name: x.cpu() for name, x in model.state_dict().items()})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", from_host)
    recipe = tuning_text.Recipe(epochs=2, batch=8, micro_batch=4)
    with StandIn() as device:
        best = tuning_text.finetune(
            path, str(tmp_path / "encoder"), tmp_path / "tuned", recipe, "auto", lambda line: None
        )
    assert best["epoch"] in (1, 2) and (tmp_path / "tuned/model.safetensors").is_file()
    with FeatureStore.open(path) as store:
        trained = np.count_nonzero((store.column("split") == "train") & (store.column("label") >= 0))
    # One for each loss, an update late; whole batches of 8 are two of 4.
    losses = waits_in(Training._add, device)
    assert len(losses) == 2 * (2 * (trained // 8) + math.ceil(trained % 8 / 4))
    # transformers asks once per batch whether there is padding; the batches themselves are copied without a wait.
    assert {wait.operation for wait in waits_in(tuning_text._Classes._logits, device)} == {"_local_scalar_dense"}
    assert not waits_in(tuning_text._Classes.loss, device) and not waits_in(Training.train, device)


def waits_in(function, device: StandIn) -> list[Wait]:
    """The waits in the lines of a function of the toolkit."""
    lines, first = inspect.getsourcelines(function)
    path = str(Path(inspect.getsourcefile(function)).relative_to(HOME))
    places = {f"{path}:{number}" for number in range(first, first + len(lines))}
    return [wait for wait in device.waits if wait.line in places]


def test_training_the_face_network_on_a_device(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("across", "down"):
            (tmp_path / "faces" / split / label).mkdir(parents=True)
            for i in range(6):
                picture = rng.integers(0, 255, (64, 64), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / "faces" / split / label / f"{i}.png"), picture)
    monkeypatch.setattr(tuning_face, "pick_device", lambda name: DEVICE)
    recipe = tuning_face.FaceRecipe(epochs=1, batch=4, patience=0)
    with StandIn() as device:
        tuning_face.train_face(tmp_path / "faces", tmp_path / "out", recipe, "auto", lambda line: None)
    assert (tmp_path / "out/model.safetensors").is_file()
    assert len(waits_in(tuning_face._Run._add, device)) == 3
    assert not waits_in(tuning_face._Run._logits, device) and not waits_in(tuning_face._Run.train, device)


def on_its_gpu(task):
    """A study's run in its worker process, which sees one GPU: the stand-in."""
    visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    assert len(visible) == 1
    Path(task.folder).mkdir(parents=True)
    (Path(task.folder) / "gpu").write_text(f"{visible[0]} {os.getpid()}")
    use(DEVICE)
    with StandIn():
        return work(task)


@pytest.mark.parametrize("left_visible, names", [(None, {"0", "1"}), ("5,7", {"5", "7"})])
def test_parallel_runs_of_a_study_have_a_gpu_each(path, tmp_path, monkeypatch, left_visible, names):
    """With two GPUs and two jobs, each worker sees one of them, and only of those that the user left visible."""
    if left_visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", left_visible)
    runs = sys.modules["erc_toolkit.train.studies.runs"]
    monkeypatch.setattr(runs, "work", on_its_gpu)
    monkeypatch.setattr(runs, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    study = Study("windows", "Windows", grid({"model.window": [1, 2]}, "test"))
    record = run_study(path, study, tmp_path / "s", "demo", CHANGES, [0, 1], 2, "auto", lambda line: None)
    found = [run for variant in record["variants"] for run in variant["runs"]]
    assert [run["status"] for run in found] == ["done"] * 4, [run["reason"] for run in found]
    assert {run["result"]["device"] for run in found} == {"standin:0"}
    seen = dict((tmp_path / "s" / run["folder"] / "gpu").read_text().split() for run in found)
    assert set(seen) == names and len(set(seen.values())) == 2
    assert json.loads((tmp_path / "s/study.json").read_text())["variants"]
