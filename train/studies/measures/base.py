"""The contract of a study's measure.

A measure is one object: the keys that it adds to the study file, how it measures a run, the summary over the seeds of a
variant, its tables at the terminal and its section of the page. `registry.py` finds it by the name that a study file
gives under `measure:`; docs/how-to/studies.md shows a complete one.

`study --list` loads the measure of every study, so a measure imports PyTorch and matplotlib in the methods that use
them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ..record import DONE, StudyRecord, VariantRecord

if TYPE_CHECKING:
    from ...loop.plan import Plan
    from ...reports.page import Section
    from ...scores.predictions import Predictions
    from ...scores.tables import ReportTable

Measured = TypeVar("Measured")
Summary = TypeVar("Summary")


@dataclass(frozen=True, slots=True)
class RunAtHand:
    """A run that is to be measured.

    Attributes:
        plan: the open store, the settings, and what training on them comes to; `plan.model()` is an untrained model.
        folder: of the run; it holds a finished run if the measure trains.
        device: "auto", "cpu" or "cuda".
    """

    plan: Plan
    folder: Path
    device: str

    def predictions(self) -> Predictions:
        """The trained model's predictions on the test split.

        Raises:
            UserError: the store has no test split, or the file is damaged.
        """
        from ...scores.predictions import read_predictions

        return read_predictions(self.folder)


@dataclass(frozen=True, slots=True)
class SummarisedVariant(Generic[Summary]):
    """A variant with what its measure makes of its seeds.

    Attributes:
        record: the variant as study.json holds it.
        summary: None where no run has been measured.
    """

    record: VariantRecord
    summary: Summary | None

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.record["name"]


class Measure(ABC, Generic[Measured, Summary]):
    """What a study measures. It is constructed without arguments and keeps no state between calls.

    `Measured` is what one run gives, as JSON holds it: study.json keeps it, and a run that has been measured with the
    same settings is not measured again. `Summary` is whatever the tables and the section need.

    Attributes:
        name: as it is registered; the registry sets it.
        keys: names of its own keys in the study file.
        trains: False if it needs no trained model. Then nothing is trained, and each variant is measured with the
            first seed alone, one at a time, so that times can be measured.
        covers_results: whether its tables at the terminal show the results, so that the table of results is left out.
    """

    name: str = ""
    keys: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    covers_results: ClassVar[bool] = False

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        """The settings that `measure` gets, as JSON holds them.

        Args:
            given: those of `keys` that the study file holds.
            where: the file, for messages.

        Raises:
            UserError: a value is wrong.
        """
        return {}

    @abstractmethod
    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> Measured:
        """Measures a run. Runs in a process of its own; an exception fails this run alone.

        Args:
            run: finished, if the measure trains.
            settings: what `check` returned.
        """

    @abstractmethod
    def summarise(self, measured: Sequence[Measured]) -> Summary:
        """The summary over the seeds of a variant; there is at least one."""

    @abstractmethod
    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Summary]]) -> list[ReportTable]:
        """Tables for the terminal, in order; a table's title is printed as the head of its first column."""

    @abstractmethod
    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Summary]]) -> Section | None:
        """The section of the page; None where there is nothing to show."""

    def conclude(self, study: StudyRecord, out: Path) -> Mapping[str, object]:
        """What follows from all runs together, to be added to study.json, where `tables` and `section` find it.

        Args:
            study: with every run.
            out: folder of the study.
        """
        return {}

    def brief(self, measured: Measured) -> str:
        """A run in a few words, for the line that reports it; used where nothing is trained."""
        return "measured"


def summarised_variants(measure: Measure[Measured, Summary], study: StudyRecord) -> list[SummarisedVariant[Summary]]:
    """Every variant of a study with its summary over the runs that are done and measured."""
    found = []
    for variant in study["variants"]:
        measured = [run["measured"] for run in variant["runs"] if run["status"] == DONE and run["measured"] is not None]
        found.append(SummarisedVariant(variant, measure.summarise(measured) if measured else None))
    return found


def mean_percent(fractions: Sequence[float]) -> float:
    """The mean in percent; NaN of nothing."""
    return 100 * sum(fractions) / len(fractions) if fractions else math.nan


def spread_note(study: StudyRecord) -> str:
    """What to add to a title whose numbers are means over several seeds."""
    return " ± standard deviation over the seeds" if len(study["seeds"]) > 1 else ""


def file_stem(name: str) -> str:
    """A variant's name as part of a file's."""
    return re.sub(r"\W+", "_", name)
