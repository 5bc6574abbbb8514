"""EmoryNLP, the transcripts of Friends, text only: the authors' JSON, or the tables of declare-lab/MELD."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import parse_clock, parse_whole, shown
from ...toolkit.base.reading.tables import column_key, read_table
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .tree import need_folder, some, walk

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")
_SPELLING = {column_key(name): name for name in (*_COLUMNS, "Start_Time", "End_Time")}
_NAME = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def read_emorynlp(root: Path) -> Manifest:
    """EmoryNLP, text only: a folder with emotion-detection-*.json or emorynlp_*_final.csv, directly or below.

    Args:
        root: the folder; its files are searched for down to the third level below it.

    Returns:
        A dialogue for each scene, "s01_e15_c02", and utterances "s01_e15_c02_u001" in the files' order. Several
        speakers of one utterance are one speaker, "Carol Willick and Susan Bunch". `extra` has season and episode, and
        with the tables source_start and source_end (seconds in the episode).

    Raises:
        UserError: no such folder, none of the files or those of both forms, or an utterance that cannot be read.
    """
    root = Path(root)
    need_folder(root, "the folder of EmoryNLP's files")
    facts = manifests.load("emorynlp.yaml")
    found = walk(root)
    forms = [form for form in ("json", "table") if any(names[form] in found for names in facts["files"].values())]
    if len(forms) != 1:
        names = ", ".join(one[form] for form in ("json", "table") for one in facts["files"].values())
        what = "contains the files of two forms, which overlap" if forms else "contains none of EmoryNLP's files"
        raise UserError(f"{root}: {what} ({names}); give the folder of one of the two forms")
    read = _from_json if forms == ["json"] else _from_table
    utterances: list[Utterance] = []
    notes: list[str] = []
    for split, names in facts["files"].items():
        name = names[forms[0]]
        if name not in found:
            notes.append(f"{name} not found: the {split} split is left out")
            continue
        utterances += read(found[name], split, facts["labels"], notes)
    if not utterances:
        raise UserError(
            f"{root}: {', '.join(names[forms[0]] for names in facts['files'].values())} contain no utterances"
        )
    if several := [u.id for u in utterances if "speakers" in u.extra]:
        notes.append(f"{counted(len(several), 'utterance')} by several speakers at once: {some(several)}")
    return Manifest("emorynlp", facts["labels"], root, utterances, notes)


def speaker_names(cell: str) -> list[str]:
    """The names in a cell of the tables, which is a list as Python prints it; the cell itself if it is none."""
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell] if cell else []
    names = [name.strip() for pair in _NAME.findall(cell) for name in pair if name.strip()]
    return names or [name for name in (cell[1:-1].strip(),) if name]


def _from_json(path: Path, split: str, labels: list[str], notes: list[str]) -> Iterator[Utterance]:
    text, _ = read_text(path, "file", windows=False)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for i, episode in enumerate(_list(content, "episodes", f"{path}")):
        for j, scene in enumerate(_list(episode, "scenes", f"{path}, episodes[{i}]")):
            where = f"{path}, episodes[{i}].scenes[{j}]"
            dialogue = _text(scene, "scene_id", where)
            for position, one in enumerate(_list(scene, "utterances", where)):
                here = f"{where}.utterances[{position}]"
                name = _text(one, "utterance_id", here)
                here = f"{path}, {name}"
                speakers = _list(one, "speakers", here)
                if not all(isinstance(who, str) for who in speakers):
                    raise UserError(f"{here}, field speakers: must be a list of names")
                label = _label(_text(one, "emotion", here), labels, here)
                extra: dict[str, object] = {}
                if match := re.match(r"s(\d{2})_e(\d{2})_", name, re.ASCII):
                    extra = {"season": int(match[1]), "episode": int(match[2])}
                transcript = _text(one, "transcript", here).strip()
                yield _utterance(name, dialogue, position, speakers, transcript, label, split, extra)


def _from_table(path: Path, split: str, labels: list[str], notes: list[str]) -> Iterator[Utterance]:
    text, note = read_text(path, "table")
    table = read_table(text, path, _SPELLING)
    notes += [*([note] if note else []), *table.notes]
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        raise UserError(f"{path}: no column {missing[0]!r}; EmoryNLP's tables have {', '.join(_COLUMNS)}")
    scenes: dict[str, dict[str, Utterance]] = {}
    for line, row in table.rows:
        where = f"{path}, line {line}"
        numbers = [parse_whole(row.get(name, "")) for name in ("Season", "Episode", "Scene_ID", "Utterance_ID")]
        if None in numbers:
            raise UserError(
                f"{where}: Season, Episode, Scene_ID and Utterance_ID must be whole numbers; is there a comma outside "
                "quotes?"
            )
        season, episode, scene, utterance = numbers
        dialogue = f"s{season:02d}_e{episode:02d}_c{scene:02d}"
        extra: dict[str, object] = {"season": season, "episode": episode}
        start, end = (parse_clock(row.get(name, "")) for name in ("Start_Time", "End_Time"))
        if start is not None and end is not None:
            extra |= {"source_start": start, "source_end": end}
        members = scenes.setdefault(dialogue, {})
        name = f"{dialogue}_u{utterance:03d}"
        if name in members:
            raise UserError(f"{where}: scene {dialogue}, utterance {utterance} appears twice; remove one")
        label = _label(row.get("Emotion", ""), labels, f"{where}, Emotion")
        speakers, said = speaker_names(row.get("Speaker", "")), row.get("Utterance", "").strip()
        members[name] = _utterance(name, dialogue, len(members), speakers, said, label, split, extra)
    return (u for members in scenes.values() for u in members.values())


def _utterance(
    name: str,
    dialogue: str,
    position: int,
    speakers: list[str],
    text: str,
    label: str,
    split: str,
    extra: dict[str, object],
) -> Utterance:
    people = [who for who in map(str.strip, speakers) if who]
    if len(people) > 1:
        extra["speakers"] = people
    speaker = " and ".join(people) or "unknown"
    return Utterance(name, dialogue, position, speaker, text, label, split, extra=extra)


def _label(given: str, labels: list[str], where: str) -> str:
    label = given.strip().lower()
    if label not in labels:
        raise UserError(f"{where}: unknown emotion {shown(given)}; must be one of {', '.join(labels)}")
    return label


def _list(value: Any, field: str, where: str) -> list[Any]:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{where}, field {field}: must be a list; is it a file of EmoryNLP's emotion detection?")
    return found


def _text(value: Any, field: str, where: str) -> str:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, str) or not (found or field == "transcript"):
        raise UserError(f"{where}, field {field}: must be a string; is it a file of EmoryNLP's emotion detection?")
    return found
