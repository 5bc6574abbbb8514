"""A study's results, for a terminal or a pipe."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..scores.tables import ReportTable
from .definition import DONE, FAILED
from .model_tables import models_tables
from .summary import measured_runs, noise_means, place_groups, place_means


def print_study(study: dict[str, object], console: Console) -> None:
    """Prints what `erc_toolkit.train.studies.runs.run_study` returns, in percent: mean and standard deviation over the seeds."""
    seeds = study["seeds"]
    head = f"{study['title']} ({study['corpus']}, {len(seeds)} seed{'s' * (len(seeds) != 1)}, {study['protocol']})"
    console.print()
    console.print(head, markup=False, highlight=False)
    if study["measure"] == "models":
        for table in models_tables(study):
            console.print()
            console.print(_shown_table(table))
            if table.note:
                console.print(table.note, markup=False, highlight=False)
        return
    console.print(_costs(study) if study["measure"] == "cost" else _results(study))
    if study["measure"] == "noise":
        console.print()
        console.print(_noise(study))
    if study["measure"] == "positions":
        console.print()
        console.print(_positions(study))


def _results(study: dict[str, object]) -> Table:
    table = _table("", ["selected wF1", "test wF1", "accuracy", "macro F1"])
    for row in study["variants"]:
        cells = [_spread(row["selected"], "weighted_f1")]
        cells += [_spread(row["test"], name) for name in ("weighted_f1", "accuracy", "macro_f1")]
        note = _note(row)
        table.add_row(escape(row["name"]) + (f" ({escape(note)})" if note else ""), *cells)
    return table


def _costs(study: dict[str, object]) -> Table:
    table = _table("", ["parameters", "ms an utterance", "utterances/s", "ms a batch", "s an epoch", "MFLOPs"])
    for row in study["variants"]:
        run = row["runs"][0]
        if run["status"] != DONE:
            table.add_row(f"{escape(row['name'])} ({escape(_note(row))})", *["-"] * 6)
            continue
        m = run["measured"]
        cells = [f"{m['parameters']:,}", f"{m['inference_ms']:.3f}", f"{m['throughput']:.0f}", f"{m['batch_ms']:.1f}"]
        table.add_row(escape(row["name"]), *cells, f"{m['epoch_s']:.2f}", f"{m['flops'] / 1e6:.1f}")
    return table


def _noise(study: dict[str, object]) -> Table:
    levels = list(
        dict.fromkeys(level for _, runs in measured_runs(study) for m in runs for row in m.values() for level in row)
    )
    table = _table("weighted F1 with noise on", levels)
    for name, runs in measured_runs(study):
        for which in dict.fromkeys(which for m in runs for which in m):
            table.add_row(f"{escape(name)}: {which}", *map(_shown, noise_means(runs, which, levels)))
    return table


def _positions(study: dict[str, object]) -> Table:
    groups = place_groups(study)
    dialogues = next((m["dialogues"] for _, runs in measured_runs(study) for m in runs), 0)
    table = _table(f"weighted F1 by place, {dialogues} dialogues", ["all", *groups])
    for name, runs in measured_runs(study):
        table.add_row(escape(name), *map(_shown, place_means(runs, groups)))
    return table


def _shown_table(told: ReportTable) -> Table:
    table = _table(told.title, told.head[1:])
    for name, *cells in told.rows:
        table.add_row(escape(name), *map(escape, cells))
    return table


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _spread(part: dict | None, name: str) -> str:
    if part is None:
        return "-"
    deviation = part[name]["std"]
    return f"{100 * part[name]['mean']:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def _note(row: dict[str, object]) -> str:
    other = [run for run in row["runs"] if run["status"] != DONE]
    if not other:
        return ""
    failed = sum(run["status"] == FAILED for run in other)
    return f"{failed} failed" if failed else "skipped" if other[0]["status"] else "not run"


def _table(head: str, columns: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(head, overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    return table
