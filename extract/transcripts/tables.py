"""Transcripts as tables: spreadsheets, whisper's .tsv, whisper.cpp's .csv, Audacity's labels, RTTM."""

from __future__ import annotations

from pathlib import Path

from ...toolkit.base.csv_cells import original_cell
from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_numbers import parse_clock, parse_number, parse_whole, shown
from ...toolkit.base.reading.tables import Table, column_key, decimal_commas, read_table
from ...toolkit.predict.turns import COLUMNS
from .turns import NAMES, UNKNOWN, Transcript, Turn, Unit, are_ms, roles, seconds

_KNOWN = {name: name for names in NAMES.values() for name in names}
_KNOWN |= {f"{name}_{unit}": f"{name}_{unit}" for name in NAMES["start"] + NAMES["end"] for unit in ("s", "ms")}
# Both programs write whole milliseconds under these headers; a table with these names by hand has whole seconds.
_WHISPER = (["start", "end", "text"], ["start", "end", "speaker", "text"])


def read_table_of_turns(
    text: str,
    source: Path,
    unit: Unit | None = None,
    columns: tuple[str, ...] = (),
    duration: float | None = None,
) -> Transcript:
    """Reads a table with a row for each turn.

    Args:
        text: the file's content.
        source: the file, for messages.
        unit: of times that are plain numbers; None to go by the names of columns and the program's form.
        columns: names of the columns in order, for a table without a header.
        duration: of the recording in seconds, by which the unit is checked; None if it is unknown.

    Raises:
        UserError: names file and line.
    """
    table = read_table(
        text,
        source,
        _KNOWN,
        columns=columns,
        headless=lambda cells: _headless(cells, source),
        # Early versions of whisper.cpp; others write backslashes as they are.
        escapes=lambda line, separator: separator == "," and [column_key(c) for c in line.split(",")] in _WHISPER,
        # whisper does not quote, so a quote at the beginning of a text is one.
        quotes=lambda line, separator: separator != "\t" or [column_key(c) for c in line.split("\t")] not in _WHISPER,
    )
    found, by_name = roles(table.columns, f"{source}, line 1")
    notes = [*table.notes, *decimal_commas(table, [c for what in ("start", "end") for c in found.get(what, ())])]
    used: Unit = unit or by_name or "s"
    assumed = unit is None and by_name is None
    if assumed and (writer := _whisper(table, duration)):
        used, assumed = "ms", False
        notes.append(f"{source.name}: times read as milliseconds, as {writer} writes them")
    elif used == "ms":
        why = "--time-unit says" if unit else "the names of the columns say"
        notes.append(f"{source.name}: times read as milliseconds, as {why}")
    turns: list[Turn] = []
    plain = False
    ours = tuple(table.columns[: len(COLUMNS)]) == COLUMNS  # `predict` writes texts by `safe_cell`
    for i, (line, row) in enumerate(table.rows, 1):
        if set(row.values()) <= {"\\"} or row.get(table.columns[0]) == "\\":  # Audacity's range of frequencies
            continue
        where = f"{source}, line {line}, row {i}"
        if ours:
            row = {name: original_cell(cell) for name, cell in row.items()}

        def given(what: str, row: dict[str, str] = row) -> str | None:
            return next((row[name] for name in found.get(what, ()) if name in row), None)

        start = seconds(given("start"), f"{where}, start", used)
        end = given("end")
        plain = plain or parse_number(given("start") or "") is not None
        if end is None and (lasts := given("duration")) is not None:
            stop = start + seconds(lasts, f"{where}, duration", used)
        else:
            stop = seconds(end, f"{where}, end", used)
        turns.append(
            {
                "start": start,
                "end": stop,
                "speaker": (given("speaker") or "").strip() or UNKNOWN,
                "text": (given("text") or "").strip(),
            }
        )
    return Transcript(turns, assumed and plain, notes)


def read_rttm(text: str, source: Path) -> Transcript:
    """Reads NIST's RTTM: `SPEAKER file channel start duration <NA> <NA> name …`, in seconds; it has no words."""
    turns: list[Turn] = []
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split()
        if not cells or cells[0] != "SPEAKER":
            continue
        where = f"{source}, line {number}"
        if len(cells) < 8:
            raise UserError(f"{where}: {len(cells)} fields, but RTTM has 8 or more; is the line cut off?")
        start = seconds(cells[3], f"{where}, start")
        turns.append(
            {
                "start": start,
                "end": start + seconds(cells[4], f"{where}, duration"),
                "speaker": cells[7],
                "text": "",
            }
        )
    return Transcript(turns, notes=[f"{source.name}: RTTM has speakers and times, no words: the texts are empty"])


def looks_like_labels(text: str) -> bool:
    """Whether a .txt file is a table of times, as Audacity exports its labels."""
    first = next((line for line in text[: 1 << 16].splitlines() if line.strip()), "")
    return len(cells := first.split("\t")) > 1 and all(map(_is_time, cells[:2]))


def _headless(cells: list[str], source: Path) -> list[str]:
    """The names of the columns, if the first row has times and is no header."""
    times = [_is_time(cell) for cell in cells[:4]]
    width = len(cells)
    if width < 2 or times[:2] != [True, True]:
        in_the_middle = width == 4 and times[1:3] == [True, True]
        return ["speaker", "start", "end", "text"] if in_the_middle else []
    if width == 4 and times[2] and cells[0].strip() in ("0", "1") and _later(cells[1], cells[2]):
        raise UserError(
            f"{source}, line 1: no header, and the first three cells are numbers ({shown(','.join(cells[:3]))}); name "
            "the columns with --columns, e.g. --columns number,start,end,text"
        )
    return ["start", "end", *{2: [], 3: ["text"]}.get(width, ["speaker", "text"])]


def _is_time(cell: str) -> bool:
    return parse_number(cell) is not None or parse_clock(cell) is not None


def _later(first: str, second: str) -> bool:
    one, two = ((parse_number(cell), parse_clock(cell)) for cell in (first, second))
    return (one[0] or one[1] or 0) < (two[0] or two[1] or 0)


def _whisper(table: Table, duration: float | None) -> str:
    """The program whose form the table has, if it writes whole milliseconds, else ""."""
    if not table.has_header or [column_key(name) for name in table.columns] not in _WHISPER:
        return ""
    times = [(parse_whole(row.get("start", "")), parse_whole(row.get("end", ""))) for _, row in table.rows]
    if any(start is None or end is None for start, end in times):
        return ""
    if not are_ms([(start or 0, end or 0) for start, end in times], duration):
        return ""
    return "whisper (.tsv)" if table.separator == "\t" else "whisper.cpp (-ocsv)"
