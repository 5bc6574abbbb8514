"""How long a study will take on this machine, and how much disk: a few steps of every variant are timed.

Only what differs in arithmetic is timed again: runs that differ in their seed or learning rate take equally long.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import json_sha256
from ...toolkit.store import FeatureStore
from ..config import Config
from ..data.features import rows_of
from ..loop.plan import Plan, make_plan
from .applied import prepare
from .definition import Study
from .measures.registry import find_measure
from .timing import TimedSteps

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
        _timed[key] = _measured(make_plan(store, config), device)
    return _timed[key]


def _shape(value: Any) -> Any:
    """A setting as far as it decides what is computed: a number with a fraction only by whether it is zero."""
    if isinstance(value, dict):
        return {key: _shape(part) for key, part in value.items()}
    return value != 0 if isinstance(value, float) else value


def _measured(plan: Plan, device: str) -> _Cost:
    began = time.perf_counter()
    timed = TimedSteps(plan, device)
    once = time.perf_counter() - began
    # Random dialogues: in the store's order neighbours may be alike in length.
    order = torch.randperm(len(plan.division.train), generator=torch.Generator().manual_seed(0))
    parts = torch.from_numpy(plan.division.train)[order].split(plan.config.train.batch_size)
    timed.train(parts[:1])
    steps = [timed.train([parts[i % len(parts)]]) for i in range(STEPS)]
    selection = plan.selection[1]
    validation = timed.infer(selection)
    rows = len(rows_of(plan.store.offsets, plan.division.test))
    share = rows / max(1, len(rows_of(plan.store.offsets, selection)))
    size = 4 * sum(parameter.numel() for parameter in timed.model.parameters()) + _ROW_BYTES * rows
    return _Cost(len(parts) * statistics.mean(steps) + validation, once + share * validation, size)
