"""A study measure: how sure each variant is of what it says, and how often it is right when it is sure.

A study file asks for it by `measure: confidence`; `least: 0.8` is the probability of a sure prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.scores.tables import ReportTable
from erc_toolkit.train.studies.measures.base import Measure, RunAtHand, SummarisedVariant
from erc_toolkit.train.studies.record import StudyRecord

if TYPE_CHECKING:
    from erc_toolkit.train.reports.page import Section


class Sureness(TypedDict):
    """Of a run, or the mean over seeds, as fractions: predictions that are sure, and those of them that are right."""

    sure: float
    right: float | None


class Confidence(Measure[Sureness, Sureness]):
    """Heavy modules are imported in the methods, because `study --list` loads every measure."""

    keys = ("least",)

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        least = given.get("least", 0.5)
        if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least <= 1:
            raise UserError(f"{where}: least must be a probability from 0 to 1, not {least!r}")
        return {"least": float(least)}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> Sureness:
        predictions = run.predictions()
        labelled = predictions.true >= 0
        sure = labelled & (predictions.probabilities.max(1) >= settings["least"])
        right = predictions.true[sure] == predictions.predicted[sure]
        return {"sure": float(sure.sum() / labelled.sum()), "right": float(right.mean()) if sure.any() else None}

    def summarise(self, measured: Sequence[Sureness]) -> Sureness:
        right = [one["right"] for one in measured if one["right"] is not None]
        return {
            "sure": sum(one["sure"] for one in measured) / len(measured),
            "right": sum(right) / len(right) if right else None,
        }

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Sureness]]) -> list[ReportTable]:
        rows = [[variant.name, *_shown(variant.summary)] for variant in variants]
        return [ReportTable("confidence", "confidence, percent", ["", "sure", "right where sure"], rows)]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Sureness]]) -> Section | None:
        from erc_toolkit.train.reports.page import Section

        return Section("Confidence", self.tables(study, variants))


def _shown(summary: Sureness | None) -> list[str]:
    values = (None, None) if summary is None else (summary["sure"], summary["right"])
    return ["–" if value is None else f"{100 * value:.1f}" for value in values]
