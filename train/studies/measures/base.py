"""The contract of a study's measure.

A measure is one object that defines everything about what it measures: the keys it adds to the study file, how a run
is measured, how the seeds of a variant are summarised, its tables in the terminal and its section on the page.
`registry.py` looks it up by the name given under `measure:` in a study file; docs/how-to/studies.md has an example.

`study --list` loads the measure of every study, so measures should import PyTorch and matplotlib inside the methods
that use them.
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
    """A run to measure.

    Attributes:
        plan: the open store, the settings and the training plan; `plan.model()` builds an untrained model.
        folder: the run folder; it contains a finished run if the measure trains.
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
    """A variant with its measure's summary over the seeds.

    Attributes:
        record: the variant as stored in study.json.
        summary: None if no run has been measured.
    """

    record: VariantRecord
    summary: Summary | None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.record["name"]


class Measure(ABC, Generic[Measured, Summary]):
    """Base class of study measures. It is instantiated without arguments and must be stateless.

    `Measured` is the JSON-serializable measurement of one run; it is stored in study.json, and a run is not measured
    again with the same settings. `Summary` is whatever the tables and the section need.

    Attributes:
        name: the registered name; set by the registry.
        keys: the keys it adds to the study file.
        trains: False if no trained model is needed. Then nothing is trained, and each variant is measured with the
            first seed only, one at a time, so that timings are reliable.
        together: True if it does not train and measures all variants in turns, in one process (`measure_together`), so
            that their timings are comparable.
        covers_results: True if its tables in the terminal include the results, so that the results table is omitted.
    """

    name: str = ""
    keys: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    together: ClassVar[bool] = False
    covers_results: ClassVar[bool] = False

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        """Validates the measure's keys and returns the settings passed to `measure`, JSON-serializable.

        Args:
            given: those of `keys` that the study file contains.
            where: the file, for error messages.

        Raises:
            UserError: a value is invalid.
        """
        return {}

    @abstractmethod
    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> Measured:
        """Measures a run. Called in a separate process; an exception fails only this run.

        Args:
            run: the run, finished if the measure trains.
            settings: the return value of `check`.
        """

    def measure_together(
        self, runs: Sequence[RunAtHand], settings: Mapping[str, Any]
    ) -> Sequence[Measured | Exception]:
        """Measures all variants, for measures that are `together`; an exception in its place fails one run."""
        return [self.measure(run, settings) for run in runs]

    @abstractmethod
    def summarise(self, measured: Sequence[Measured]) -> Summary:
        """Summarises the seeds of a variant; there is at least one."""

    @abstractmethod
    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Summary]]) -> list[ReportTable]:
        """Tables for the terminal, in order; a table's title is printed as the heading of its first column."""

    @abstractmethod
    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[Summary]]) -> Section | None:
        """The section of the page; None if there is nothing to show."""

    def conclude(self, study: StudyRecord, out: Path) -> Mapping[str, object]:
        """Conclusions over all runs, added to study.json and so available to `tables` and `section`.

        Args:
            study: the record with every run.
            out: the study's folder.
        """
        return {}

    def brief(self, measured: Measured) -> str:
        """A short description of a measurement for the progress line; used if nothing is trained."""
        return "measured"


def summarised_variants(measure: Measure[Measured, Summary], study: StudyRecord) -> list[SummarisedVariant[Summary]]:
    """Every variant of a study with the summary of its finished, measured runs."""
    found = []
    for variant in study["variants"]:
        measured = [run["measured"] for run in variant["runs"] if run["status"] == DONE and run["measured"] is not None]
        found.append(SummarisedVariant(variant, measure.summarise(measured) if measured else None))
    return found


def mean_percent(fractions: Sequence[float]) -> float:
    """The mean in percent; NaN if empty."""
    return 100 * sum(fractions) / len(fractions) if fractions else math.nan


def shown_percent(value: float, absent: str = "-") -> str:
    """A number in percent as tables show it; `absent` for NaN."""
    return absent if math.isnan(value) else f"{value:.2f}"


def spread_note(study: StudyRecord) -> str:
    """A suffix for titles of numbers that are means over several seeds."""
    return " ± standard deviation over the seeds" if len(study["seeds"]) > 1 else ""


def file_stem(name: str) -> str:
    """A variant's name in a form usable in file names."""
    return re.sub(r"\W+", "_", name)
