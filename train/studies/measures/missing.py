"""Results on the test split without some features: hidden at random, and whole modalities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ....toolkit.base.errors import UserError
from ...scores.coded import coded, dialogue_lengths, from_coded
from ...scores.metrics import Spread
from ...scores.tables import ReportTable, mean_and_spread, percent
from ..record import DONE, StudyRecord
from .base import Measure, RunAtHand, SummarisedVariant, spread_note

if TYPE_CHECKING:
    from ...loop.evaluation import OpenedRun
    from ...reports.page import Section


class Condition(TypedDict):
    """What is missing: `hidden`, the share of the test split's features that are hidden; and what was predicted:
    `weighted_f1`, a fraction, and the classes of all test utterances, as `erc_toolkit.train.scores.coded.coded`."""

    hidden: float
    weighted_f1: float
    predicted: str


class MissingScores(TypedDict):
    """Of one run: `rates` maps a rate and `kept` the modalities that are left, joined by " + ", to its condition.

    `dialogues` and `true` are the test split's, as in board.json.
    """

    modalities: list[str]
    dialogues: list[int]
    true: str
    rates: dict[str, Condition]
    kept: dict[str, Condition]


@dataclass(frozen=True, slots=True)
class MissingSummary:
    """Over the seeds: share hidden and weighted F1 of every condition, by rate and by what is left."""

    hidden: dict[str, float]
    rates: dict[str, Spread]
    kept: dict[str, Spread]


class Missing(Measure[MissingScores, MissingSummary]):
    """`rates`: with which each feature is hidden at random; an utterance keeps at least one.

    How the model sees what is hidden is the variant's `data.missing_as`. Beside the rates, every subset of the
    modalities is tried, all others being hidden.
    """

    keys = ("rates",)

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        rates = given.get("rates", [0.0])
        if not isinstance(rates, list) or not rates or not all(type(x) in (int, float) and 0 <= x < 1 for x in rates):
            raise UserError(f"{where}: rates must be a non-empty list of numbers from 0, below 1")
        return {"rates": [float(rate) for rate in rates]}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> MissingScores:
        from ...loop.evaluation import opened_run

        with opened_run(run.folder, None, run.device, lambda line: None) as opened:
            return missing_scores(opened, settings["rates"])

    def summarise(self, measured: Sequence[MissingScores]) -> MissingSummary:
        from ...loop.seeds import spread_of

        def over_seeds(part: str) -> dict[str, Spread]:
            names = dict.fromkeys(name for one in measured for name in _part(one, part))
            return {
                name: spread_of([_part(one, part)[name]["weighted_f1"] for one in measured if name in _part(one, part)])
                for name in names
            }

        hidden = {rate: condition["hidden"] for rate, condition in measured[0]["rates"].items()}
        return MissingSummary(hidden, over_seeds("rates"), over_seeds("kept"))

    def conclude(self, study: StudyRecord, out: Path) -> dict[str, object]:
        """Adds `missing_intervals`: variant to condition to the 95 % interval of weighted F1."""
        from ...scores.resampling import intervals

        found: dict[str, dict[str, list[float]]] = {}
        for variant in study["variants"]:
            measured: list[MissingScores] = [
                run["measured"] for run in variant["runs"] if run["status"] == DONE and run["measured"] is not None
            ]
            if not measured:
                continue
            own = found.setdefault(variant["name"], {})
            for part in ("rates", "kept"):
                for name in _part(measured[0], part):
                    runs = [
                        from_coded(study["labels"], one["dialogues"], one["true"], _part(one, part)[name]["predicted"])
                        for one in measured
                        if name in _part(one, part)
                    ]
                    own[name] = list(intervals(runs)["weighted_f1"])
        return {"missing_intervals": found}

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[MissingSummary]]) -> list[ReportTable]:
        shown = [variant for variant in variants if variant.summary is not None]
        if not shown:
            return []
        return [
            _table("missing_rates", "hidden at random, share", "rates", study, shown),
            _table("missing_kept", "only these modalities", "kept", study, shown),
        ]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[MissingSummary]]) -> Section | None:
        from ...reports.figures import lines_figure
        from ...reports.page import PageFigure, Section

        shown = [variant for variant in variants if variant.summary is not None]
        if not shown:
            return None
        section = Section("Missing modalities at test time", self.tables(study, variants), stacked=True)
        rates = list(dict.fromkeys(rate for v in shown if v.summary for rate in v.summary.rates))
        lines = {
            v.name: [100 * v.summary.rates[rate]["mean"] if rate in v.summary.rates else np.nan for rate in rates]
            for v in shown
            if v.summary
        }
        figure = lines_figure(
            [float(rate) for rate in rates], lines, "probability that a feature is hidden", "test weighted F1, percent"
        )
        section.figures.append(PageFigure("missing", "Features hidden at random in the test split.", figure))
        return section


def missing_scores(opened: OpenedRun, rates: Sequence[float]) -> MissingScores:
    """Scores on the test split with some of its features hidden, the same ones in every run.

    Raises:
        UserError: the run has one modality alone, of which nothing can be hidden, or no labelled test split.
    """
    import torch

    from ...data.features import divide, rows_of
    from ...data.missing import hidden_at_random
    from ...loop.evaluation import predict, score, tabulate

    run, store = opened.run, opened.store
    modalities = list(run.dims)
    if len(modalities) < 2:
        raise UserError(f"{run.path}: has the modality {modalities[0]} alone; to hide some, train on two or more")
    division = divide(store, run.facts["validation"]["held_out"])
    if not len(division.test):
        raise UserError(f"{store.path}: has no test split, in which features could be hidden")
    rows = rows_of(store.offsets, division.test)
    present = {m: np.asarray(x.cpu()) for m, x in opened.data.presence().items()}
    there = sum(int(present[m][rows].sum()) for m in modalities)
    settings, zeros = run.config.train, run.config.data.missing_as == "zeros"
    tables = []

    def condition(hidden: Mapping[str, np.ndarray]) -> Condition:
        data = opened.data.hiding({m: torch.from_numpy(x) for m, x in hidden.items()}, zeros)
        prediction = predict(opened.model, data, division.test, settings.batch_size, settings.precision)
        prediction.check_finite(run.path)
        scores = score(prediction, store.column("label"), store.labels, opened.counts)
        if scores is None:
            raise UserError(f"{store.path}: the test split has no label")
        tables.append(tabulate(store, prediction))
        share = sum(int(x[rows].sum()) for x in hidden.values()) / max(there, 1)
        return {"hidden": share, "weighted_f1": scores["weighted_f1"], "predicted": coded(tables[-1].predicted)}

    by_rate = {f"{rate:g}": condition(hidden_at_random(present, rate)) for rate in rates}
    kept = {}
    for count in range(len(modalities), 0, -1):
        for left in itertools.combinations(modalities, count):
            kept[" + ".join(left)] = condition({m: present[m] for m in modalities if m not in left})
    return {
        "modalities": modalities,
        "dialogues": dialogue_lengths(tables[0]),
        "true": coded(tables[0].true),
        "rates": by_rate,
        "kept": kept,
    }


def _part(scores: MissingScores, part: str) -> dict[str, Condition]:
    return scores["rates"] if part == "rates" else scores["kept"]


def _table(
    name: str, title: str, part: str, study: StudyRecord, variants: Sequence[SummarisedVariant[MissingSummary]]
) -> ReportTable:
    """Weighted F1 of every variant in every condition of one kind, with its interval."""
    summaries = {v.name: v.summary for v in variants if v.summary is not None}
    conditions = list(dict.fromkeys(c for summary in summaries.values() for c in getattr(summary, part)))
    bounds: Any = study.get("missing_intervals", {})
    rows = []
    for variant, summary in summaries.items():
        cells = []
        for condition in conditions:
            spread = getattr(summary, part).get(condition)
            interval = bounds.get(variant, {}).get(condition)
            text = mean_and_spread(spread)
            cells.append(text if interval is None else f"{text} ({percent(interval[0])} to {percent(interval[1])})")
        rows.append([variant, *cells])
    hidden = next(iter(summaries.values())).hidden
    note = f"Weighted F1, test split, percent{spread_note(study)} (95 % interval over dialogues and seeds)."
    if part == "rates":
        shares = ", ".join(f"{rate}: {percent(share)} %" for rate, share in hidden.items())
        note += f" An utterance keeps at least one modality, so the share that is really hidden is lower: {shares}."
    return ReportTable(name, title, ["", *conditions], rows, note)
