"""The usual table of results, for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...toolkit.base.words import counted
from .resampling import few_dialogues

MEASURES = {
    "accuracy": "accuracy",
    "weighted precision": "weighted_precision",
    "weighted F1": "weighted_f1",
    "macro F1": "macro_f1",
    "unweighted recall": "uar",
}


def print_report(result: Mapping[str, Any], console: Console) -> None:
    """Prints what `erc_toolkit.train.loop.evaluation.evaluate_run` returns: per class and overall, in percent."""
    count = result["utterances"]
    head = f"{result['corpus']}, {result['split']} split: {counted(count, 'labelled utterance')}, in percent"
    console.print(head, markup=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("precision", "recall", "F1", "support"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in result["per_class"].items():
        numbers = [_percent(row[key]) for key in ("precision", "recall", "f1")]
        table.add_row(escape(name), *numbers, str(row["support"]))
    console.print(table)
    console.print()
    for name, key in MEASURES.items():
        bounds = result.get("intervals", {}).get(key)
        interval = f"  [{_percent(bounds[0])}, {_percent(bounds[1])}]" if bounds else ""
        console.print(f"{name:<20}{_percent(result[key]):>6}{interval}", markup=False, highlight=False)
    note = f"  weighted F1 of always predicting {result['majority_class']!r}"
    console.print(
        f"{'majority baseline':<20}{_percent(result['majority_weighted_f1']):>6}{note}", markup=False, highlight=False
    )
    if "ece" in result:
        console.print(f"{'calibration error':<20}{_percent(result['ece']):>6}", markup=False, highlight=False)
    if "intervals" in result:
        console.print("in brackets: 95 % intervals, dialogues resampled", markup=False, highlight=False)
        if warning := few_dialogues(result["dialogues"]):
            console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"selected by: {result['protocol']}; seed {result['seed']}", markup=False, highlight=False)
    for name, groups in result.get("by", {}).items():
        console.print()
        console.print(_groups(name, groups))


def _groups(name: str, groups: dict[str, dict[str, float]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"by {name}", overflow="fold")
    for head in ("utterances", "accuracy", "weighted F1"):
        table.add_column(head, justify="right", no_wrap=True)
    for group, row in groups.items():
        table.add_row(escape(group), str(row["utterances"]), _percent(row["accuracy"]), _percent(row["weighted_f1"]))
    return table


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
