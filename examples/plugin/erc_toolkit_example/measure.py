"""A study measure: how many predictions are confident, and how many of these are correct.

A study file selects it with `measure: confidence`; `least: 0.8` is the minimum probability of a confident prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from erc_toolkit import UserError
from erc_toolkit.train.scores.tables import ReportTable
from erc_toolkit.train.studies.measures.base import Measure, RunAtHand, SummarisedVariant
from erc_toolkit.train.studies.record import StudyRecord

if TYPE_CHECKING:
    from erc_toolkit.train.reports.page import Section


class ConfidenceScores(TypedDict):
    """Of a run, or the mean over seeds, as fractions: confident predictions, and the correct ones among them."""

    confident: float
    correct: float | None


class Confidence(Measure[ConfidenceScores, ConfidenceScores]):
    """Heavy modules are imported inside the methods, as `study --list` loads every measure."""

    keys = ("least",)

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        least = given.get("least", 0.5)
        if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least <= 1:
            raise UserError(f"{where}: least must be a probability from 0 to 1, not {least!r}")
        return {"least": float(least)}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> ConfidenceScores:
        predictions = run.predictions()
        labelled = predictions.true >= 0
        confident = labelled & (predictions.probabilities.max(1) >= settings["least"])
        correct = predictions.true[confident] == predictions.predicted[confident]
        return {
            "confident": float(confident.sum() / labelled.sum()),
            "correct": float(correct.mean()) if confident.any() else None,
        }

    def summarise(self, measured: Sequence[ConfidenceScores]) -> ConfidenceScores:
        correct = [one["correct"] for one in measured if one["correct"] is not None]
        return {
            "confident": sum(one["confident"] for one in measured) / len(measured),
            "correct": sum(correct) / len(correct) if correct else None,
        }

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ConfidenceScores]]) -> list[ReportTable]:
        rows = [[variant.name, *_shown(variant.summary)] for variant in variants]
        return [ReportTable("confidence", "confidence, percent", ["", "confident", "correct if confident"], rows)]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ConfidenceScores]]) -> Section | None:
        from erc_toolkit.train.reports.page import Section

        return Section("Confidence", self.tables(study, variants))


def _shown(summary: ConfidenceScores | None) -> list[str]:
    values = (None, None) if summary is None else (summary["confident"], summary["correct"])
    return ["–" if value is None else f"{100 * value:.1f}" for value in values]
