"""A folder of clips with a CSV table: the simplest way to make a manifest of one's own recordings."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Annotated

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance, manifest_from_rows

MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .flv .wmv .wav .flac .mp3 .m4a .aac .ogg .opus .mts .m2ts .m2t .3gp "
    ".3g2 .mxf .dv .vob .ogv .asf .mka .oga .spx .wma .aif .aiff .aifc .au .snd .caf .amr .w64 .rf64 .mp2 .ac3 .wv "
    ".sph".split()
)
_FIELDS = {f.name for f in fields(Utterance)}
_REQUIRED = ("dialogue", "speaker")


def read_folder(
    root: Path,
    *,
    table: Annotated[Path | None, "The table, relative to ROOT.  [default: the only .csv file in ROOT]"] = None,
    labels: Annotated[
        str | None, "Labels in index order, separated by commas.  [default: those in the table, sorted]"
    ] = None,
    name: Annotated[str | None, "Name of the corpus.  [default: the folder's name]"] = None,
) -> Manifest:
    """A folder of clips with a CSV table of speakers and transcripts.

    The table's columns have the names of a manifest's fields; `file` is another name for `media`. `id` may be left out
    if each row has its own file: the id is then the file's name without its extension. Other columns are kept in
    `extra`. The rows of a dialogue are grouped in the table's order, or by `position` if there is such a column.

    Args:
        root: the folder; paths in the table are relative to it.
        table: the table, relative to root; None for the only .csv file there.
        labels: names in index order, separated by commas.
        name: name of the corpus; None for the folder's name.

    Raises:
        UserError: no folder or table, a missing column, or a row that cannot be read; names file and line.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the folder that contains the clips and their table")
    path = _table(root, table)
    rows = _rows(path)
    manifest = manifest_from_rows(path, rows, name or root.resolve().name or "folder", label_names(labels), root)
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
        found = sorted(p for p in root.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror}); make it readable") from None
    if len(found) != 1:
        there = ", ".join(p.name for p in found[:5]) or "none"
        raise UserError(f"{root}: expected exactly one .csv table, found {there}; choose one with --table")
    return found[0]


def _rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; name an existing one with --table") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as 'CSV UTF-8'") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    header = text.split("\n", 1)[0]
    separator = max(",;\t", key=header.count)  # spreadsheets write semicolons where the comma is the decimal separator
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [(column or "").strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        if "file" in columns and "media" in columns:
            raise UserError(f"{path}: has both columns 'file' and 'media', which mean the same; remove one")
        if twice := [column for i, column in enumerate(columns) if column in columns[:i]]:
            raise UserError(f"{path}: column {twice[0]!r} appears twice; rename one")
        for column in (*_REQUIRED, *([] if {"file", "media"} & set(columns) else ["id"])):
            if column not in columns:
                raise UserError(f"{path}: no column {column!r}; it has {', '.join(columns) or 'none'}")
        further = [column for column in columns if column and column not in {*_FIELDS, "file"}]
        if "extra" in columns and further:
            raise UserError(
                f"{path}: column {further[0]!r} would be stored in 'extra', which is a column as well; rename one"
            )
        found = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; is there an unclosed quote?") from None
    dialogues: dict[object, list[tuple[int, dict[str, object]]]] = {}
    for number, row in found:
        if None in row:
            raise UserError(f"{path}, line {number}: more fields than columns; put text that contains commas in quotes")
        one = _one({k: v for k, v in row.items() if k and v not in ("", None)})
        if one:
            dialogues.setdefault(one.get("dialogue"), []).append((number, one))
    if "position" in columns:
        for rows in dialogues.values():
            rows.sort(key=lambda item: _position(path, *item))
    for _, row in (item for rows in dialogues.values() for item in rows):
        row.pop("position", None)
    return [item for rows in dialogues.values() for item in rows]


def _one(row: dict[str, str]) -> dict[str, object]:
    """One row of the table as manifest fields."""
    if "file" in row:
        row["media"] = row.pop("file")
    if "media" in row:
        row["media"] = row["media"].replace("\\", "/").removeprefix("./")
        row.setdefault(
            "id", str(PurePosixPath(row["media"]).with_suffix("")) if PurePosixPath(row["media"]).name else ""
        )
    one: dict[str, object] = {k: v for k, v in row.items() if k in _FIELDS}
    if further := {k: v for k, v in row.items() if k not in _FIELDS}:
        one["extra"] = further
    return one


def _position(path: Path, number: int, row: dict[str, object]) -> int:
    value = str(row.get("position", ""))
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise UserError(f"{path}, line {number}, field position: {value!r} is not a whole number")
    return int(value)


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
        notes.append(f"{counted(len(missing), 'file')} named in the table but missing: {_some(missing)}")
    if orphans := sorted(there - named):
        notes.append(f"{counted(len(orphans), 'file')} without a row in the table, left out: {_some(orphans)}")
    if unlabelled := sum(u.label is None for u in manifest.utterances):
        notes.append(f"{counted(unlabelled, 'utterance')} without a label: context only")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
