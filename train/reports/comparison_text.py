"""Prints a comparison of runs as text."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...toolkit.base.words import counted
from ..scores.resampling import dialogue_count, p_text
from ..scores.results_table import MEASURES
from .comparison import Comparison


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the runs, settings that differ, results and differences from the first run, in percent."""

    def notify(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    names = [f"[{i}]" for i in range(1, len(comparison.runs) + 1)]
    for name, run in zip(names, comparison.runs, strict=True):
        seeds = f"seed {run.seeds[0]}" if len(run.seeds) == 1 else f"mean over seeds {', '.join(map(str, run.seeds))}"
        notify(f"{name} {run.path} ({seeds})")
    first = comparison.runs[0].predictions[0]
    labelled, dialogues = int((first.true >= 0).sum()), dialogue_count(first)
    notify(
        f"test split: {counted(labelled, 'labelled utterance')} in {counted(dialogues, 'dialogue')}; results in percent"
    )
    notify("")
    if comparison.settings:
        table = _table("setting", names)
        for key, values in comparison.settings.items():
            table.add_row(escape(key), *(escape(str(value)) for value in values))
        console.print(table)
    else:
        notify("settings: identical")
    notify("")
    table = _table("result", names)
    for name, key in MEASURES.items():
        table.add_row(name, *(f"{100 * run.measures[key]:.2f}" for run in comparison.runs))
        table.add_row(
            "", *(f"{100 * run.intervals[key][0]:.1f} to {100 * run.intervals[key][1]:.1f}" for run in comparison.runs)
        )
    console.print(table)
    for name, found, test in zip(names[1:], comparison.differences, comparison.mcnemar, strict=True):
        notify("")
        table = _table(f"{name} minus {names[0]}", ["difference", "95 % interval", "p"])
        for label, key in MEASURES.items():
            d = found[key]
            interval = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
            table.add_row(label, f"{100 * d.value:+.2f}", interval, p_text(d.p))
        console.print(table)
        if test is not None:
            only, p = f"{test[0]} correct only in {names[0]}, {test[1]} only in {name}", p_text(test[2])
            notify(f"McNemar: {only}, p {p if p.startswith('<') else f'= {p}'}")
    notify("")
    notify("intervals: paired bootstrap over dialogues (and seeds, if there are several)")
    seeds = any(len(run.seeds) > 1 for run in comparison.runs)
    larger = "; with several seeds, the p of the bootstrap if larger" if seeds else ""
    notify(f"p: permutation test that swaps the two runs' predictions for whole dialogues{larger}")
    if comparison.warning:
        notify(f"warning: {comparison.warning}")


def _table(head: str, columns: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(escape(head), overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", overflow="fold")
    return table
