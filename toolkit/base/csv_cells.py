"""Tables of comma-separated values that a spreadsheet does not run: no cell is taken for a formula.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line's end for a formula, which may start
programs or send the table away. As OWASP recommends, such a cell is written with an apostrophe before it. Numbers,
also negative ones, are written as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_SIGNS = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"  # a spreadsheet may read the full-width signs like the others
_FORMULA, _ESCAPED = re.compile(f"'*{_SIGNS}"), re.compile(f"'+{_SIGNS}")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?: ?%)?(?: ± [0-9.]+)?\*?")


def safe_cell(text: str) -> str:
    """A text as the cell of a table; `original_cell` returns the text."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original_cell(cell: str) -> str:
    """The text of a cell that `safe_cell` returned."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV with line feeds at their ends; texts as by `safe_cell`, other values by `str`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()
