"""Compares two or more runs: differences in settings and results, and their statistical significance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import yaml

from ...toolkit.base.errors import UserError
from ..config import RUN_SECTION
from ..loop.run_folder import CONFIG, RESULT, read_run
from ..scores.metrics import evaluate
from ..scores.predictions import Predictions, read_predictions
from ..scores.resampling import (
    Difference,
    check_paired,
    dialogue_count,
    differences,
    few_dialogues,
    intervals,
    mcnemar,
)

MEASURES = ("weighted_f1", "accuracy", "weighted_precision", "macro_f1", "uar")
_ABSENT = "(none)"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run, or runs that differ only in their seed.

    Attributes:
        path: the folder given by the user.
        seeds: seeds of the runs, in order.
        settings: maps "section.key" to the value of every setting and fact that affects results, except the seed.
        measures: mean over the runs of each of MEASURES, as fractions.
        intervals: maps each measure to its 95 % interval.
        predictions: predictions of each run.
    """

    path: Path
    seeds: list[int]
    settings: dict[str, object]
    measures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictions: list[Predictions]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        runs: the runs, in the order given.
        settings: maps "section.key" to its value in each run, for settings that differ.
        differences: for each run after the first, maps each measure to its difference from the first run.
        mcnemar: for each run after the first, the result of `erc_toolkit.train.scores.resampling.mcnemar`; None with
            several seeds.
        warning: what to know about so few dialogues, see `erc_toolkit.train.scores.resampling.few_dialogues`; or None.
    """

    runs: list[ComparedRun]
    settings: dict[str, list[object]]
    differences: list[dict[str, Difference]]
    mcnemar: list[tuple[int, int, float] | None]
    warning: str | None


def compare(folders: list[Path]) -> Comparison:
    """Compares two or more runs on their common test split.

    Args:
        folders: folders of runs, or of several seeds of a run.

    Raises:
        UserError: a folder contains no finished run, or the runs differ in their utterances or labels.
    """
    runs = [load(folder) for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        try:
            check_paired(first.predictions[0], run.predictions[0])
        except ValueError as error:
            raise UserError(f"{first.path} and {run.path} cannot be compared: {error}") from None
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key, _ABSENT) for run in runs] for key in keys}
    changed = {key: row for key, row in values.items() if any(a != b for a, b in pairwise(row))}
    single = [len(first.predictions) == len(run.predictions) == 1 for run in runs[1:]]
    return Comparison(
        runs,
        changed,
        [differences(first.predictions, run.predictions) for run in runs[1:]],
        [
            mcnemar(first.predictions[0], run.predictions[0]) if alone else None
            for run, alone in zip(runs[1:], single, strict=True)
        ],
        few_dialogues(dialogue_count(first.predictions[0])),
    )


def load(folder: Path) -> ComparedRun:
    """Reads a run, or several seeds of a run.

    Raises:
        UserError: the folder contains no finished run.
    """
    parts = seed_folders(folder)
    runs, predictions = [read_run(part) for part in parts], [read_predictions(part) for part in parts]
    try:
        for other in predictions[1:]:
            check_paired(predictions[0], other)
        bounds = intervals(predictions)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    scores = [scores_of(one) for one in predictions]
    means = {name: sum(one[name] for one in scores) / len(scores) for name in MEASURES}
    seeds = [cast(int, run.facts["seed"]) for run in runs]
    return ComparedRun(folder, seeds, _settings(parts[0]), means, bounds, predictions)


def seed_folders(folder: Path) -> list[Path]:
    """The run's folder, or the folders of its seeds if it was written by `train --seeds` or a study.

    Raises:
        UserError: there is no finished run, or a seed is not finished.
    """
    if (folder / RESULT).is_file():
        return [folder]
    parts = [part for part in folder.glob("seed-*") if part.name.removeprefix("seed-").isdecimal()]
    if not parts:
        raise UserError(f"{folder}: contains no finished run of `erc-toolkit train`")
    for part in parts:
        if not (part / RESULT).is_file():
            raise UserError(f"{part}: is not finished; repeat the same `train` or `study` command to resume it")
    return sorted(parts, key=lambda part: int(part.name.removeprefix("seed-")))


def scores_of(predictions: Predictions) -> Mapping[str, Any]:
    """Scores on the labelled utterances."""
    kept = predictions.true >= 0
    return evaluate(predictions.true[kept], predictions.predicted[kept], predictions.labels, majority=0)


def _settings(folder: Path) -> dict[str, object]:
    content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    facts = content.pop(RUN_SECTION)
    found = {f"{section}.{key}": value for section, part in content.items() for key, value in part.items()}
    del found["train.seed"]
    # What a run was trained on, not the whole store: a feature that was added to it changes nothing.
    data = facts["store"].get("data_sha256", facts["store"]["content_sha256"])
    found |= {"data": data[:12], "device": re.split("[ :]", facts["device"])[0]}
    found |= {"parameters": facts["parameters"], "torch": facts["torch_version"], "toolkit": facts["toolkit_version"]}
    return found | {f"feature of {modality}": feature["name"] for modality, feature in facts["features"].items()}
