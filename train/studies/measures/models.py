"""Comparison of models: scores by emotion and overall, size and time, and significant differences."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ...reports.published import unfilled
from ...scores.metrics import Measures
from ...scores.tables import ReportTable, mean_and_spread, percent
from ..record import DONE, PairRecord, SignificanceRecord, StudyRecord, VariantRecord
from .base import Measure, RunAtHand, SummarisedVariant, spread_note

if TYPE_CHECKING:
    from ...reports.page import Section

OVERALL = {
    "accuracy": "accuracy",
    "weighted_precision": "w. precision",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
}
LEVEL = 0.05


class RunCost(TypedDict):
    """The cost of a run: `epoch_s` is the median over its epochs, `seconds` the total training time."""

    parameters: int
    epochs: int
    epoch_s: float
    seconds: float
    device: str


@dataclass(frozen=True, slots=True)
class RunCostSummary:
    """Medians of `RunCost` over the seeds; parameters and device are those of the first seed."""

    parameters: int
    epochs: float
    epoch_s: float
    seconds: float
    device: str


class Models(Measure[RunCost, RunCostSummary]):
    """The tables common in papers; the table of overall scores replaces the results table."""

    covers_results = True

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> RunCost:
        from ...loop.run_folder import METRICS, read_result

        finished: Any = read_result(run.folder)
        lines = (run.folder / METRICS).read_text(encoding="utf-8").splitlines()
        return run_cost(finished["result"], [json.loads(line) for line in lines])

    def summarise(self, measured: Sequence[RunCost]) -> RunCostSummary:
        return RunCostSummary(
            measured[0]["parameters"],
            statistics.median(cost["epochs"] for cost in measured),
            statistics.median(cost["epoch_s"] for cost in measured),
            statistics.median(cost["seconds"] for cost in measured),
            measured[0]["device"],
        )

    def conclude(self, study: StudyRecord, out: Path) -> dict[str, object]:
        """Adds `significance` between variants with every seed done and tested; None if there are fewer than two."""
        folders = {}
        for variant in study["variants"]:
            runs = variant["runs"]
            if runs and all(run["status"] == DONE and run["result"] and run["result"]["test"] for run in runs):
                folders[variant["name"]] = (out / runs[0]["folder"]).parent
        return {"significance": significance(folders) if len(folders) > 1 else None}

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[RunCostSummary]]) -> list[ReportTable]:
        significant = study.get("significance")
        tables = [
            _emotions_table(study),
            _overall_table(study, significant["intervals"] if significant else {}),
            _cost_table(variants),
        ]
        if significant:
            tables.append(_pairs_table(study, significant["pairs"], significant.get("warning", "")))
        return tables

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[RunCostSummary]]) -> Section:
        from ...reports.page import Section

        return Section("Models", self.tables(study, variants))


def run_cost(result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> RunCost:
    """The cost of a finished run, from the result of training and the lines of its metrics.jsonl."""
    return {
        "parameters": result["parameters"],
        "epochs": len(lines),
        "epoch_s": statistics.median(line["seconds"] for line in lines),
        "seconds": result["seconds"],
        "device": result["device"],
    }


def significance(folders: Mapping[str, Path]) -> SignificanceRecord:
    """Interval of each variant's weighted F1 and, for every pair, whether the difference is significant.

    Args:
        folders: maps each variant to the folder with the finished runs of its seeds.

    Returns:
        intervals: maps each variant to [low, high] of weighted F1 on the test split; pairs: first, second, difference
        (second minus first), low, high, p of `erc_toolkit.train.scores.resampling.differences`, and the
        Holm-corrected p_holm; warning, or "".
    """
    from ...reports.comparison import load
    from ...scores.resampling import DRAWS, dialogue_count, differences, few_dialogues

    runs = {name: load(folder) for name, folder in folders.items()}
    found = {
        (first, second): differences(runs[first].predictions, runs[second].predictions, DRAWS)["weighted_f1"]
        for first, second in itertools.combinations(runs, 2)
    }
    corrected = holm([difference.p for difference in found.values()])
    pairs: list[PairRecord] = [
        {"first": first, "second": second, "difference": d.value, "low": d.low, "high": d.high, "p": d.p, "p_holm": p}
        for ((first, second), d), p in zip(found.items(), corrected, strict=True)
    ]
    bounds = {name: list(run.intervals["weighted_f1"]) for name, run in runs.items()}
    warning = few_dialogues(dialogue_count(next(iter(runs.values())).predictions[0])) or ""
    return {"intervals": bounds, "pairs": pairs, "warning": warning}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, which controls the family-wise error rate."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def _emotions_table(study: StudyRecord) -> ReportTable:
    rows = []
    for variant in study["variants"]:
        tests = _tests(variant)
        cells = [
            _mean_percent([test["per_class"][label][measure] for test in tests])
            for label in study["labels"]
            for measure in ("precision", "f1")
        ]
        rows.append([_name_with_runs(variant), *cells])
    return ReportTable(
        "per_class",
        "Precision and F1 of each emotion, test split, percent",
        ["", *(["precision", "F1"] * len(study["labels"]))],
        rows,
        unfilled(study["shows"]),
        [("", 1), *((label, 2) for label in study["labels"])],
    )


def _overall_table(study: StudyRecord, intervals: Mapping[str, Sequence[float]]) -> ReportTable:
    rows = []
    for variant in study["variants"]:
        test = variant.get("test") or {}
        bounds = intervals.get(variant["name"])
        interval = f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else "–"
        cells = [mean_and_spread(test.get(score)) for score in OVERALL]
        rows.append([_name_with_runs(variant), *cells, interval])
    head = ["", *OVERALL.values(), "95 % interval of weighted F1"]
    return ReportTable("overall", f"Test split, percent{spread_note(study)}", head, rows)


def _cost_table(variants: Sequence[SummarisedVariant[RunCostSummary]]) -> ReportTable:
    rows = []
    for variant in variants:
        if cost := variant.summary:
            cells = [f"{cost.parameters:,}", f"{cost.epoch_s:.2f}", f"{cost.epochs:g}", f"{cost.seconds:.0f}"]
            rows.append([variant.name, *cells])
    device = next((variant.summary.device for variant in variants if variant.summary), "")
    note = f"Medians over the runs, including evaluation on the validation split, on {device}."
    return ReportTable("cost", "Size and time", ["", "parameters", "s/epoch", "epochs", "s in total"], rows, note)


def _pairs_table(study: StudyRecord, pairs: Sequence[PairRecord], warning: str) -> ReportTable:
    compared = {name for pair in pairs for name in (pair["first"], pair["second"])}
    names = [variant["name"] for variant in study["variants"] if variant["name"] in compared]
    found = {(pair["first"], pair["second"]): (pair["difference"], pair["p_holm"]) for pair in pairs}
    found |= {(second, first): (-difference, p) for (first, second), (difference, p) in found.items()}
    rows = []
    for name in names:
        cells = []
        for other in names:
            if name == other:
                cells.append("")
                continue
            difference, p = found[other, name]
            cells.append(f"{100 * difference:+.1f}{'*' if p < LEVEL else ''}")
        rows.append([name, *cells])
    note = (
        f"Weighted F1 of the row minus that of the column, in points. * significant at {100 * LEVEL:g} %: "
        "permutation test over dialogues and bootstrap over dialogues and seeds, the larger p, Holm-corrected for the "
        f"number of pairs.{f' Warning: {warning}.' if warning else ''}"
    )
    return ReportTable("pairs", "Significant differences", ["", *names], rows, note)


def _tests(variant: VariantRecord) -> list[Measures]:
    """Test scores of the runs that have them."""
    results = [run["result"] for run in variant["runs"] if run["status"] == DONE and run["result"]]
    return [test for result in results if (test := result["test"])]


def _name_with_runs(variant: VariantRecord) -> str:
    """The name and, if runs are missing, how many there are."""
    tested, runs = len(_tests(variant)), len(variant["runs"])
    return variant["name"] if tested == runs else f"{variant['name']} ({tested} of {runs} runs)"


def _mean_percent(fractions: Sequence[float]) -> str:
    return percent(statistics.fmean(fractions)) if fractions else "–"
