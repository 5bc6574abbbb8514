"""Manifest files: read and checked, and written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..base.errors import UserError
from ..base.files import atomic_path
from ..base.reading.plain_json import parse_json, value_problem
from ..base.reading.plain_numbers import shown
from ..base.reading.tables import decimal_commas, read_table
from ..base.reading.texts import read_text, representable
from .lines import JsonLines
from .rows import manifest_from_rows
from .utterances import FIELDS, SCHEMA, Manifest, Utterance

_MADE_BY, _NO_HASH = "erc-toolkit {}, sha256 {}", 64 * "0"  # the hash is that of the file with this in its place
_LONGEST_HEADER = 1 << 24
TABLE_SUFFIXES = (".csv", ".tsv")
_SECONDS = ("start", "end", "audio_start", "audio_end")


def load_manifest(path: Path) -> Manifest:
    """Reads and checks a manifest file: CSV if its name ends in .csv, JSON Lines otherwise.

    Raises:
        UserError: names the file, line and field of the first error.
    """
    path = Path(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _from_table(path)
    lines = JsonLines(path)
    try:
        return _from_lines(lines)
    except UserError:
        for _ in lines:  # a line that is not JSON comes before what is wrong with a row
            pass
        raise


def _from_lines(lines: JsonLines) -> Manifest:
    path = lines.path
    next(iter(lines), None)
    header = lines.header
    if header.get("erc_manifest", SCHEMA) != SCHEMA:
        raise UserError(f"{path}: manifest schema {shown(header['erc_manifest'])}; this version reads schema {SCHEMA}")
    if unknown := set(header) - {"erc_manifest", "corpus", "labels", "root", "notes", "made_by"}:
        raise UserError(f"{path}, line 1: unknown header field {shown(sorted(unknown)[0])}")
    labels = None if header.get("labels") is None else _texts(path, "labels", header["labels"], "names")
    notes = _texts(path, "notes", header.get("notes", []), "strings")
    for name in ("corpus", "root", "made_by"):
        if not isinstance(header.get(name, ""), str):
            raise UserError(f"{path}, line 1, field {name}: must be a string")
    root = path.parent / str(header.get("root", "."))
    corpus = str(header.get("corpus") or representable(path.stem))
    return manifest_from_rows(path, lines, corpus, labels, root, [*notes, *lines.notes])


def _from_table(path: Path) -> Manifest:
    text, note = read_text(path, "manifest")  # tables come from spreadsheets; JSON is UTF-8 by its standard
    table = read_table(text, path, FIELDS)
    if table.columns and not {"id", "dialogue"} <= {*table.columns}:
        raise UserError(f"{path}, line 1: no header with the columns id, dialogue, speaker")
    rows: list[tuple[int, dict[str, object]]] = [(number, dict(row)) for number, row in table.rows]
    notes = [*([note] if note else []), *table.notes, *decimal_commas(table, _SECONDS)]
    return manifest_from_rows(path, rows, representable(path.stem), None, path.parent / ".", notes)


def _texts(path: Path, name: str, value: object, what: str) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(x, str) and x for x in value)):
        raise UserError(f"{path}, line 1, field {name}: must be a list of {what}")
    return value


def write_manifest(manifest: Manifest, path: Path, command: str = "") -> None:
    """Writes JSON Lines: the header, then one utterance per line without the fields that are None or empty.

    The root is written relative to the manifest if it is the manifest's folder, is inside it, or has the same parent,
    so that the two can be moved together; otherwise as an absolute path.

    Args:
        manifest: what to write.
        path: the file.
        command: the command that writes it, by which `is_unchanged` will know the file.

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
    try:
        write_stamped(path, header, (_line(path, utterance) for utterance in manifest.utterances), command)
    except UnicodeEncodeError:
        raise UserError(f"{path}: a file or folder name of {manifest.root} is not UTF-8; rename it") from None


def write_stamped(path: Path, header: dict[str, object], lines: Iterable[str], command: str = "") -> None:
    """Writes a header and lines of JSON, atomically.

    Args:
        path: the file.
        header: plain JSON; gets `made_by`, the command and the file's hash, if there is a command.
        lines: each with its line break.
        command: by which `is_unchanged` will know the file.

    Raises:
        UnicodeEncodeError: something cannot be represented in UTF-8.
    """
    if command:
        header = {**header, "made_by": _MADE_BY.format(command, _NO_HASH)}
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        first = (json.dumps(header, ensure_ascii=False) + "\n").encode()
        digest.update(first)
        file.write(first)
        for text in lines:
            line = text.encode()
            digest.update(line)
            file.write(line)
        if command:
            file.seek(0)
            file.write(first.replace(_NO_HASH.encode(), digest.hexdigest().encode()))


def is_unchanged(path: Path, command: str) -> bool:
    """Whether `write_manifest` wrote a file for this command and nobody has corrected it since."""
    try:
        with open(path, "rb") as file:
            first = file.readline(_LONGEST_HEADER)
            made_by = parse_json(first.decode())["made_by"]
            stated = made_by[-len(_NO_HASH) :]
            if made_by != _MADE_BY.format(command, stated):
                return False
            digest = hashlib.sha256(first.replace(stated.encode(), _NO_HASH.encode()))
            for line in file:
                digest.update(line)
            return stated == digest.hexdigest()
    except (OSError, ValueError, LookupError, TypeError):  # somebody else's
        return False


def _line(path: Path, utterance: Utterance) -> str:
    row = {name: value for name in FIELDS if (value := getattr(utterance, name)) is not None and value != {}}
    if problem := value_problem(row):  # of a manifest that a program made; files were checked when they were read
        raise UserError(f"{path}, utterance {shown(row.get('id'))}, {problem}")
    try:
        return json.dumps(row, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: the 'extra' of an utterance cannot be written as JSON ({error})") from None


def _relative_root(root: Path, folder: Path) -> str:
    root, folder = root.resolve(), folder.resolve()
    try:
        relative = PurePosixPath(Path(os.path.relpath(root, folder)).as_posix())
    except ValueError:  # Windows, on another drive
        return str(root)
    return str(root) if relative.parts[:2] == ("..", "..") else str(relative)
