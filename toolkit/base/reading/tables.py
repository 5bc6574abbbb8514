"""Tables that people, spreadsheets and speech recognisers write: one reader for all of them.

Comma, semicolon or tab, or what Excel's first line `sep=;` says; any line ends; quoted cells or none; with a header, or
without one where the order of the columns is known. `toolkit.base.reading.texts` decodes the file.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..words import counted
from .plain_numbers import parse_number, shown

_SEPARATORS = ",;\t|"  # the pipe only where a header shows it
_SEP_LINE = re.compile(r'"?sep=([^\w\s"\\]|\t|\\t)"?', re.IGNORECASE)
_NOT_WORD = re.compile(r"[\W_]+")
_END = "\x1eend\x1e"  # a row after the last one: it is missing if a quote swallowed it


@dataclass(frozen=True)
class Table:
    """A table with named columns.

    Attributes:
        source: the file, for messages.
        columns: the names; known ones as the reader spells them, others as in the file, without surrounding blanks.
        rows: (number of the line where the row begins, column to cell), without empty cells; rows without any cell are
            left out.
        separator: the character between cells.
        has_header: whether the names are those of the file.
        notes: what was assumed.
    """

    source: str
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    separator: str
    has_header: bool = True
    notes: list[str] = field(default_factory=list)


def read_table(
    text: str,
    source: str | Path,
    known: Mapping[str, str] | Collection[str],
    *,
    columns: Sequence[str] = (),
    headless: Callable[[list[str]], Sequence[str]] = lambda row: (),
    escapes: Callable[[str, str], bool] = lambda line, separator: False,
    quotes: Callable[[str, str], bool] = lambda line, separator: True,
) -> Table:
    """Reads a table.

    Args:
        text: from `decode_text`.
        source: the file, for messages.
        known: column names that the reader knows, in the form of `column_key`; or a mapping from such names to the
            reader's. The table's names match in any case, with blanks or hyphens for underscores.
        columns: the names of the columns in order, if the user gave them; a first line with just these names is a
            header.
        headless: given the cells of the first row, names of the columns if it is a row and not a header.
        escapes: given the first line and the separator, whether the program that wrote the table writes backslashes
            before quotes.
        quotes: likewise, whether it writes quoted cells at all.

    Raises:
        UserError: names the source and the line: a column twice, more cells than columns, an open quote.
    """
    spelling = dict(known) if isinstance(known, Mapping) else {name: name for name in known}
    separator, body, skipped = _declared_separator(text)
    first = _first_line(body)
    if separator is None:
        if columns:
            headless = lambda cells: columns if len(cells) == len(columns) else ()  # noqa: E731
        separator = _header_separator(first, spelling, columns) or _row_separator(body, headless)
    quoted = quotes(first, separator) and (separator != "\t" or _well_quoted(body, separator))
    backslashes = '\\"' in body and escapes(first, separator)
    rows = _cells(body, source, separator, skipped, quoted, backslashes)
    found = next(rows, None)
    if found is None:
        return Table(str(source), [], [], separator)
    line, cells = found
    names = [_spelled(cell, spelling) for cell in cells]
    notes: list[str] = []
    given = [_spelled(name, spelling) for name in columns] or list(headless(cells))
    has_header = not given or names == given
    if given and not has_header:
        notes.append(f"{Path(source).name}: no header; the columns are {', '.join(given)}")
        names = given
    while names and not names[-1]:  # a separator at the end of each line
        names.pop()
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{source}, line {line}: column {shown(twice[0])} appears twice; rename one")
    body_rows = [] if has_header else [(line, _row(cells, names, source, line))]
    body_rows += [(number, _row(cells, names, source, number)) for number, cells in rows]
    return Table(str(source), names, [row for row in body_rows if row[1]], separator, has_header, notes)


def read_rows(text: str, source: str | Path, known: Sequence[str]) -> list[list[str]]:
    """The rows of a table whose columns the caller checks, the header first, with every cell as it is.

    Args:
        text: from `decode_text`.
        source: the file, for messages.
        known: names of some columns, by which the separator is found.

    Raises:
        UserError: names the source and the line.
    """
    separator, body, skipped = _declared_separator(text)
    first = _first_line(body)
    separator = separator or _header_separator(first, {name: name for name in known}, ()) or ","
    return [cells for _, cells in _cells(body, source, separator, skipped, True, False, blanks=True)]


def column_key(name: str) -> str:
    """A column's name for comparison: in small letters, with one underscore for anything but letters and digits."""
    return _NOT_WORD.sub("_", name.strip().casefold()).strip("_")


def _spelled(cell: str, spelling: Mapping[str, str]) -> str:
    return spelling.get(column_key(cell), cell.strip())


def _row(cells: list[str], names: list[str], source: str | Path, line: int) -> dict[str, str]:
    if any(cells[len(names) :]):
        raise UserError(
            f"{source}, line {line}: more fields than columns ({len(cells)}, not {len(names)}); put text that contains "
            "the separator in quotes"
        )
    for name, cell in zip(names, cells, strict=False):
        if "\0" in cell:
            raise UserError(f"{source}, line {line}, field {shown(name)}: contains a NUL character")
    return {name: cell for name, cell in zip(names, cells, strict=False) if name and cell != ""}


def _first_line(text: str) -> str:
    # Not str.splitlines, which also splits at U+0085, U+2028 and others that occur inside texts.
    for start in range(0, len(text), 1 << 16):
        line = text[start : start + (1 << 16)].lstrip("\r\n")
        if line:
            return line.split("\n", 1)[0].split("\r", 1)[0]
    return ""


def _declared_separator(text: str) -> tuple[str | None, str, int]:
    """(separator of Excel's line `sep=;` or None, the table, number of lines before it)."""
    match = _SEP_LINE.fullmatch(text[:16].split("\n", 1)[0].split("\r", 1)[0])
    if match is None:
        return None, text, 0
    rest = text[match.end() :]
    return "\t" if match[1] == "\\t" else match[1], rest.removeprefix("\r").removeprefix("\n"), 1


def _header_separator(line: str, spelling: Mapping[str, str], columns: Sequence[str]) -> str | None:
    """The separator that gives the most known names, or, if the order of columns is given, the right number."""
    wanted = {*spelling, *map(column_key, columns)}
    best: tuple[int, int, str | None] = (0, 0, None)
    for separator in _SEPARATORS:
        # Cells are not unquoted here, as the separator inside quotes only splits a name that is then unknown.
        cells = [column_key(cell) for cell in line.split(separator)]
        best = max(best, (sum(cell in wanted for cell in cells), len(cells), separator), key=lambda one: one[:2])
    return best[2] if best[0] else None


def _row_separator(text: str, headless: Callable[[list[str]], Sequence[str]]) -> str:
    """The separator of a table without known names: one with which the first rows are rows; else the most frequent."""
    line = _first_line(text)
    for separator in "\t;,":
        for cells in csv.reader([line], delimiter=separator, skipinitialspace=True):
            if headless(cells):
                return separator
    return max(_SEPARATORS, key=line.count)


def _well_quoted(text: str, separator: str) -> bool:
    """Whether cells that begin with a quote end with one, and no quote is open at the end."""
    if '"' not in text:
        return True
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            pass
    except csv.Error:
        return False
    return True


def _cells(
    text: str, source: str | Path, separator: str, skipped: int, quoted: bool, backslashes: bool, blanks: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, cells) of every row that is not blank."""
    end = _END
    while end in text:
        end += _END
    reader = csv.reader(
        io.StringIO(f"{text}\n{end}\n", newline=""),
        delimiter=separator,
        skipinitialspace=separator != "\t" and not blanks,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        escapechar="\\" if backslashes else None,
    )
    before, line = 0, 1
    try:
        for cells in reader:
            line, before = before + 1 + skipped, reader.line_num
            if cells == [end]:
                return
            if cells and (len(cells) > 1 or cells[0].strip()):
                if end in cells[-1]:
                    break
                yield line, cells
    except csv.Error as error:
        raise UserError(
            f"{source}, line {before + 1 + skipped}: {error}; is there an unclosed quote, or is it no table?"
        ) from None
    raise UserError(f"{source}, line {line}: a quote is opened and not closed; write a quote within quotes twice")


def decimal_commas(table: Table, columns: Collection[str]) -> list[str]:
    """A note on the numbers of these columns that are written with a decimal comma, or nothing."""
    cells = (row[name] for _, row in table.rows for name in columns if name in row)
    count = sum("," in cell and parse_number(cell) is not None for cell in cells)
    return [f"{Path(table.source).name}: {counted(count, 'number')} with a decimal comma"] if count else []
