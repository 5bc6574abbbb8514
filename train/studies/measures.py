"""What a study measures besides each run's results: places in the dialogue, noise, confusion, cost."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...toolkit.base.device import device_name, pick_device
from ..config import Config
from ..data.batch import Conversations
from ..data.features import conversations, divide, fit_normalisers, read_feature, rows_of
from ..loop.evaluation import OpenedRun, opened_run, predict, score
from ..loop.plan import Plan
from ..loop.run_folder import METRICS, read_result
from ..loop.seeding import seed_everything
from ..loop.step import make_optimizer, training_step
from ..scores.breakdown import breakdown, confusion_matrix
from ..scores.predictions import Predictions, read_predictions
from .definition import Study
from .model_tables import size_and_time

NOISE_SEED = 0
ROUNDS = 5  # of timings, after one to warm up; the median counts
EVERYTHING = "all"


def measure_run(study: Study, folder: Path, device: str) -> dict[str, object] | None:
    """What the study measures on a finished run, as JSON holds it; None for `results`."""
    if study.measure == "positions":
        return positions(read_predictions(folder), *study.lengths)
    if study.measure == "confusion":
        predictions = read_predictions(folder)
        return {"labels": predictions.labels, "confusion": confusion_matrix(predictions).tolist()}
    if study.measure == "models":
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        return size_and_time(read_result(folder)["result"], [json.loads(line) for line in lines])
    if study.measure == "noise":
        with opened_run(folder, None, device, lambda line: None) as opened:
            return noise(opened, study.levels)
    return None


def positions(predictions: Predictions, least: int, most: int) -> dict[str, object]:
    """Measures by place, over the test dialogues of `least` to `most` utterances.

    Returns:
        dialogues: how many there are; by_position: `erc_toolkit.train.scores.breakdown.breakdown` by position; overall: by the one group of
        all, or None where there is no labelled utterance.
    """
    chosen = predictions.select((predictions.lengths >= least) & (predictions.lengths <= most))
    overall = breakdown(chosen, "all")
    return {
        "dialogues": len(set(chosen.dialogue)),
        "by_position": breakdown(chosen, "position"),
        "overall": next(iter(overall.values()), None),
    }


def noise(opened: OpenedRun, levels: list[float]) -> dict[str, dict[str, dict[str, float]]]:
    """Results on the test split with Gaussian noise on the features that are there.

    A dimension's noise has `level` times its standard deviation over the training split. The draw is the same for every
    level and every run, so that runs differ by what they do with it.

    Returns:
        "all" and, where there are several, each modality: level as text to weighted_f1, accuracy, weighted_precision.
    """
    run, store = opened.run, opened.store
    division = divide(store, run.facts["validation"]["held_out"])
    train_rows = torch.from_numpy(rows_of(store.offsets, division.train))
    modalities = list(run.dims)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for which in [EVERYTHING, *(modalities if len(modalities) > 1 else [])]:
        for level in levels:
            data = opened.data.changed(
                _noisy(level, modalities if which == EVERYTHING else [which], modalities, train_rows)
            )
            settings = run.config.train
            prediction = predict(opened.model, data, division.test, settings.batch_size, settings.precision)
            got = score(prediction, store.column("label"), store.labels, opened.counts)
            kept = None if got is None else {k: got[k] for k in ("weighted_f1", "accuracy", "weighted_precision")}
            found.setdefault(which, {})[f"{level:g}"] = kept
    return found


def _noisy(
    level: float, chosen: list[str], modalities: list[str], train_rows: Tensor
) -> Callable[[str, Tensor, Tensor], Tensor]:
    def change(modality: str, x: Tensor, present: Tensor) -> Tensor:
        if modality not in chosen or level == 0:
            return x
        rows = train_rows.to(x.device)
        rows = rows[present[rows]]
        deviation = x[rows].std(0, correction=0) if len(rows) else x.new_zeros(x.shape[1])
        generator = torch.Generator().manual_seed(NOISE_SEED + modalities.index(modality))
        draw = torch.randn(x.shape, generator=generator).to(x.device)
        return torch.where(present[:, None], x + level * deviation * draw, x)

    return change


def cost(plan: Plan, device: str) -> dict[str, object]:
    """Parameters and running time of an untrained model on the store; nothing of it depends on what it has learned.

    Returns:
        device; parameters; inference_ms: for an utterance of the test split; throughput: utterances a second;
        batch_ms: a training step, forward, backward, clipping and optimizer; epoch_s: all steps of the training split;
        flops: multiplications and additions in matrix products for an utterance of the test split.
    """
    target, config = pick_device(device), plan.config
    seed_everything(config.train.seed)
    model = plan.model().to(target)
    matrices = {m: read_feature(plan.store, f) for m, f in plan.features.items()}
    normalisers = fit_normalisers(
        matrices, rows_of(plan.store.offsets, plan.division.train), config.data.normalise, config.data.clip
    )
    data = conversations(plan.store, matrices, normalisers, plan.speakers).to(target)
    test = plan.division.test if len(plan.division.test) else plan.division.val
    utterances = len(rows_of(plan.store.offsets, test))

    def infer() -> None:
        predict(model, data, test, config.train.batch_size, config.train.precision)

    inference = _seconds(infer, target)
    with FlopCounterMode(display=False) as counter:
        infer()
    parts = torch.from_numpy(plan.division.train).split(config.train.batch_size)
    epoch = _seconds(_epoch(model, data, parts, config), target)
    return {
        "device": device_name(target),
        "parameters": sum(p.numel() for p in model.parameters()),
        "inference_ms": 1000 * inference / utterances,
        "throughput": utterances / inference,
        "batch_ms": 1000 * epoch / len(parts),
        "epoch_s": epoch,
        "flops": counter.get_total_flops() / utterances,
    }


def _epoch(
    model: torch.nn.Module, data: Conversations, parts: tuple[Tensor, ...], config: Config
) -> Callable[[], None]:
    optimizer = make_optimizer(model, config.train)

    def work() -> None:
        model.train()
        for part in parts:
            training_step(model, optimizer, data.batch(part), config.train.epochs, config.train)

    return work


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    found = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
