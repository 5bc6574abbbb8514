"""The field's table of results, for a terminal or a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_report(result: dict, console: Console) -> None:
    """Prints what `train.evaluation.evaluate_run` returns: per class and overall, in percent."""
    head = f"{result['corpus']}, {result['split']} split: {result['utterances']} labelled utterances, in percent"
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
    lines = (
        ("accuracy", result["accuracy"], ""),
        ("weighted precision", result["weighted_precision"], ""),
        ("weighted F1", result["weighted_f1"], ""),
        ("macro F1", result["macro_f1"], ""),
        ("majority baseline", result["majority_weighted_f1"], f"  weighted F1 of always {result['majority_class']!r}"),
    )
    for name, value, note in lines:
        console.print(f"{name:<20}{_percent(value):>6}{note}", markup=False, highlight=False)
    console.print(f"selected by: {result['protocol']}; seed {result['seed']}", markup=False, highlight=False)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
