"""The report of a study: its variants side by side, and what it measured besides."""

from __future__ import annotations

import math
import re

import numpy as np
from matplotlib.figure import Figure

from ..config import OPTIMISTIC
from ..reports.figures import confusion_figure, dots_figure, grid_figure, lines_figure
from ..reports.page import OPTIMISTIC_WARNING, Page, Section
from ..scores.tables import ReportTable, mean_and_spread, percent
from .definition import DONE
from .model_tables import models_tables
from .summary import measured_runs, noise_means, place_groups, place_means

_NAMES = {
    "weighted_f1": "weighted F1",
    "accuracy": "accuracy",
    "weighted_precision": "w. precision",
    "macro_f1": "macro F1",
    "uar": "unweighted recall",
}


def study_page(study: dict[str, object]) -> Page:
    """The report of what `erc_toolkit.train.studies.runs.run_study` returns."""
    sections = [_costs(study)] if study["measure"] == "cost" else [_results(study)]
    if study["measure"] == "models":
        sections.append(Section("Models", models_tables(study)))
    extra = {"noise": _noise, "positions": _positions, "confusion": _confusion}.get(study["measure"])
    if extra is not None and any(m for _, runs in measured_runs(study) for m in runs):
        sections.append(extra(study))
    if left := _left_out(study):
        sections.append(left)
    seeds = study["seeds"]
    facts = [
        ("corpus", study["corpus"]),
        ("store", f"{study['store']['path']} ({study['store']['content_sha256'][:12]})"),
        ("recipe", study["recipe"]),
        ("changed for all", ", ".join(study["changes"]) or "nothing"),
        ("seeds", ", ".join(map(str, seeds))),
        ("epoch selected by", study["protocol"]),
    ]
    if study["shows"]:
        facts.append(("in the paper", study["shows"]))
    warnings = [OPTIMISTIC_WARNING] if study["protocol"] == OPTIMISTIC else []
    if study["measure"] != "cost" and len(seeds) < 3:
        warnings.append(
            f"{len(seeds)} seed{'s' * (len(seeds) > 1)}: differences between variants may be chance; use --seeds 5."
        )
    return Page(f"{study['title']} on {study['corpus']}", facts, [], warnings, sections)


def _results(study: dict[str, object]) -> Section:
    rows = [
        [
            row["name"],
            mean_and_spread((row["selected"] or {}).get("weighted_f1")),
            *(mean_and_spread((row["test"] or {}).get(name)) for name in _NAMES),
        ]
        for row in study["variants"]
    ]
    several = " ± standard deviation over the seeds" if len(study["seeds"]) > 1 else ""
    head = ["", "selected split, weighted F1", *_NAMES.values()]
    section = Section("Results", [ReportTable("results", f"Test split, percent{several}", head, rows)])
    done = [row for row in study["variants"] if row["test"]]
    if not done:
        return section
    values = [[100 * v for v in row["test"]["weighted_f1"]["values"]] for row in done]
    means = [np.mean(v) for v in values]
    deviations = [100 * (row["test"]["weighted_f1"]["std"] or 0) for row in done]
    numbers = [_number(row["name"]) for row in done]
    if len(done) > 2 and None not in numbers and len({name for name, _ in numbers}) == 1:
        figure = lines_figure(
            [n for _, n in numbers],
            {"test": means},
            numbers[0][0].replace("_", " "),
            "test weighted F1, percent",
            {"test": deviations},
        )
    else:
        figure = dots_figure([row["name"] for row in done], means, deviations, values, "test weighted F1, percent")
    section.figures.append(("weighted_f1", f"Test weighted F1: mean{several or ' of one seed'}.", figure))
    keys = {tuple(row["changes"]) for row in study["variants"]}
    if len(keys) == 1 and len(pair := keys.pop()) == 2:
        section.figures.append(("grid", "Test weighted F1 of every combination.", _combinations(done, pair)))
    return section


def _combinations(done: list[dict[str, object]], keys: tuple[str, str]) -> Figure:
    down, across = (list({str(row["changes"][key]): None for row in done}) for key in keys)
    values = np.full((len(down), len(across)), math.nan)
    for row in done:
        place = (down.index(str(row["changes"][keys[0]])), across.index(str(row["changes"][keys[1]])))
        values[place] = 100 * row["test"]["weighted_f1"]["mean"]
    return grid_figure(down, across, values, keys, "test weighted F1, percent")


def _number(name: str) -> tuple[str, float] | None:
    """("window", 4.0) of "window 4"; None of anything else."""
    found = re.fullmatch(r"(\w+) (-?[\d.]+(?:e-?\d+)?)", name)
    return (found.group(1), float(found.group(2))) if found else None


def _costs(study: dict[str, object]) -> Section:
    columns = (
        ("parameters", 1, "parameters", 0),
        ("inference_ms", 1, "ms an utterance", 4),
        ("throughput", 1, "utterances/s", 0),
        ("batch_ms", 1, "ms a training batch", 1),
        ("epoch_s", 1, "s a training epoch", 2),
        ("flops", 1e-6, "MFLOPs an utterance", 1),
    )
    done = [(row["name"], row["runs"][0]["measured"]) for row in study["variants"] if row["runs"][0]["status"] == DONE]
    rows = []
    for name, measured in done:
        cells = []
        for key, factor, _, digits in columns:
            value, base = factor * measured[key], factor * done[0][1][key]
            change = "" if name == done[0][0] else f" ({100 * (value / base - 1):+.1f} %)"
            cells.append(f"{value:,.{digits}f}{change}")
        rows.append([name, *cells])
    device = done[0][1]["device"] if done else ""
    note = f"Medians on {device}; in brackets against the first row. Operations are those of matrix products, at inference."
    return Section("Cost", [ReportTable("cost", "Time and size", ["", *(c[2] for c in columns)], rows, note)])


def _noise(study: dict[str, object]) -> Section:
    section = Section("Noise at test time")
    for name, runs in measured_runs(study):
        if not runs:
            continue
        levels = list(runs[0]["all"])
        lines = {which: noise_means(runs, which, levels) for which in runs[0]}
        slug = _slug(name)
        rows = [[which, *(f"{v:.2f}" for v in values)] for which, values in lines.items()]
        table = ReportTable(
            f"noise_{slug}",
            f"{name}: weighted F1, percent, by standard deviations of noise",
            ["noise on", *levels],
            rows,
        )
        section.tables.append(table)
        figure = lines_figure(
            [float(x) for x in levels], lines, "standard deviations of noise", "test weighted F1, percent"
        )
        section.figures.append((f"noise_{slug}", f"{name}: noise on all modalities and on each alone.", figure))
    return section


def _positions(study: dict[str, object]) -> Section:
    measured = [(name, runs) for name, runs in measured_runs(study) if runs]
    groups = place_groups(study)
    means = {name: place_means(runs, groups) for name, runs in measured}
    lines = {name: values[1:] for name, values in means.items()}
    rows = [[name, *map(_shown, values)] for name, values in means.items()]
    dialogues = measured[0][1][0]["dialogues"]
    table = ReportTable(
        "positions", f"Weighted F1, percent, in {dialogues} dialogues", ["", "all places", *groups], rows
    )
    section = Section("By place in the dialogue", [table])
    if dialogues:
        figure = lines_figure(groups, lines, "place in the dialogue", "test weighted F1, percent")
        section.figures.append(("positions", "Weighted F1 over the dialogue.", figure))
    else:
        section.warning = "The test split has no dialogue of such a length."
    return section


def _confusion(study: dict[str, object]) -> Section:
    section = Section("Confusion")
    for name, runs in measured_runs(study):
        if runs:
            matrix = np.sum([m["confusion"] for m in runs], 0)
            seeds = f", summed over {len(runs)} seeds" if len(runs) > 1 else ""
            text = f"{name}: true emotion down, predicted across{seeds}."
            section.figures.append((f"confusion_{_slug(name)}", text, confusion_figure(runs[0]["labels"], matrix)))
    return section


def _left_out(study: dict[str, object]) -> Section | None:
    rows = [
        [row["name"], str(run["seed"]), run["status"] or "not run yet", run["reason"]]
        for row in study["variants"]
        for run in row["runs"]
        if run["status"] != DONE
    ]
    return (
        Section("Left out", [ReportTable("left_out", "Runs without a result", ["", "seed", "", "why"], rows)])
        if rows
        else None
    )


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else percent(value / 100)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)
