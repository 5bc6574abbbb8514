"""Rows of a corpus, from a file or a reader, checked and made into a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from ..base.errors import UserError
from ..base.reading.foreign_text import TextRepair
from ..base.reading.plain_json import parse_json, text_problem, value_problem
from ..base.reading.plain_numbers import MOST_SECONDS, finite, parse_clock, parse_whole, shown
from ..base.reading.same_names import SameNames
from .utterances import FIELDS, MODALITIES, SPLITS, Manifest, Utterance, path_problem

_TEXTS = ("id", "dialogue", "speaker", "text", "label")
_MOST_CHANNELS = 1024
_SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val"}


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
    rows, repairs = _repaired(list(rows))
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
    found += [*names.notes("label"), *splits.notes("split"), *repairs]
    # A reader's manifest is checked again when it is read from a file, which finds the same once more.
    return Manifest(corpus, list(labels), root, utterances, [*notes, *(note for note in found if note not in notes)])


def _repaired(rows: list[tuple[int, dict[str, object]]]) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """The rows with texts and names that another program decoded wrongly repaired, and notes on them."""
    repair = TextRepair()
    foreign = {
        (i, name): value
        for i, (_, row) in enumerate(rows)
        for name in _TEXTS
        if isinstance(value := row.get(name), str) and not value.isascii() and text_problem(value) is None
    }
    repair.learn(foreign.values())
    for (i, name), value in foreign.items():
        if (plain := repair.repair(value)) != value:
            rows[i] = (rows[i][0], {**rows[i][1], name: plain})
    return rows, repair.notes("texts and names")


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


def _utterance(where: str, row: dict, previous: Utterance | None, labels: SameNames, splits: SameNames) -> Utterance:
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
