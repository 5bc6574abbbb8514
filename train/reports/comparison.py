"""Two or more runs side by side: what differs in their settings, in their results, and whether that holds."""

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
from ..scores.resampling import Difference, check_paired, differences, intervals, mcnemar

MEASURES = ("weighted_f1", "accuracy", "weighted_precision", "macro_f1", "uar")
_ABSENT = "(none)"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run, or runs that differ in their seed alone.

    Attributes:
        path: the folder that was named.
        seeds: of the runs, in order.
        settings: every setting and fact that bears on results, "section.key" to its value; without the seed.
        measures: mean over the runs of each of MEASURES, fractions.
        intervals: measure to its 95 % interval.
        predictions: of each run.
    """

    path: Path
    seeds: list[int]
    settings: dict[str, object]
    measures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictions: list[Predictions]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        runs: in the order in which they were named.
        settings: "section.key" to its value in each run, of those that are not equal in all.
        differences: for each run after the first, measure to how it differs from the first.
        mcnemar: for each run after the first, what `erc_toolkit.train.scores.resampling.mcnemar` gives; None with
            several seeds.
    """

    runs: list[ComparedRun]
    settings: dict[str, list[object]]
    differences: list[dict[str, Difference]]
    mcnemar: list[tuple[int, int, float] | None]


def compare(folders: list[Path]) -> Comparison:
    """Compares two or more runs on the test split that they share.

    Args:
        folders: of runs, or of the runs of several seeds.

    Raises:
        UserError: a folder holds no finished run, or the runs are not of the same utterances and labels.
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
        [mcnemar(first.predictions[0], run.predictions[0]) if alone else None for run, alone in zip(runs[1:], single)],
    )


def load(folder: Path) -> ComparedRun:
    """Reads a run, or the runs of several seeds.

    Raises:
        UserError: it holds no finished run.
    """
    parts = seed_folders(folder)
    runs, predictions = [read_run(part) for part in parts], [read_predictions(part) for part in parts]
    try:
        for other in predictions[1:]:
            check_paired(predictions[0], other)
        bounds = intervals(predictions)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    scores = [_scores(one) for one in predictions]
    means = {name: sum(one[name] for one in scores) / len(scores) for name in MEASURES}
    seeds = [cast(int, run.facts["seed"]) for run in runs]
    return ComparedRun(folder, seeds, _settings(parts[0]), means, bounds, predictions)


def seed_folders(folder: Path) -> list[Path]:
    """The run's own folder, or those of its seeds where `train --seeds` or a study made it.

    Raises:
        UserError: there is no finished run, or one of the seeds is not finished.
    """
    if (folder / RESULT).is_file():
        return [folder]
    parts = [part for part in folder.glob("seed-*") if part.name.removeprefix("seed-").isdecimal()]
    if not parts:
        raise UserError(f"{folder}: holds no finished run of `erc-toolkit train`")
    for part in parts:
        if not (part / RESULT).is_file():
            raise UserError(f"{part}: is not finished; the same `train` or `study` command goes on with it")
    return sorted(parts, key=lambda part: int(part.name.removeprefix("seed-")))


def _scores(predictions: Predictions) -> Mapping[str, Any]:
    """Of the labelled utterances."""
    kept = predictions.true >= 0
    return evaluate(predictions.true[kept], predictions.predicted[kept], predictions.labels, majority=0)


def _settings(folder: Path) -> dict[str, object]:
    content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    facts = content.pop(RUN_SECTION)
    found = {f"{section}.{key}": value for section, part in content.items() for key, value in part.items()}
    del found["train.seed"]
    found |= {"store": facts["store"]["content_sha256"][:12], "device": re.split("[ :]", facts["device"])[0]}
    found |= {"parameters": facts["parameters"], "torch": facts["torch_version"], "toolkit": facts["toolkit_version"]}
    return found | {f"feature of {modality}": feature["name"] for modality, feature in facts["features"].items()}
