"""Our results for a paper's tables: the studies in the folder of a reproduction."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ..reports.comparison import load
from ..studies.measures.base import SummarisedVariant, summarised_variants
from ..studies.measures.registry import find_measure
from ..studies.record import DONE, STUDY, StudyRecord, VariantRecord, read_study


@dataclass
class OurStudy:
    """A study on one corpus, finished or not.

    Attributes:
        folder: the study's folder.
        record: its study.json.
    """

    folder: Path
    record: StudyRecord
    _intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @cached_property
    def variants(self) -> dict[str, VariantRecord]:
        """The variants by name."""
        return {variant["name"]: variant for variant in self.record["variants"]}

    @cached_property
    def summaries(self) -> dict[str, SummarisedVariant[Any]]:
        """What the study's measure found, by the variant's name."""
        measure = find_measure(self.record["measure"])
        return {variant.name: variant for variant in summarised_variants(measure, self.record)}

    def with_settings(self, settings: Mapping[str, object]) -> VariantRecord | None:
        """The variant that changes exactly these settings."""
        return next((v for v in self.record["variants"] if v["changes"] == settings), None)

    def mean(self, variant: VariantRecord, label: str, measure: str) -> float | None:
        """Mean over the seeds of a measure of one class on the test split, a fraction; None without a finished run."""
        tests = [run["result"]["test"] for run in variant["runs"] if run["status"] == DONE and run["result"]]
        found: list[Any] = [dict(test["per_class"][label])[measure] for test in tests if test]
        return statistics.fmean(found) if found else None

    def interval(self, variant: VariantRecord, measure: str) -> tuple[float, float] | None:
        """The 95 % interval over dialogues and seeds of a measure on the test split; None if a run is missing."""
        name = variant["name"]
        if name not in self._intervals:
            self._intervals[name] = self._resampled(variant)
        return self._intervals[name].get(measure)

    def _resampled(self, variant: VariantRecord) -> dict[str, tuple[float, float]]:
        """The interval of every measure; none if a run is missing."""
        runs = variant["runs"]
        if not runs or any(run["status"] != DONE or not run["result"] or not run["result"]["test"] for run in runs):
            return {}
        try:
            return load((self.folder / runs[0]["folder"]).parent).intervals
        except UserError:
            return {}

    def reason(self, variant: VariantRecord) -> str:
        """Why a variant has no result, or fewer than it should; empty if nothing is missing."""
        return next((run["reason"] or "not run" for run in variant["runs"] if run["status"] != DONE), "")


def find_study(folder: Path, name: str) -> OurStudy | None:
    """The study NAME in the folder of a corpus; None if it was not begun.

    Raises:
        UserError: its study.json is damaged.
    """
    path = folder / name
    return OurStudy(path, read_study(path)) if (path / STUDY).is_file() else None
