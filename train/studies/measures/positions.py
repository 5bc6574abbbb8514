"""Results by position in the dialogue, over test dialogues within a range of lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ...scores.tables import ReportTable
from ..record import StudyRecord
from .base import Measure, RunAtHand, SummarisedVariant, mean_percent, shown_percent

if TYPE_CHECKING:
    from ...reports.page import Section
    from ...scores.predictions import Predictions

_ALL_LENGTHS = [1, 1_000_000]


class PositionScores(TypedDict):
    """Scores of a run.

    `dialogues`: number of dialogues within the range; `by_position`: maps groups of positions to the scores of
    `erc_toolkit.train.scores.breakdown.breakdown`; `overall`: the same over all positions, None if nothing is labelled.
    """

    dialogues: int
    by_position: dict[str, dict[str, float | int]]
    overall: dict[str, float | int] | None


@dataclass(frozen=True, slots=True)
class PositionSummary:
    """Means over the seeds.

    Attributes:
        dialogues: number of dialogues within the range.
        overall, accuracy: weighted F1 and accuracy in percent over all positions; NaN if nothing is labelled.
        by_position: the same for each group of positions present in a run.
    """

    dialogues: int
    overall: float
    accuracy: float
    by_position: dict[str, float]


class Positions(Measure[PositionScores, PositionSummary]):
    """`lengths: [minimum, maximum]`: range of dialogue lengths, in utterances."""

    keys = ("lengths",)

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        lengths = given.get("lengths", _ALL_LENGTHS)
        if (
            not isinstance(lengths, list)
            or len(lengths) != 2
            or not all(type(n) is int for n in lengths)
            or lengths[0] > lengths[1]
        ):
            raise UserError(f"{where}: lengths must be two whole numbers, [minimum, maximum]")
        return {"lengths": lengths}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> PositionScores:
        return position_scores(run.predictions(), *settings["lengths"])

    def summarise(self, measured: Sequence[PositionScores]) -> PositionSummary:
        groups = {group: None for scores in measured for group in scores["by_position"]}
        return PositionSummary(
            measured[0]["dialogues"],
            mean_percent([scores["overall"]["weighted_f1"] for scores in measured if scores["overall"]]),
            mean_percent([scores["overall"]["accuracy"] for scores in measured if scores["overall"]]),
            {
                group: mean_percent(
                    [s["by_position"][group]["weighted_f1"] for s in measured if group in s["by_position"]]
                )
                for group in groups
            },
        )

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[PositionSummary]]) -> list[ReportTable]:
        groups = _groups(variants)
        dialogues = next((variant.summary.dialogues for variant in variants if variant.summary), 0)
        title = f"weighted F1 by position, {counted(dialogues, 'dialogue')}"
        rows = [[variant.name, *(shown_percent(value) for value in _values(variant, groups))] for variant in variants]
        return [ReportTable("positions", title, ["", "accuracy", "all", *groups], rows)]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[PositionSummary]]) -> Section | None:
        from ...reports.figures import lines_figure
        from ...reports.page import PageFigure, Section

        measured = [variant for variant in variants if variant.summary]
        dialogues = next((variant.summary.dialogues for variant in variants if variant.summary), None)
        if dialogues is None:
            return None
        groups = _groups(variants)
        rows = [
            [variant.name, *(shown_percent(value, "–") for value in _values(variant, groups))] for variant in measured
        ]
        title = f"Weighted F1, percent, in {counted(dialogues, 'dialogue')}"
        section = Section(
            "Results by position in the dialogue",
            [ReportTable("positions", title, ["", "accuracy", "all positions", *groups], rows)],
        )
        if dialogues:
            lines = {variant.name: _values(variant, groups)[2:] for variant in measured}
            figure = lines_figure(groups, lines, "position in the dialogue", "test weighted F1, percent")
            section.figures.append(PageFigure("positions", "Weighted F1 by position in the dialogue.", figure))
        else:
            section.warning = "The test split has no dialogue within this range of lengths."
        return section


def position_scores(predictions: Predictions, least: int, most: int) -> PositionScores:
    """Scores by position, over dialogues of `least` to `most` utterances (inclusive)."""
    from ...scores.breakdown import breakdown

    chosen = predictions.select((predictions.lengths >= least) & (predictions.lengths <= most))
    overall = breakdown(chosen, "all")
    return {
        "dialogues": len(set(chosen.dialogue)),
        "by_position": breakdown(chosen, "position"),
        "overall": next(iter(overall.values()), None),
    }


def _groups(variants: Sequence[SummarisedVariant[PositionSummary]]) -> list[str]:
    """Names of the groups present in any variant, in dialogue order."""
    found = {group for variant in variants if variant.summary for group in variant.summary.by_position}
    return sorted(found, key=lambda group: int(group.split()[0]))


def _values(variant: SummarisedVariant[PositionSummary], groups: Sequence[str]) -> list[float]:
    """Accuracy over all positions, and weighted F1 over all and in each group, in percent; NaN if there is none."""
    if variant.summary is None:
        return [math.nan] * (2 + len(groups))
    summary = variant.summary
    return [summary.accuracy, summary.overall, *(variant.summary.by_position.get(group, math.nan) for group in groups)]
