"""The manifest: one utterance per line, the only thing that extraction sees of a corpus.

A manifest file is JSON Lines (or CSV). In JSON Lines the first line may be a header, an object with the key
`erc_manifest` (the schema version) and `corpus`, `labels` (names in index order), `root` (the folder that media
paths are relative to, itself relative to the manifest file) and `notes`. docs/reference/manifest.md describes every
field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import cast

from .base.errors import UserError
from .base.files import write_atomically
from .base.reading.plain_json import parse_json, text_problem, value_problem
from .base.reading.plain_numbers import MOST_SECONDS, finite, parse_clock, parse_whole, shown
from .base.reading.same_names import SameNames
from .base.reading.tables import decimal_commas, read_table
from .base.texts import read_text, representable

SCHEMA = 1
SPLITS = ("train", "val", "test")
MODALITIES = ("text", "audio", "visual")
TABLE_SUFFIXES = (".csv", ".tsv")
_SECONDS = ("start", "end", "audio_start", "audio_end")
_MOST_CHANNELS = 1024
_SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of one dialogue.

    Attributes:
        id: unique in the corpus.
        dialogue: id of the dialogue it belongs to.
        position: index in the dialogue, counted from 0 over the utterances that are kept.
        speaker: name of the speaker.
        text: transcript; may be empty.
        label: name of the emotion, or None if the annotators did not agree on one.
        split: "train", "val" or "test".
        media: path of the file with the utterance, relative to the manifest's root, or None.
        audio: path of the file with its audio, if that is not `media`.
        start: where the utterance starts in `media`, in seconds; None if the file contains only this utterance.
        end: where it ends in `media`, in seconds.
        audio_start: where it starts in `audio`, in seconds; None if the `audio` file contains only this utterance.
        audio_end: where it ends in `audio`, in seconds.
        audio_channel: number of the speaker's own channel of the audio, from 1; None for the mix of all channels.
        region: (left, top, right, bottom) of the speaker's part of the frame, as fractions of width and height.
        mask: modality name to the reason why it cannot be used, as far as known before any file is opened.
        extra: further columns of the corpus (ratings, votes), kept unchanged.
    """

    id: str
    dialogue: str
    position: int
    speaker: str
    text: str
    label: str | None
    split: str
    media: str | None = None
    audio: str | None = None
    start: float | None = None
    end: float | None = None
    audio_start: float | None = None
    audio_end: float | None = None
    audio_channel: int | None = None
    region: tuple[float, float, float, float] | None = None
    mask: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Manifest:
    """A corpus as extraction sees it.

    Attributes:
        corpus: its name, e.g. "meld".
        labels: names of the emotions in index order.
        root: the folder that every media path is relative to.
        utterances: in dialogue order; those of one dialogue are contiguous and sorted by position.
        notes: irregularities that the parser found and what it did about each, one per line.
    """

    corpus: str
    labels: list[str]
    root: Path
    utterances: list[Utterance]
    notes: list[str] = field(default_factory=list)

    def dialogues(self) -> Iterator[tuple[str, list[Utterance]]]:
        """Yields (dialogue id, its utterances) in order."""
        start = 0
        for i in range(1, len(self.utterances) + 1):
            if i == len(self.utterances) or self.utterances[i].dialogue != self.utterances[start].dialogue:
                yield self.utterances[start].dialogue, self.utterances[start:i]
                start = i

    def path(self, relative: str) -> Path:
        """The location of a media path of this manifest.

        Raises:
            UserError: the path is absolute or leaves the root.
        """
        if problem := path_problem(relative):
            raise UserError(f"media path {relative!r} {problem}: write it relative to {self.root}")
        return self.root / PurePosixPath(relative)


def path_problem(relative: str) -> str | None:
    """What is wrong with a media path, or None. Symbolic links inside the root are followed: they are the user's."""
    if "\0" in relative:
        return "contains a NUL character"
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).is_absolute():
        return "is absolute"
    if ".." in PurePosixPath(relative).parts or ".." in PureWindowsPath(relative).parts:
        return "leaves the root"
    return None


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
        table = read_table(text, path, _KNOWN)
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


def manifest_from_rows(
    source: str | Path,
    rows: Iterable[tuple[int, dict[str, object]]],
    corpus: str,
    labels: Sequence[str] | None,
    root: Path,
    notes: Sequence[str] = (),
    unit: str = "line",
) -> Manifest:
    """Builds a manifest from rows of fields, checked like the lines of a manifest file.

    Args:
        source: the file that the rows come from, for error messages.
        rows: (number of the row in the source, field name to value), with the fields of `Utterance`; optional ones may
            be missing.
        corpus: name of the corpus.
        labels: names in index order; None for the sorted names that occur.
        root: the folder that media paths are relative to.
        notes: the notes of the manifest.
        unit: what the row numbers count, for error messages.

    Raises:
        UserError: names the source, row and field of the first error.
    """
    utterances: list[Utterance] = []
    for name, value in (("corpus", corpus), ("labels", labels), ("notes", list(notes))):
        if problem := value_problem(value, name):
            raise UserError(f"{source}, {problem}")
    rows = list(rows)
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
    source: str | Path, rows: list[tuple[int, dict[str, object]]], labels: Sequence[str] | None
) -> tuple[SameNames, list[str]]:
    """The names of the labels, by which those that differ in case only are recognised."""
    if labels is None:
        given = (row.get("label") for _, row in rows)
        return SameNames.most_frequent(name for name in given if isinstance(name, str) and name), []
    names = SameNames(labels)
    if names.twice:
        raise UserError(f"{source}, line 1, field labels: a name occurs twice: {', '.join(map(shown, names.twice))}")
    return names, []


_KNOWN = tuple(f.name for f in fields(Utterance))


def _utterance(where: str, row: dict, previous: Utterance | None, labels: SameNames, splits: SameNames) -> Utterance:
    for name in row:
        if name not in _KNOWN:
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
            if problem := value_problem(value, name):
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
            value = parse_json(value)
        except ValueError as error:
            raise UserError(f"{where}, field {name}: must be an object in JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}, field {name}: must be an object")
    if problem := value_problem(value, name):
        raise UserError(f"{where}, {problem}")
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
    rows = ({name: getattr(u, name) for name in _KNOWN} for u in manifest.utterances)
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
