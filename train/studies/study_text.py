"""Prints a study's results as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ..scores.tables import ReportTable
from .measures.base import Measure, summarised_variants
from .measures.registry import find_measure
from .measures.results import Results
from .record import StudyRecord


def print_study(study: StudyRecord, console: Console) -> None:
    """Prints a record returned by `run_study`: mean and standard deviation of the scores, in percent."""
    seeds = study["seeds"]
    head = f"{study['title']} ({study['corpus']}, {counted(len(seeds), 'seed')}, {study['protocol']})"
    console.print()
    console.print(head, markup=False, highlight=False)
    for table in study_tables(study):
        if table.title:
            console.print()
        console.print(_terminal_table(table.title, table.full_heads()[1:], table.rows))
        if table.note:
            console.print(table.note, markup=False, highlight=False)


def study_tables(study: StudyRecord) -> list[ReportTable]:
    """The tables of the results and of the study's measure.

    Raises:
        UserError: the measure is not installed or its `tables` returns the wrong type.
    """
    measure = find_measure(study["measure"])
    tables = _tables_of(Results(), study) if measure.trains and not measure.covers_results else []
    return tables if isinstance(measure, Results) else tables + _tables_of(measure, study)


def _tables_of(measure: Measure, study: StudyRecord) -> list[ReportTable]:
    tables = measure.tables(study, summarised_variants(measure, study))
    if not isinstance(tables, list) or not all(isinstance(table, ReportTable) for table in tables):
        raise UserError(f"measure {measure.name!r}: tables() must return a list of {ReportTable.__name__}")
    return tables


def _terminal_table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(escape(head), overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
