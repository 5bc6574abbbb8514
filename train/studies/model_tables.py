"""Different models side by side: the tables of the papers (per class, overall, size and time), and which differences hold."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from ..reports.comparison import load
from ..scores.resampling import DRAWS, differences
from ..scores.tables import ReportTable, mean_and_spread, percent
from .definition import DONE

OVERALL = {
    "accuracy": "accuracy",
    "weighted_precision": "w. precision",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
}
LEVEL = 0.05


def size_and_time(result: dict[str, object], lines: Sequence[dict[str, object]]) -> dict[str, object]:
    """What a finished run took, as JSON holds it: parameters, epochs, epoch_s (the median of its epochs), seconds in all."""
    return {
        "parameters": result["parameters"],
        "epochs": len(lines),
        "epoch_s": statistics.median(line["seconds"] for line in lines),
        "seconds": result["seconds"],
        "device": result["device"],
    }


def significance(out: Path, folders: dict[str, str]) -> dict[str, object]:
    """Intervals of each variant's weighted F1 and, for every pair, whether the difference holds.

    Args:
        out: folder of the study.
        folders: variant to the folder with its seeds, below `out`; those that are finished.

    Returns:
        intervals: variant to [low, high] of the test split's weighted F1; pairs: first, second, difference (second minus
        first), low, high, p of the paired bootstrap over dialogues and seeds, and p_holm, p by Holm's correction for
        the number of pairs.
    """
    runs = {name: load(out / folder) for name, folder in folders.items()}
    names, pairs = list(runs), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            d = differences(runs[first].predictions, runs[second].predictions, DRAWS)["weighted_f1"]
            pairs.append(
                {"first": first, "second": second, "difference": d.value, "low": d.low, "high": d.high, "p": d.p}
            )
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs])):
        pair["p_holm"] = p
    return {"intervals": {name: list(run.intervals["weighted_f1"]) for name, run in runs.items()}, "pairs": pairs}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: with it, the chance that any of the pairs is called different by chance is bounded."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def models_tables(study: dict[str, object]) -> list[ReportTable]:
    """The tables of a study of models, from what `erc_toolkit.train.studies.runs.run_study` returns."""
    several = " ± standard deviation over the seeds" if len(study["seeds"]) > 1 else ""
    bounds = (study.get("significance") or {}).get("intervals", {})
    labels, rows, overall, cost = study["labels"], [], [], []
    for row in study["variants"]:
        tests = [
            run["result"]["test"]
            for run in row["runs"]
            if run["status"] == DONE and run["result"] and run["result"]["test"]
        ]
        name = (
            row["name"]
            if len(tests) == len(row["runs"])
            else f"{row['name']} ({len(tests)} of {len(row['runs'])} runs)"
        )
        rows.append([name, *(_mean([t["per_class"][label]["f1"] for t in tests]) for label in labels)])
        interval = (
            [percent(bounds[row["name"]][0]) + " to " + percent(bounds[row["name"]][1])]
            if row["name"] in bounds
            else ["–"]
        )
        overall.append([name, *(mean_and_spread((row["test"] or {}).get(key)) for key in OVERALL), *interval])
        took = [run["measured"] for run in row["runs"] if run["status"] == DONE and run["measured"]]
        if took:
            middle = {key: statistics.median(t[key] for t in took) for key in ("epoch_s", "epochs", "seconds")}
            cells = (
                f"{took[0]['parameters']:,}",
                f"{middle['epoch_s']:.2f}",
                f"{middle['epochs']:g}",
                f"{middle['seconds']:.0f}",
            )
            cost.append([row["name"], *cells])
    device = next(
        (run["measured"]["device"] for row in study["variants"] for run in row["runs"] if run["measured"]), ""
    )
    tables = [
        ReportTable("per_class", "F1 of each emotion, test split, percent", ["", *labels], rows),
        ReportTable(
            "overall", f"Test split, percent{several}", ["", *OVERALL.values(), "95 % interval of weighted F1"], overall
        ),
        ReportTable(
            "cost",
            "Size and time",
            ["", "parameters", "s an epoch", "epochs", "s in all"],
            cost,
            f"Medians over the runs, with the evaluation of the validation split, on {device}.",
        ),
    ]
    if significant := study.get("significance"):
        tables.append(_pairs(study, significant["pairs"]))
    return tables


def _pairs(study: dict[str, object], pairs: list[dict[str, object]]) -> ReportTable:
    names = [row["name"] for row in study["variants"] if any(row["name"] in (p["first"], p["second"]) for p in pairs)]
    found = {(p["first"], p["second"]): (p["difference"], p["p_holm"]) for p in pairs}
    found |= {(b, a): (-difference, p) for (a, b), (difference, p) in found.items()}
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
        f"Weighted F1 of the row minus that of the column, in points. * holds at {100 * LEVEL:g} %: paired bootstrap over dialogues and "
        "seeds, corrected for the number of pairs by Holm."
    )
    return ReportTable("pairs", "Which differences hold", ["", *names], rows, note)


def _mean(fractions: list[float]) -> str:
    return percent(statistics.fmean(fractions)) if fractions else "–"
