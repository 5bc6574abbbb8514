"""Manifest files: read and checked, and written."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.reading.plain_json import parse_json, value_problem
from ..base.reading.plain_numbers import shown
from ..base.reading.tables import decimal_commas, read_table
from ..base.reading.texts import read_text, representable
from .rows import manifest_from_rows
from .utterances import FIELDS, SCHEMA, Manifest

TABLE_SUFFIXES = (".csv", ".tsv")
_SECONDS = ("start", "end", "audio_start", "audio_end")


def load_manifest(path: Path) -> Manifest:
    """Reads and checks a manifest file: CSV if its name ends in .csv, JSON Lines otherwise.

    Raises:
        UserError: names the file, line and field of the first error.
    """
    path = Path(path)
    # JSON is UTF-8 by its standard; tables come from spreadsheets.
    is_table = path.suffix.lower() in TABLE_SUFFIXES
    text, note = read_text(path, "manifest", windows=is_table)
    found = [note] if note else []
    header: dict[str, object] = {}
    rows: list[tuple[int, dict[str, object]]] = []
    if is_table:
        table = read_table(text, path, FIELDS)
        if table.columns and not {"id", "dialogue"} <= {*table.columns}:
            raise UserError(f"{path}, line 1: no header with the columns id, dialogue, speaker")
        rows = [(number, dict(row)) for number, row in table.rows]
        found += table.notes + decimal_commas(table, _SECONDS)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}{',' if str(error).startswith('field') else ':'} {error}"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object with the fields of an utterance")
            if "erc_manifest" in row:
                if rows or header:
                    raise UserError(f"{path}, line {number}: the header must be the first line and occur only once")
                header = row
            else:
                rows.append((number, row))
    if header.get("erc_manifest", SCHEMA) != SCHEMA:
        raise UserError(f"{path}: manifest schema {shown(header['erc_manifest'])}; this version reads schema {SCHEMA}")
    if unknown := set(header) - {"erc_manifest", "corpus", "labels", "root", "notes"}:
        raise UserError(f"{path}, line 1: unknown header field {shown(sorted(unknown)[0])}")
    labels = None if header.get("labels") is None else _texts(path, "labels", header["labels"], "names")
    notes = _texts(path, "notes", header.get("notes", []), "strings")
    for name in ("corpus", "root"):
        if not isinstance(header.get(name, ""), str):
            raise UserError(f"{path}, line 1, field {name}: must be a string")
    root = path.parent / str(header.get("root", "."))
    return manifest_from_rows(
        path, rows, str(header.get("corpus") or representable(path.stem)), labels, root, [*notes, *found]
    )


def _texts(path: Path, name: str, value: object, what: str) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(x, str) and x for x in value)):
        raise UserError(f"{path}, line 1, field {name}: must be a list of {what}")
    return value


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes JSON Lines: the header, then one utterance per line without the fields that are None or empty.

    The root is written relative to the manifest if it is the manifest's folder, is inside it, or has the same parent,
    so that the two can be moved together; otherwise as an absolute path.

    Raises:
        UserError: the path cannot be written to, or the contents cannot be represented in JSON or UTF-8.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        raise UserError(f"{path}: manifests are written as JSON Lines; name it .jsonl")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; create it first")
    header = {
        "erc_manifest": SCHEMA,
        "corpus": manifest.corpus,
        "labels": manifest.labels,
        "root": _relative_root(manifest.root, path.parent),
    }
    if manifest.notes:
        header["notes"] = manifest.notes
    rows = ({name: getattr(u, name) for name in FIELDS} for u in manifest.utterances)
    lines = [header, *({k: v for k, v in row.items() if v is not None and v != {}} for row in rows)]
    for row in lines[1:]:  # of a manifest that a program made; files were checked when they were read
        if problem := value_problem(row):
            raise UserError(f"{path}, utterance {shown(row.get('id'))}, {problem}")
    try:
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{path}: a file or folder name of {manifest.root} is not UTF-8; rename it") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: the 'extra' of an utterance cannot be written as JSON ({error})") from None
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another location"
        ) from None


def _relative_root(root: Path, folder: Path) -> str:
    root, folder = root.resolve(), folder.resolve()
    try:
        relative = PurePosixPath(Path(os.path.relpath(root, folder)).as_posix())
    except ValueError:  # Windows, on another drive
        return str(root)
    return str(root) if relative.parts[:2] == ("..", "..") else str(relative)
