"""Rows of a corpus, from a file or a reader, checked and made into a manifest."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from ..base.errors import UserError
from ..base.reading.plain_json import parse_json, text_problem, value_problem
from ..base.reading.plain_numbers import MOST_SECONDS, finite, parse_clock, parse_whole, shown
from ..base.reading.same_names import SameNames
from .faces import face_problem
from .utterances import EMPTY, FIELDS, MODALITIES, SPLITS, Manifest, Utterance, path_problem

_MOST_CHANNELS = 1024
_SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val"}
_KNOWN = frozenset(FIELDS)

Fields = dict[str, object]


def manifest_from_rows(
    source: str | Path,
    rows: Iterable[tuple[int, Fields]],
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
            be missing. Gone through twice if `labels` is None: an iterator is held in memory, a file need not be.
        corpus: name of the corpus.
        labels: names in index order; None for the sorted names that occur.
        root: the folder that media paths are relative to.
        notes: the notes of the manifest.
        unit: what the row numbers count, for error messages.

    Raises:
        UserError: names the source, row and field of the first error.
    """
    for name, value in (("corpus", corpus), ("labels", labels), ("notes", list(notes))):
        if problem := value_problem(value, name):
            raise UserError(f"{source}, {problem}")
    if iter(rows) is rows:
        rows = list(rows)
    names = _labels(source, rows, labels)
    splits = SameNames((*SPLITS, *_SPLIT_ALIASES))
    utterances: list[Utterance] = []
    numbers = array("q")  # of the rows of the utterances
    ids: set[str] = set()
    speakers: dict[str, str] = {}  # so that a name is in memory once, not once for each utterance
    dialogue_split: dict[str, str] = {}
    finished: set[str] = set()
    previous = None
    for number, fields in rows:
        row = _Row(source, unit, number, fields, previous)
        utterance = _utterance(row, names, splits, speakers)
        if utterance.id in ids:
            first = next(n for n, u in zip(numbers, utterances, strict=True) if u.id == utterance.id)
            raise row.error(f"{utterance.id!r} is already in {unit} {first}", "id")
        ids.add(utterance.id)
        if previous is not None and previous.dialogue != utterance.dialogue:
            finished.add(previous.dialogue)
        if utterance.dialogue in finished:
            raise row.error(f"{utterance.dialogue!r} is not contiguous; put its utterances together", "dialogue")
        if dialogue_split.setdefault(utterance.dialogue, utterance.split) != utterance.split:
            raise row.error(f"dialogue {utterance.dialogue!r} is in two splits", "split")
        utterances.append(utterance)
        numbers.append(number)
        previous = utterance
    if not utterances:
        raise UserError(f"{source}: contains no utterances")
    if labels is None:
        labels = sorted({u.label for u in utterances if u.label is not None})
    found = [*names.notes("label"), *splits.notes("split")]
    # A reader's manifest is checked again when it is read from a file, which finds the same once more.
    return Manifest(corpus, list(labels), root, utterances, [*notes, *(note for note in found if note not in notes)])


def _labels(source: str | Path, rows: Iterable[tuple[int, Fields]], labels: Sequence[str] | None) -> SameNames:
    """The names of the labels, by which those that differ in case only are recognised."""
    if labels is None:
        given = (row.get("label") for _, row in rows)
        return SameNames.most_frequent(name for name in given if isinstance(name, str) and name)
    names = SameNames(labels)
    if names.twice:
        raise UserError(f"{source}, line 1, field labels: a name occurs twice: {', '.join(map(shown, names.twice))}")
    return names


class _Row:
    """A row under check; what is right is returned, in the form of an utterance's field, and what is not is an error.

    Attributes:
        fields: names to values.
        previous: the utterance before it, if there is one.
    """

    __slots__ = ("_number", "_source", "_unit", "fields", "previous")

    def __init__(self, source: str | Path, unit: str, number: int, fields: Fields, previous: Utterance | None) -> None:
        self._source, self._unit, self._number = source, unit, number
        self.fields, self.previous = fields, previous

    @property
    def where(self) -> str:
        return f"{self._source}, {self._unit} {self._number}"

    def error(self, problem: str, name: str = "") -> UserError:
        """The error that says where in the source the problem is, and in which field."""
        return UserError(f"{self.where}{', field ' if name else ''}{name}: {problem}")

    def text(self, name: str, required: bool = False) -> str | None:
        value = self.fields.get(name)
        if type(value) is str and value and value.isascii() and "\0" not in value:  # almost always
            return value
        if value is None:
            if required:
                raise self.error("missing", name)
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if problem := value_problem(value):
                raise self.error(problem, name)
            value = str(value)
        if not isinstance(value, str) or (required and not value):
            raise self.error(f"must be a {'non-empty ' if required else ''}string", name)
        if problem := text_problem(value):
            raise self.error(problem, name)
        return value

    def required_text(self, name: str) -> str:
        value = self.text(name, required=True)
        assert value is not None
        return value

    def seconds(self, name: str) -> float | None:
        value = self.fields.get(name)
        if value is None:
            return None
        number = value if type(value) is float and math.isfinite(value) else finite(value)
        if number is None and isinstance(value, str):
            number = parse_clock(value)
        if number is None:
            raise self.error(f"{shown(value)} is not a number of seconds", name)
        if abs(number) > MOST_SECONDS:
            raise self.error(f"{shown(value)} s is longer than any recording", name)
        return number

    def path(self, name: str) -> str | None:
        value = self.text(name)
        if not value:
            return None
        # Utterances of one file follow one another: they share its name in memory.
        if self.previous is not None and value == (before := getattr(self.previous, name)):
            return before
        if problem := path_problem(value):
            raise self.error(f"{value!r} {problem}; paths are relative to the root", name)
        return value


def _utterance(row: _Row, labels: SameNames, splits: SameNames, speakers: dict[str, str]) -> Utterance:
    given, previous = row.fields, row.previous
    if not given.keys() <= _KNOWN:
        unknown = next(name for name in given if name not in _KNOWN)
        raise row.error(f"unknown field {shown(unknown)}; put further columns under 'extra'")
    dialogue = row.required_text("dialogue")
    if previous is not None and previous.dialogue == dialogue:
        dialogue, expected = previous.dialogue, previous.position + 1
    else:
        expected = 0
    position = given.get("position", expected)
    if isinstance(position, str) and (number := parse_whole(position)) is not None:
        position = number
    if isinstance(position, bool) or position != expected:
        raise row.error(f"{shown(position)}, but the next in dialogue {dialogue!r} is {expected}", "position")
    label = row.text("label") or None
    if label is not None and (label := labels.find(label)) is None:
        raise row.error(f"{shown(given['label'])} is not one of the header's labels {list(labels.names)}", "label")
    split = row.text("split") or "train"
    split = splits.find(split) or split
    split = _SPLIT_ALIASES.get(split, split)
    if split not in SPLITS:
        raise row.error(f"{shown(split)}; must be one of {', '.join(SPLITS)}", "split")
    name, speaker = row.required_text("id"), row.required_text("speaker")
    return Utterance(
        id=name,
        dialogue=dialogue,
        position=expected,
        speaker=speakers.setdefault(speaker, speaker),
        text=row.text("text") or "",
        label=label,
        split=split,
        **{name: check(row, name) for name, check in _OPTIONAL.items() if name in given},
    )


def _channel(row: _Row, name: str) -> int | None:
    value = row.fields.get(name)
    if value is None or value == "":
        return None
    number = parse_whole(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _MOST_CHANNELS:
        raise row.error(f"{shown(value)} is not the number of a channel, counted from 1", name)
    return number


def _region(row: _Row, name: str) -> tuple[float, float, float, float] | None:
    value = row.fields.get(name)
    if value is None:
        return None
    if isinstance(value, str):  # CSV: four numbers separated by spaces
        value = value.split(maxsplit=5)
    numbers = [finite(x) for x in value] if isinstance(value, Iterable) else []
    if len(numbers) != 4 or None in numbers:
        raise row.error("must be four numbers (left, top, right, bottom)", name)
    left, top, right, bottom = cast(list[float], numbers)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise row.error("must be fractions of the image, left < right and top < bottom", name)
    return left, top, right, bottom


def _face(row: _Row, name: str) -> dict[str, Any] | None:
    face = _object(row, name)
    if face is EMPTY:
        return None
    if problem := face_problem(face):
        raise row.error(problem, name)
    return face


def _mask(row: _Row, name: str) -> dict[str, str]:
    mask = _object(row, name)
    for modality, reason in mask.items():
        if modality not in MODALITIES or not isinstance(reason, str) or not reason:
            raise row.error(f"must map {', '.join(MODALITIES)} to a reason", name)
    return mask


def _object(row: _Row, name: str) -> dict:
    value = row.fields.get(name)
    if value is None:
        return EMPTY
    if isinstance(value, str):  # CSV: JSON in a cell
        try:
            value = parse_json(value)
        except ValueError as error:
            raise row.error(f"must be an object in JSON: {error}", name) from None
    if not isinstance(value, dict):
        raise row.error("must be an object", name)
    if problem := value_problem(value, name):
        raise UserError(f"{row.where}, {problem}")
    return value or EMPTY


# Fields that an utterance may be without: those of a row are checked in this order.
_OPTIONAL: dict[str, Callable[[_Row, str], Any]] = {
    "media": _Row.path,
    "audio": _Row.path,
    "start": _Row.seconds,
    "end": _Row.seconds,
    "audio_start": _Row.seconds,
    "audio_end": _Row.seconds,
    "audio_channel": _channel,
    "region": _region,
    "speaker_face": _face,
    "mask": _mask,
    "extra": _object,
}
