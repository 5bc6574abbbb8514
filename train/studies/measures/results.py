"""The results of training: each variant's scores on the test split, as a table, a curve or a grid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...scores.metrics import Spread
from ...scores.tables import ReportTable, mean_and_spread
from ..record import StudyRecord, VariantRecord, name_with_note
from .base import Measure, RunAtHand, SummarisedVariant, spread_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...reports.page import Section

_SCORES = {
    "weighted_f1": "weighted F1",
    "accuracy": "accuracy",
    "weighted_precision": "w. precision",
    "macro_f1": "macro F1",
    "uar": "unweighted recall",
}
_TERMINAL = ("weighted_f1", "weighted_precision", "accuracy", "macro_f1")
_AXIS = "test weighted F1, percent"


class Results(Measure[None, None]):
    """The scores of training alone; other measures show them as well."""

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> None:
        return None

    def summarise(self, measured: Sequence[None]) -> None:
        return None

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[None]]) -> list[ReportTable]:
        rows = []
        for variant in study["variants"]:
            cells = [_spread(variant.get("selected"), "weighted_f1")]
            cells += [_spread(variant.get("test"), score) for score in _TERMINAL]
            rows.append([name_with_note(variant), *cells])
        head = ["", "selected wF1", "test wF1", "w. precision", "accuracy", "macro F1"]
        return [ReportTable("results", "", head, rows)]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[None]]) -> Section:
        from ...reports.page import PageFigure, Section

        rows = []
        for variant in study["variants"]:
            selected, test = variant.get("selected") or {}, variant.get("test") or {}
            cells = [mean_and_spread(selected.get("weighted_f1")), *(mean_and_spread(test.get(s)) for s in _SCORES)]
            rows.append([variant["name"], *cells])
        note = spread_note(study)
        head = ["", "selected split, weighted F1", *_SCORES.values()]
        section = Section("Results", [ReportTable("results", f"Test split, percent{note}", head, rows)])
        tested = [
            _TestedVariant(v, test["weighted_f1"], test["weighted_precision"])
            for v in study["variants"]
            if (test := v.get("test"))
        ]
        if not tested:
            return section
        shown = "Test weighted F1"
        if _swept(tested):
            shown = "Test weighted F1 (bars) and weighted precision (line)"
        section.figures.append(
            PageFigure("weighted_f1", f"{shown}: mean{note or ' of one seed'}.", _scores_figure(tested))
        )
        keys = {tuple(variant["changes"]) for variant in study["variants"]}
        if len(keys) == 1 and len(pair := keys.pop()) == 2:
            figure = _combinations_figure(tested, pair[0], pair[1])
            section.figures.append(PageFigure("grid", "Test weighted F1 of every combination.", figure))
        return section


class _TestedVariant(NamedTuple):
    """A variant with its weighted F1 and weighted precision on the test split."""

    record: VariantRecord
    weighted_f1: Spread
    weighted_precision: Spread


def _scores_figure(tested: Sequence[_TestedVariant]) -> Figure:
    """Bars and a curve if the variants are values of one numeric setting, else dots."""
    from ...reports.figures import bars_figure, dots_figure

    values = [[100 * value for value in one.weighted_f1["values"]] for one in tested]
    means = [float(np.mean(row)) for row in values]
    deviations = [100 * (one.weighted_f1["std"] or 0) for one in tested]
    names = [one.record["name"] for one in tested]
    if numbers := _swept(tested):
        precisions = [100 * one.weighted_precision["mean"] for one in tested]
        spreads = [100 * (one.weighted_precision["std"] or 0) for one in tested]
        return bars_figure(
            [f"{n:g}" for _, n in numbers],
            ("weighted F1", means, deviations),
            ("weighted precision", precisions, spreads),
            numbers[0][0].replace("_", " "),
            "test split, percent (the axis is cut)",
        )
    return dots_figure(names, means, deviations, values, _AXIS)


def _swept(tested: Sequence[_TestedVariant]) -> list[tuple[str, float]]:
    """The setting and its value in each variant, if they are more than two values of one numeric setting."""
    numbers = [number for one in tested if (number := _number(one.record["name"]))]
    same = len(numbers) == len(tested) > 2 and len({setting for setting, _ in numbers}) == 1
    return numbers if same else []


def _combinations_figure(tested: Sequence[_TestedVariant], down_key: str, across_key: str) -> Figure:
    from ...reports.figures import grid_figure

    changes = [one.record["changes"] for one in tested]
    down = list(dict.fromkeys(str(change[down_key]) for change in changes))
    across = list(dict.fromkeys(str(change[across_key]) for change in changes))
    values = np.full((len(down), len(across)), math.nan)
    for one, change in zip(tested, changes, strict=True):
        place = down.index(str(change[down_key])), across.index(str(change[across_key]))
        values[place] = 100 * one.weighted_f1["mean"]
    return grid_figure(down, across, values, (down_key, across_key), _AXIS)


def _number(name: str) -> tuple[str, float] | None:
    """("window", 4.0) for "window 4"; None for other names."""
    found = re.fullmatch(r"(\w+) (-?[\d.]+(?:e-?\d+)?)", name)
    return (found.group(1), float(found.group(2))) if found else None


def _spread(scores: Mapping[str, Spread] | None, name: str) -> str:
    return "-" if scores is None else mean_and_spread(scores[name])
