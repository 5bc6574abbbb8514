"""A folder of clips with a CSV table: the simplest way to make a manifest of one's own recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from ...toolkit.base.errors import UserError
from ...toolkit.base.media_endings import MEDIA_SUFFIXES
from ...toolkit.base.reading.plain_numbers import parse_clock, parse_number, parse_whole, shown
from ...toolkit.base.reading.tables import column_key, decimal_commas, read_table
from ...toolkit.base.reading.texts import read_text, representable
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance, manifest_from_rows
from .tree import some

TABLE_SUFFIXES = (".csv", ".tsv")
_FIELDS = {f.name for f in fields(Utterance)}
_TIMES = ("start", "end", "audio_start", "audio_end")
_IN_MS = tuple(f"{name}_ms" for name in _TIMES)
_KNOWN = {*_FIELDS, "file", *_IN_MS}
_REQUIRED = ("dialogue", "speaker")


def read_folder(
    root: Path,
    *,
    table: Annotated[Path | None, "The table, relative to ROOT.  [default: the only .csv or .tsv file in ROOT]"] = None,
    columns: Annotated[
        str | None, "Names of the columns in order, separated by commas, for a table without a header."
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms"] | None, "Unit of start and end without one.  [default: s; ms for start_ms, end_ms]"
    ] = None,
    labels: Annotated[
        str | None, "Labels in index order, separated by commas.  [default: those in the table, sorted]"
    ] = None,
    name: Annotated[str | None, "Name of the corpus.  [default: the folder's name]"] = None,
) -> Manifest:
    """A folder of clips with a CSV table of speakers and transcripts.

    Cells are separated by commas, semicolons or tabs. The columns have the names of a manifest's fields, in any case;
    `file` is another name for `media`, and `start_ms` and `end_ms` are times in milliseconds. `id` may be left out
    if each row has its own file: the id is then the file's name without its extension. Other columns are kept in
    `extra`. The rows of a dialogue are grouped in the table's order, or by `position` if there is such a column.

    Args:
        root: the folder; paths in the table are relative to it.
        table: the table, relative to root; None for the only .csv or .tsv file there.
        columns: the names of the columns, separated by commas, if the table has no header.
        time_unit: the unit of `start` and `end`: "s", or "ms"; None for seconds.
        labels: names in index order, separated by commas.
        name: name of the corpus; None for the folder's name.

    Raises:
        UserError: no folder or table, a missing column, or a row that cannot be read; names file and line.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the folder that contains the clips and their table")
    path = _table(root, table)
    given = () if columns is None else [column_key(one) for one in columns.split(",")]
    rows, notes = _rows(path, given, time_unit)
    corpus = name or representable(root.resolve().name) or "folder"
    manifest = manifest_from_rows(path, rows, corpus, label_names(labels), root, notes)
    manifest.notes += _differences(manifest, root)
    return manifest


def label_names(option: str | None) -> list[str] | None:
    """The names given with the option --labels, or None."""
    if option is None:
        return None
    names = [name for name in (one.strip() for one in option.split(",")) if name]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UserError(f"--labels {option}: {twice[0]!r} appears twice; remove one")
    return names


def _table(root: Path, table: Path | None) -> Path:
    if table is not None:
        return root / table
    try:
        found = sorted(p for p in root.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror}); make it readable") from None
    if len(found) != 1:
        there = ", ".join(p.name for p in found[:5]) or "none"
        raise UserError(f"{root}: expected exactly one .csv or .tsv table, found {there}; choose one with --table")
    return found[0]


def _rows(path: Path, given: Sequence[str], unit: str | None) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """The rows as manifest fields, grouped by dialogue, and notes on what was assumed."""
    text, note = read_text(path, "table", "name an existing one with --table")
    table = read_table(text, path, _KNOWN, columns=given)
    columns = table.columns
    if "file" in columns and "media" in columns:
        raise UserError(f"{path}: has both columns 'file' and 'media', which mean the same; remove one")
    for column in (*_REQUIRED, *([] if {"file", "media"} & set(columns) else ["id"])):
        if column not in columns:
            there = shown(", ".join(filter(None, columns)) or "none", 200)
            raise UserError(f"{path}: no column {column!r}; it has {there}; name columns in order with --columns")
    further = [column for column in columns if column and column not in _KNOWN]
    if "extra" in columns and further:
        raise UserError(
            f"{path}: column {further[0]!r} would be stored in 'extra', which is a column as well; rename one"
        )
    notes = [note] if note else []
    notes += table.notes + decimal_commas(table, _TIMES)
    dialogues: dict[object, list[tuple[int, dict[str, object]]]] = {}
    for number, row in table.rows:
        one = _one(row, f"{path}, line {number}", unit)
        dialogues.setdefault(one.get("dialogue"), []).append((number, one))
    if in_ms := [name for name in columns if name in _IN_MS]:
        notes.append(f"{path.name}: {', '.join(in_ms)} read as milliseconds, as the names say")
    if unit == "ms" and set(_TIMES) & set(columns):
        notes.append(f"{path.name}: times read as milliseconds, as --time-unit says")
    if "position" in columns:
        for rows in dialogues.values():
            rows.sort(key=lambda item: _position(path, *item))
    for _, row in (item for rows in dialogues.values() for item in rows):
        row.pop("position", None)
    return [item for rows in dialogues.values() for item in rows], notes


def _one(row: dict[str, str], where: str, unit: str | None) -> dict[str, object]:
    """One row of the table as manifest fields."""
    if "file" in row:
        row["media"] = row.pop("file")
    if "media" in row:
        row["media"] = row["media"].replace("\\", "/").removeprefix("./")
        row.setdefault(
            "id", str(PurePosixPath(row["media"]).with_suffix("")) if PurePosixPath(row["media"]).name else ""
        )
    one: dict[str, object] = {k: v for k, v in row.items() if k in _FIELDS}
    for name in _TIMES:
        in_ms = f"{name}_ms" in row
        if in_ms and name in row:
            raise UserError(f"{where}: has both {name} and {name}_ms; remove one")
        value = row.get(f"{name}_ms", row.get(name))
        if value is not None and (in_ms or unit == "ms"):
            number = parse_number(value)
            if number is None and parse_clock(value) is None:
                raise UserError(f"{where}, field {name}: {shown(value)} is not a number of milliseconds")
            one[name] = value if number is None else number / 1000
    if further := {k: v for k, v in row.items() if k not in _KNOWN}:
        one["extra"] = further
    return one


def _position(path: Path, number: int, row: dict[str, object]) -> int:
    position = parse_whole(str(row.get("position", "")))
    if position is None:
        raise UserError(
            f"{path}, line {number}, field position: {shown(row.get('position', ''))} is not a whole number"
        )
    return position


def _differences(manifest: Manifest, root: Path) -> list[str]:
    """Notes on files that are only in the folder or only in the table."""
    named = {path for u in manifest.utterances for path in (u.media, u.audio) if path is not None}
    there = set()
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        clips = (f for f in files if not f.startswith(".") and Path(f).suffix.lower() in MEDIA_SUFFIXES)
        there |= {(inside / clip).as_posix() for clip in clips}
    notes = []
    if missing := sorted(path for path in named - there if not os.path.exists(root / path)):
        notes.append(f"{counted(len(missing), 'file')} named in the table but missing: {some(missing)}")
    if orphans := sorted(there - named):
        notes.append(f"{counted(len(orphans), 'file')} without a row in the table, left out: {some(orphans)}")
    if unlabelled := sum(u.label is None for u in manifest.utterances):
        notes.append(f"{counted(unlabelled, 'utterance')} without a label: context only")
    return notes
