"""The reading of a manifest as it was before it was made fast: the whole text, then all rows, then every check in turn.

What the tests compare the fast one with; it is slow, and short enough to be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.reading import plain_json
from erc_toolkit.toolkit.base.reading.plain_json import MOST_DEPTH, text_problem
from erc_toolkit.toolkit.base.reading.plain_numbers import MOST_SECONDS, finite, parse_clock, parse_whole, shown
from erc_toolkit.toolkit.base.reading.same_names import SameNames
from erc_toolkit.toolkit.base.reading.tables import decimal_commas, read_table
from erc_toolkit.toolkit.base.reading.texts import read_text, representable
from erc_toolkit.toolkit.manifest import MODALITIES, SCHEMA, SPLITS, TABLE_SUFFIXES, Manifest, Utterance
from erc_toolkit.toolkit.manifest.faces import face_problem
from erc_toolkit.toolkit.manifest.utterances import FIELDS

_SECONDS = ("start", "end", "audio_start", "audio_end")
_MOST_CHANNELS = 1024
_SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val"}


def parse_json_by_walking(text):
    try:
        value = json.loads(
            text, parse_int=plain_json._whole, parse_float=plain_json._float, object_pairs_hook=plain_json._object
        )
    except RecursionError:
        raise ValueError(f"not JSON that can be read (nested more than {MOST_DEPTH} deep)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON ({error.reason})") from None
    if problem := problem_by_walking(value):
        raise ValueError(problem)
    return value


def problem_by_walking(value, name=""):
    for where, one, depth in plain_json._walk(value, name):
        if problem := plain_json._problem(one, depth):
            shown = where if len(where) <= 120 else f"{where[:120]}…"
            return f"field {shown}: {problem}" if where else problem
    return ""


def path_problem(relative):
    from pathlib import PurePosixPath, PureWindowsPath

    if "\0" in relative:
        return "contains a NUL character"
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).is_absolute():
        return "is absolute"
    if ".." in PurePosixPath(relative).parts or ".." in PureWindowsPath(relative).parts:
        return "leaves the root"
    return None


def load_slowly(path: Path) -> Manifest:
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
                row = parse_json_by_walking(line)
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
    return _from_rows(path, rows, str(header.get("corpus") or representable(path.stem)), labels, root, [*notes, *found])


def _texts(path: Path, name: str, value: object, what: str) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(x, str) and x for x in value)):
        raise UserError(f"{path}, line 1, field {name}: must be a list of {what}")
    return value


def _from_rows(source, rows, corpus, labels, root, notes=(), unit="line"):
    utterances: list[Utterance] = []
    for name, value in (("corpus", corpus), ("labels", labels), ("notes", list(notes))):
        if problem := problem_by_walking(value, name):
            raise UserError(f"{source}, {problem}")
    names, found = _labels(source, rows, labels)
    splits = SameNames((*SPLITS, *_SPLIT_ALIASES))
    ids: dict[str, int] = {}
    dialogue_split: dict[str, str] = {}
    finished: set[str] = set()
    for number, row in rows:
        previous = utterances[-1] if utterances else None
        where = f"{source}, {unit} {number}"
        utterance = _utterance(where, row, previous, names, splits)
        if utterance.id in ids:
            raise UserError(f"{where}, field id: {utterance.id!r} is already in {unit} {ids[utterance.id]}")
        ids[utterance.id] = number
        if previous is not None and previous.dialogue != utterance.dialogue:
            finished.add(previous.dialogue)
        if utterance.dialogue in finished:
            raise UserError(
                f"{where}, field dialogue: {utterance.dialogue!r} is not contiguous; put its utterances together"
            )
        if dialogue_split.setdefault(utterance.dialogue, utterance.split) != utterance.split:
            raise UserError(f"{where}, field split: dialogue {utterance.dialogue!r} is in two splits")
        utterances.append(utterance)
    if not utterances:
        raise UserError(f"{source}: contains no utterances")
    if labels is None:
        labels = sorted({u.label for u in utterances if u.label is not None})
    found += [*names.notes("label"), *splits.notes("split")]
    # A reader's manifest is checked again when it is read from a file, which finds the same once more.
    return Manifest(corpus, list(labels), root, utterances, [*notes, *(note for note in found if note not in notes)])


def _labels(
    source: str | Path, rows: list[tuple[int, dict[str, object]]], labels: list[str] | None
) -> tuple[SameNames, list[str]]:
    """The names of the labels, by which those that differ in case only are recognised."""
    if labels is None:
        given = (row.get("label") for _, row in rows)
        return SameNames.most_frequent(name for name in given if isinstance(name, str) and name), []
    names = SameNames(labels)
    if names.twice:
        raise UserError(f"{source}, line 1, field labels: a name occurs twice: {', '.join(map(shown, names.twice))}")
    return names, []


def _utterance(where, row, previous, labels, splits) -> Utterance:
    for name in row:
        if name not in FIELDS:
            raise UserError(f"{where}: unknown field {shown(name)}; put further columns under 'extra'")

    def required_text(name: str) -> str:
        value = text(name, required=True)
        assert value is not None
        return value

    def text(name: str, required: bool = False) -> str | None:
        value = row.get(name)
        if value is None:
            if required:
                raise UserError(f"{where}, field {name}: missing")
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if problem := problem_by_walking(value, name):
                raise UserError(f"{where}, {problem}")
            value = str(value)
        if not isinstance(value, str) or (required and not value):
            raise UserError(f"{where}, field {name}: must be a {'non-empty ' if required else ''}string")
        if problem := text_problem(value):
            raise UserError(f"{where}, field {name}: {problem}")
        return value

    def seconds(name: str) -> float | None:
        value = row.get(name)
        if value is None:
            return None
        number = finite(value)
        if number is None and isinstance(value, str):
            number = parse_clock(value)
        if number is None:
            raise UserError(f"{where}, field {name}: {shown(value)} is not a number of seconds")
        if abs(number) > MOST_SECONDS:
            raise UserError(f"{where}, field {name}: {shown(value)} s is longer than any recording")
        return number

    def path(name: str) -> str | None:
        value = text(name)
        if value is not None and (problem := path_problem(value)):
            raise UserError(f"{where}, field {name}: {value!r} {problem}; paths are relative to the root")
        return value or None

    dialogue = required_text("dialogue")
    expected = previous.position + 1 if previous is not None and previous.dialogue == dialogue else 0
    position = row.get("position", expected)
    if isinstance(position, str) and (number := parse_whole(position)) is not None:
        position = number
    if isinstance(position, bool) or position != expected:
        raise UserError(
            f"{where}, field position: {shown(position)}, but the next in dialogue {dialogue!r} is {expected}"
        )
    label = text("label") or None
    if label is not None and (label := labels.find(label)) is None:
        raise UserError(
            f"{where}, field label: {shown(row['label'])} is not one of the header's labels {list(labels.names)}"
        )
    split = text("split") or "train"
    split = splits.find(split) or split
    split = _SPLIT_ALIASES.get(split, split)
    if split not in SPLITS:
        raise UserError(f"{where}, field split: {shown(split)}; must be one of {', '.join(SPLITS)}")
    return Utterance(
        id=required_text("id"),
        dialogue=dialogue,
        position=expected,
        speaker=required_text("speaker"),
        text=text("text") or "",
        label=label,
        split=split,
        media=path("media"),
        audio=path("audio"),
        start=seconds("start"),
        end=seconds("end"),
        audio_start=seconds("audio_start"),
        audio_end=seconds("audio_end"),
        audio_channel=_channel(where, row.get("audio_channel")),
        region=_region(where, row.get("region")),
        speaker_face=_face(where, row.get("speaker_face")),
        mask=_mask(where, row.get("mask")),
        extra=_object(where, "extra", row.get("extra")),
    )


def _channel(where: str, value: object) -> int | None:
    if value is None or value == "":
        return None
    number = parse_whole(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _MOST_CHANNELS:
        raise UserError(f"{where}, field audio_channel: {shown(value)} is not the number of a channel, counted from 1")
    return number


def _region(where: str, value: object) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if isinstance(value, str):  # CSV: four numbers separated by spaces
        value = value.split(maxsplit=5)
    numbers = [finite(x) for x in value] if isinstance(value, Iterable) else []
    if len(numbers) != 4 or None in numbers:
        raise UserError(f"{where}, field region: must be four numbers (left, top, right, bottom)")
    left, top, right, bottom = cast(list[float], numbers)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(f"{where}, field region: must be fractions of the image, left < right and top < bottom")
    return left, top, right, bottom


def _face(where: str, value: object) -> dict | None:
    face = _object(where, "speaker_face", value)
    if face and (problem := face_problem(face)):
        raise UserError(f"{where}, field speaker_face: {problem}")
    return face or None


def _mask(where: str, value: object) -> dict[str, str]:
    mask = _object(where, "mask", value)
    for modality, reason in mask.items():
        if modality not in MODALITIES or not isinstance(reason, str) or not reason:
            raise UserError(f"{where}, field mask: must map {', '.join(MODALITIES)} to a reason")
    return mask


def _object(where: str, name: str, value: object) -> dict:
    if value is None:
        return {}
    if isinstance(value, str):  # CSV: JSON in a cell
        try:
            value = parse_json_by_walking(value)
        except ValueError as error:
            raise UserError(f"{where}, field {name}: must be an object in JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}, field {name}: must be an object")
    if problem := problem_by_walking(value, name):
        raise UserError(f"{where}, {problem}")
    return value
