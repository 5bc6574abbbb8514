"""How long a study will take on this machine, and how much disk: a few steps of every variant are timed.

Only what differs in arithmetic is timed again: runs that differ in their seed or learning rate take equally long.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...toolkit.base.device import check_precision, pick_device, synchronize
from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import json_sha256
from ...toolkit.store import FeatureStore
from ..config import Config
from ..data.features import read_feature, rows_of
from ..loop.evaluation import predict
from ..loop.execution import check_execution, make_gradients
from ..loop.plan import Plan, make_plan, training_data
from ..loop.seeding import seed_everything
from ..loop.step import make_optimizer, training_step
from .applied import prepare
from .definition import Study
from .measures.registry import find_measure

STEPS = 3  # timed after one that warms up
_SAME = ("lr", "schedule", "lr_warm_up", "weight_decay", "patience", "protocol", "seed", "epochs", "class_weights")
_ROW_BYTES = 250  # of predictions.csv and the like, per utterance of the test split


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a study takes.

    Attributes:
        runs: number of runs that the store allows.
        seconds: of all of them one after the other, with early stopping (`train.patience`) left out of account.
        bytes: on disk when they are finished.
        skipped: variants that this store does not allow, with the reason.
    """

    runs: int
    seconds: float
    bytes: int
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Cost:
    epoch_s: float
    once_s: float
    bytes: int


_timed: dict[str, _Cost] = {}  # by what decides the time, within this process


def estimate_study(
    store: FeatureStore, study: Study, recipe: str, changes: Sequence[str], seeds: int, device: str
) -> Estimate:
    """Times a few steps of every variant.

    Args:
        store: the store, or one with the same dialogues and widths of features.
        study, recipe, changes, seeds, device: as for `erc_toolkit.train.studies.runs.run_study`.

    Raises:
        UserError: the settings are invalid.
    """
    measure = find_measure(study.measure)
    seeds = seeds if measure.trains else 1
    runs, seconds, size, skipped = 0, 0.0, 0, {}
    for name, prepared in prepare(study, store, recipe, changes, {}, "").items():
        config = prepared.config
        try:
            cost = _cost(store, config, device)
        except UserError as error:
            skipped[name] = error.message
            continue
        runs += seeds
        epochs = config.train.epochs if measure.trains else 1
        seconds += seeds * (cost.once_s + epochs * cost.epoch_s)
        size += seeds * cost.bytes if measure.trains else 0
    return Estimate(runs, seconds, size, skipped)


def _cost(store: FeatureStore, config: Config, device: str) -> _Cost:
    settings: dict[str, Any] = config.as_dict()
    settings["train"] = {key: value for key, value in settings["train"].items() if key not in _SAME}
    key = json_sha256([_shape(settings), store.content_hash, device])
    if key not in _timed:
        _timed[key] = _measured(make_plan(store, config), pick_device(device))
    return _timed[key]


def _shape(value: Any) -> Any:
    """A setting as far as it decides what is computed: a number with a fraction only by whether it is zero."""
    if isinstance(value, dict):
        return {key: _shape(part) for key, part in value.items()}
    return value != 0 if isinstance(value, float) else value


def _measured(plan: Plan, device: torch.device) -> _Cost:
    config = plan.config
    check_precision(config.train.precision, device, "train.precision")
    check_execution(config, device)
    seed_everything(config.train.seed)
    began = time.perf_counter()
    model = plan.model().to(device)
    data = training_data(plan, {m: read_feature(plan.store, f) for m, f in plan.features.items()})[0].to(device)
    once = time.perf_counter() - began
    optimizer = make_optimizer(model, config.train)
    computed = make_gradients(model, config.train, device)
    order = torch.randperm(len(plan.division.train), generator=torch.Generator().manual_seed(0))
    parts = torch.from_numpy(plan.division.train)[order].split(config.train.batch_size)
    model.train()

    def step(part: torch.Tensor) -> None:
        training_step(model, optimizer, data.batch(part), config.train.epochs, config.train, computed)

    step(parts[0])
    steps = [_seconds(functools.partial(step, parts[i % len(parts)]), device) for i in range(STEPS)]
    model.eval()
    selection, test = plan.selection[1], plan.division.test
    validation = _seconds(lambda: _predict(model, data, selection, config), device)
    rows = len(rows_of(plan.store.offsets, test))
    share = rows / max(1, len(rows_of(plan.store.offsets, selection)))
    size = 4 * sum(parameter.numel() for parameter in model.parameters()) + _ROW_BYTES * rows
    return _Cost(len(parts) * statistics.mean(steps) + validation, once + share * validation, size)


def _predict(model: Any, data: Any, dialogues: Any, config: Config) -> None:
    predict(model, data, dialogues, config.train.batch_size, config.train.precision)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began
