"""DailyDialog, text only: for each split a file with a dialogue on each line, and one with its emotions as numbers."""

from __future__ import annotations

from pathlib import Path

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_json import text_problem
from ...toolkit.base.reading.plain_numbers import parse_whole, shown
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .tree import need_folder, some, walk

_SPEAKERS = "AB"


def read_dailydialog(root: Path) -> Manifest:
    """DailyDialog, text only: a folder with dialogues_*.txt and dialogues_emotion_*.txt, directly or below.

    Args:
        root: the folder; its files are searched for down to the third level below it.

    Returns:
        Dialogues "train_dia0" in the order of the lines, with utterances "train_dia0_utt0". The corpus names no
        speakers: A begins, and the two alternate. A dialogue whose numbers of utterances and emotions differ has no
        labels.

    Raises:
        UserError: no such folder, none of the files, one without the other, or one that does not belong to the other.
    """
    root = Path(root)
    need_folder(root, "the folder of DailyDialog's files")
    facts = manifests.load("dailydialog.yaml")
    found = walk(root)
    utterances: list[Utterance] = []
    notes: list[str] = []
    texts: dict[str, list[tuple[str, ...]]] = {}
    for split, names in facts["files"].items():
        text, emotion = found.get(names["text"]), found.get(names["emotion"])
        if text is None:
            notes.append(f"{names['text']} not found: the {split} split is left out")
            continue
        if emotion is None:
            raise UserError(f"{text}: no {names['emotion']} in {root}; unpack it beside the texts")
        dialogues = _dialogues(text, facts["end_of_utterance"], notes)
        texts[split] = [tuple(said) for said in dialogues]
        labels = _labels(emotion, facts["labels"], notes)
        if len(dialogues) != len(labels):
            raise UserError(
                f"{emotion}: {counted(len(labels), 'line')}, but {text} has {len(dialogues)}; use two files of one "
                "release"
            )
        utterances += _utterances(split, dialogues, labels, text.name, notes)
    if not utterances:
        usual = ", ".join(names["text"] for names in facts["files"].values())
        whole = f"{facts['whole']} alone does not say the splits; " if facts["whole"] in found else ""
        raise UserError(
            f"{root}: contains no dialogues in {usual}; {whole}unpack train.zip, validation.zip and test.zip"
        )
    notes += _repeated(texts)
    return Manifest("dailydialog", facts["labels"], root, utterances, notes)


def split_dialogue(line: str, end: str) -> list[str]:
    """The utterances of a line, each of which is followed by the mark; what follows the last mark, if it is not blank.

    Args:
        line: the line.
        end: the mark, "__eou__".
    """
    parts = [part.strip() for part in line.split(end)]
    return parts if parts[-1] else parts[:-1]


def _lines(path: Path, notes: list[str]) -> list[str]:
    """The lines of a file without blank ones at its end; an empty line inside is one."""
    text, note = read_text(path, "file")
    notes += [note] if note else []
    # Not str.splitlines, which also splits at U+2028 and others that occur inside texts.
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _dialogues(path: Path, end: str, notes: list[str]) -> list[list[str]]:
    lines = _lines(path, notes)
    for number, line in enumerate(lines, 1):
        if problem := text_problem(line):
            raise UserError(f"{path}, line {number}: {problem}")
    return [split_dialogue(line, end) for line in lines]


def _labels(path: Path, labels: list[str], notes: list[str]) -> list[list[str]]:
    found = []
    for number, line in enumerate(_lines(path, notes), 1):
        emotions = []
        for cell in line.split():
            index = parse_whole(cell)
            if index is None or index >= len(labels):
                known = ", ".join(f"{i} {label}" for i, label in enumerate(labels))
                raise UserError(f"{path}, line {number}: unknown emotion {shown(cell)}; must be one of {known}")
            emotions.append(labels[index])
        found.append(emotions)
    return found


def _utterances(
    split: str, dialogues: list[list[str]], labels: list[list[str]], name: str, notes: list[str]
) -> list[Utterance]:
    utterances, unlike, empty = [], [], []
    for number, (said, emotions) in enumerate(zip(dialogues, labels, strict=True)):
        if len(said) != len(emotions):
            unlike.append(f"line {number + 1}")
        if not said:
            empty.append(f"line {number + 1}")
        dialogue = f"{split}_dia{number}"
        utterances += [
            Utterance(
                f"{dialogue}_utt{i}",
                dialogue,
                i,
                _SPEAKERS[i % 2],
                text,
                # With a number too many or too few, any of them may be the wrong one.
                emotions[i] if len(said) == len(emotions) else None,
                split,
            )
            for i, text in enumerate(said)
        ]
    if unlike:
        what = f"{counted(len(unlike), 'dialogue')} with another number of emotions than of utterances"
        notes.append(f"{name}: {what}, kept without labels: {some(unlike)}")
    if empty:
        notes.append(f"{name}: {counted(len(empty), 'line')} without an utterance: {some(empty)}")
    return utterances


def _repeated(texts: dict[str, list[tuple[str, ...]]]) -> list[str]:
    """Notes on dialogues that a model has seen in training, word for word."""
    seen = set(texts.get("train", ()))
    return [
        f"{split}: {counted(n, 'dialogue')} also in the train split, word for word"
        for split, dialogues in texts.items()
        if split != "train" and (n := sum(one in seen for one in dialogues if one))
    ]
