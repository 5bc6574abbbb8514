"""The confusion matrix of every variant on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ...scores.tables import ReportTable
from ..record import StudyRecord
from .base import Measure, RunAtHand, SummarisedVariant, file_stem

if TYPE_CHECKING:
    from ...reports.page import Section


class ConfusionScores(TypedDict):
    """Names of the C classes, and C rows of C counts: true class by predicted class."""

    labels: list[str]
    confusion: list[list[int]]


@dataclass(frozen=True, slots=True)
class ConfusionSummary:
    """The confusion matrix summed over the seeds.

    Attributes:
        labels: names of the C classes.
        confusion: (C, C) int64, true class by predicted class.
        runs: number of seeds.
    """

    labels: list[str]
    confusion: np.ndarray
    runs: int


class Confusion(Measure[ConfusionScores, ConfusionSummary]):
    """Shown on the page only; the terminal prints the results."""

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> ConfusionScores:
        from ...scores.breakdown import confusion_matrix

        predictions = run.predictions()
        return {"labels": predictions.labels, "confusion": confusion_matrix(predictions).tolist()}

    def summarise(self, measured: Sequence[ConfusionScores]) -> ConfusionSummary:
        matrix = np.sum([scores["confusion"] for scores in measured], 0)
        return ConfusionSummary(measured[0]["labels"], matrix, len(measured))

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ConfusionSummary]]) -> list[ReportTable]:
        return []

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ConfusionSummary]]) -> Section | None:
        from ...reports.figures import confusion_figure
        from ...reports.page import PageFigure, Section

        section = Section("Confusion")
        for variant in variants:
            if variant.summary is None:
                continue
            runs = variant.summary.runs
            seeds = f", summed over {runs} seeds" if runs > 1 else ""
            caption = f"{variant.name}: true emotion down, predicted across{seeds}."
            figure = confusion_figure(variant.summary.labels, variant.summary.confusion)
            section.figures.append(PageFigure(f"confusion_{file_stem(variant.name)}", caption, figure))
        return section if section.figures else None
