"""MELD as unpacked from its archives: three tables and three folders of clips that are already cut."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.foreign_text import repaired
from ...toolkit.base.reading.plain_numbers import shown
from ...toolkit.base.reading.tables import column_key, read_table
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .tree import SEARCH_DEPTH, listed, need_folder, some, walk

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_SPELLING = {column_key(name): name for name in (*_COLUMNS, "Sentiment", "Season", "Episode", "StartTime", "EndTime")}
_CLIP = re.compile(r"(?P<prefix>\D*?)dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)\.mp4", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d{1,6}", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[,.](\d{1,3})", re.ASCII)
# The tables mix both kinds of quotes and apostrophes, sometimes within one sentence.
_PLAIN_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\xa0": " "})
_SHORT_S = 0.2

Key = tuple[int, int]  # Dialogue_ID, Utterance_ID


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    speaker: str
    text: str
    label: str
    extra: dict[str, object]


def read_meld(
    root: Path,
    *,
    label_set: Annotated[Literal["emotion", "sentiment"], "Which of the two annotations is the label."] = "emotion",
    test_clips: Annotated[
        Literal["recut", "plain"],
        "Which version of test clips that exist twice: the re-cut one, which matches the text, or the plain one.",
    ] = "recut",
    max_seconds: Annotated[float, "Use at most this many seconds from the beginning of a clip."] = 60.0,
    train_table: Annotated[Path | None, "Table of the training split, if not train_sent_emo.csv."] = None,
    dev_table: Annotated[Path | None, "Table of the validation split, if not dev_sent_emo.csv."] = None,
    test_table: Annotated[Path | None, "Table of the test split, if not test_sent_emo.csv."] = None,
    train_folder: Annotated[Path | None, "Folder of the training clips, if not train_splits."] = None,
    dev_folder: Annotated[Path | None, "Folder of the validation clips, if not dev_splits_complete."] = None,
    test_folder: Annotated[Path | None, "Folder of the test clips, if not output_repeated_splits_test."] = None,
) -> Manifest:
    """MELD: a folder with its clips and *_sent_emo.csv tables, directly or a few levels below.

    Args:
        root: the folder that the archive was unpacked to.
        label_set: "emotion" (7) or "sentiment" (3); the other annotation is kept in `extra`.
        test_clips: which version of clips that exist twice to use, "recut" (final_videos_test…) or "plain".
        max_seconds: a longer clip gets `end` = max_seconds and so keeps its place in the dialogue.
        train_table: name, or path relative to root; likewise the other tables and folders.
        dev_table: see train_table.
        test_table: see train_table.
        train_folder: must be below root; likewise the other folders.
        dev_folder: see train_folder.
        test_folder: see train_folder.

    Returns:
        Utterances "train_dia0_utt0" in the tables' order, one for every row of a table, even if its clip is missing.
        `extra` has emotion, sentiment, speaker_index (order of first appearance in the dialogue, like the nine slots of
        the published pickles), pickle_key (the dialogue's number in those pickles), season, episode, source_start and
        source_end (seconds in the episode; never used to cut), text_original if the text was changed, and clip
        ("recut" or "plain") if the clip exists twice.

    Raises:
        UserError: no such folder, a table without MELD's columns, or a row that cannot be read.
    """
    root = Path(root)
    need_folder(root, "the folder that MELD's archive was unpacked to")
    if not max_seconds > 0:
        raise UserError(f"--max-seconds {max_seconds:g}: must be more than 0")
    facts = manifests.load("meld.yaml")
    tables = {"train": train_table, "val": dev_table, "test": test_table}
    folders = {"train": train_folder, "val": dev_folder, "test": test_folder}
    found = walk(root)
    utterances: list[Utterance] = []
    notes: list[str] = []
    for split, names in facts["splits"].items():
        table = _place(root, found, names["table"], tables[split], f"--{names['option']}-table")
        folder = _place(root, found, names["folder"], folders[split], f"--{names['option']}-folder")
        if table is None:
            notes.append(f"{names['table']} not found: the {split} split is left out")
            continue
        # What was found deeper below the root may belong to another copy, or to something else.
        if any(part is not None and Path(part).parent != root for part in (table, folder)):
            notes.append(f"{split}: found {table}" + ("" if folder is None else f" and {folder}"))
        rows = _rows(table, facts["label_sets"], label_set, names["pickle_offset"], split, notes)
        if folder is None:
            notes.append(f"folder {names['folder']} not found: the {split} split has text only")
            utterances += [_utterance(split, key, row, None, None) for key, row in rows.items()]
            continue
        below = _below(root, folder, f"--{names['option']}-folder")
        clips = _clips(folder, facts["recut_prefix"], prefer_recut=test_clips == "recut")
        capped = []
        for key, row in rows.items():
            clip = clips.get(key)
            if clip is not None and clip.choice:
                row.extra["clip"] = clip.choice
            end = None if clip is None else _cap(folder / clip.name, row.extra, max_seconds)
            if end is not None:
                capped.append(clip.name)
            name = _name(key) + ".mp4" if clip is None else clip.name
            utterances.append(_utterance(split, key, row, (below / name).as_posix(), end))
        notes += _differences(split, rows, clips)
        if capped:
            long = counted(len(capped), "clip")
            notes.append(f"{split}: only the first {max_seconds:g} s of {long} are used: {some(capped)}")
        notes += _known(split, rows, facts["known_defects"][split])
    if not utterances:
        usual = ", ".join(names["table"] for names in facts["splits"].values())
        raise UserError(
            f"{root}: contains none of MELD's tables ({usual}), nor do its folders down to the "
            f"{SEARCH_DEPTH}rd level; give the folder that MELD's archive was unpacked to, or the tables with "
            "--train-table and its like"
        )
    return Manifest("meld", facts["label_sets"][label_set], root, utterances, notes)


def repair_text(text: str) -> str:
    """Normalises the text of a table.

    The archive's tables contain Windows-1252 bytes as C1 control characters, which every reader of the toolkit decodes
    (`base.reading.foreign_text`), and both curly and straight quotes. Curly quotes and apostrophes become straight,
    NBSP and other control characters become spaces, and what cannot be decoded is left out.
    """
    plain = repaired(text).translate(_PLAIN_QUOTES).replace("\N{REPLACEMENT CHARACTER}", "")
    return "".join(" " if c < " " or c == "\x7f" else c for c in plain).strip()


def parse_time(text: str) -> float | None:
    """Seconds of 'HH:MM:SS,mmm', also with one-digit hours or with a dot; None for anything else."""
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[2]) > 59 or int(match[3]) > 59:
        return None
    milliseconds = int(match[4].ljust(3, "0"))
    return (int(match[1]) * 3_600_000 + int(match[2]) * 60_000 + int(match[3]) * 1000 + milliseconds) / 1000


def _place(root: Path, found: dict[str, Path], usual: str, given: Path | None, option: str) -> Path | None:
    """The path of a table or folder: the one the user gave, or else the usual name."""
    if given is None:
        return found.get(usual)
    place = root / given
    if not os.path.exists(place):
        place = found.get(str(given))
    if place is None:
        raise UserError(f"{option} {given}: not found in {root}; give a path relative to it")
    return place


def _below(root: Path, folder: Path, option: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: not a folder")
    try:
        return Path(os.path.abspath(folder)).relative_to(os.path.abspath(root))
    except ValueError:
        raise UserError(
            f"{option} {folder}: must be below {root}; give a ROOT that contains both tables and clips"
        ) from None


@dataclass(frozen=True, slots=True)
class _Clip:
    name: str
    choice: str  # "recut" or "plain" if the clip exists twice, else ""


def _clips(folder: Path, recut: str, prefer_recut: bool) -> dict[Key, _Clip]:
    """The clip of each (dialogue, utterance); the preferred one if it exists twice."""
    names: dict[Key, dict[bool, str]] = {}
    for entry in listed(folder):
        match = _CLIP.fullmatch(entry.name)
        if match is None or match["prefix"] not in ("", recut):
            continue  # for example macOS's ._ files
        names.setdefault((int(match["dialogue"]), int(match["utterance"])), {})[bool(match["prefix"])] = entry.name
    clips = {}
    for key, versions in names.items():
        choice = prefer_recut if len(versions) == 2 else next(iter(versions))
        clips[key] = _Clip(versions[choice], "recut" if choice else "plain" if len(versions) == 2 else "")
    return clips


def _cap(clip: Path, extra: dict[str, object], most: float) -> float | None:
    """`most` if the clip is longer, else None. Opens only clips that the table claims to be longer."""
    start, end = extra.get("source_start"), extra.get("source_end")
    if start is None or end is None or end - start <= most:
        return None
    from ...toolkit.media import MediaError, MediaReader

    try:
        with MediaReader(clip) as media:
            media.finish()
    except MediaError:  # extraction will report it
        return None
    return most if media.duration > most else None


def _rows(
    table: Path, label_sets: dict[str, list[str]], label_set: str, pickle_offset: int, split: str, notes: list[str]
) -> dict[Key, _Row]:
    """The rows of a table by (dialogue, utterance), grouped by dialogue."""
    text, note = read_text(table, "table")
    found = read_table(text, table, _SPELLING)
    notes += [*([note] if note else []), *found.notes]
    odd: dict[str, list[str]] = {}
    dialogues: dict[int, dict[Key, _Row]] = {}
    speakers: dict[int, dict[str, int]] = {}
    column = label_set.capitalize()
    if missing := [name for name in (*_COLUMNS, column) if name not in found.columns]:
        raise UserError(f"{table}: no column {missing[0]!r}; MELD's tables have {', '.join(_COLUMNS)}")
    for line, row in found.rows:
        where = f"{table}, line {line}"
        numbers = [row.get(name, "").strip() for name in ("Dialogue_ID", "Utterance_ID")]
        if not all(map(_NUMBER.fullmatch, numbers)):
            raise UserError(
                f"{where}: Dialogue_ID and Utterance_ID must be whole numbers; is there a comma outside quotes?"
            )
        key = int(numbers[0]), int(numbers[1])
        label = row.get(column, "").strip().lower()
        if label not in label_sets[label_set]:
            known = ", ".join(label_sets[label_set])
            raise UserError(f"{where}, {column}: unknown label {shown(row.get(column, ''))}; must be one of {known}")
        dialogue = dialogues.setdefault(key[0], {})
        if key in dialogue:
            raise UserError(f"{where}: dialogue {key[0]}, utterance {key[1]} appears twice; remove one")
        extra: dict[str, object] = {
            name: row[name.capitalize()].strip().lower() for name in label_sets if row.get(name.capitalize())
        }
        speaker = repair_text(row.get("Speaker", "")) or "unknown"
        slots = speakers.setdefault(key[0], {})
        extra["speaker_index"] = slots.setdefault(speaker, len(slots))
        extra["pickle_key"] = pickle_offset + key[0]
        extra |= _when(row, _name(key), {"StartTime", "EndTime"} <= {*found.columns}, odd)
        original = row.get("Utterance", "")
        if (plain := repair_text(original)) != original:
            extra["text_original"] = original
        dialogue[key] = _Row(len(dialogue), speaker, plain, label, extra)
    notes += [f"{split}: {counted(len(names), 'row')} {what}: {some(names)}" for what, names in odd.items()]
    return {key: row for dialogue in dialogues.values() for key, row in dialogue.items()}


def _when(row: dict[str, str], name: str, has_times: bool, odd: dict[str, list[str]]) -> dict[str, object]:
    """Season, episode and the times within the episode, as far as the table has them."""
    found: dict[str, object] = {}
    for column in ("Season", "Episode"):
        if match := _NUMBER.fullmatch(row.get(column, "").strip()):
            found[column.lower()] = int(match[0])
    if not has_times:
        return found
    start, end = (parse_time(row.get(name, "")) for name in ("StartTime", "EndTime"))
    if start is None or end is None:
        odd.setdefault("with invalid time stamps", []).append(name)
        return found
    found |= {"source_start": start, "source_end": end}
    if end <= start:
        odd.setdefault("with an empty or negative time span", []).append(name)
    elif end - start < _SHORT_S:
        odd.setdefault(f"shorter than {_SHORT_S} s by their time stamps", []).append(name)
    return found


def _utterance(split: str, key: Key, row: _Row, media: str | None, end: float | None) -> Utterance:
    return Utterance(
        id=f"{split}_{_name(key)}",
        dialogue=f"{split}_dia{key[0]}",
        position=row.position,
        speaker=row.speaker,
        text=row.text,
        label=row.label,
        split=split,
        media=media,
        end=end,
        extra=row.extra,
    )


def _differences(split: str, rows: dict[Key, _Row], clips: dict[Key, _Clip]) -> list[str]:
    """Notes on clips that are only in the folder or only in the table, and on the choice between two versions."""
    notes = []
    if orphans := [clip.name for key, clip in clips.items() if key not in rows]:
        clips_left_out = counted(len(orphans), "clip")
        notes.append(f"{split}: {clips_left_out} without a row in the table, left out: {some(orphans)}")
    if missing := [f"{_name(key)}.mp4" for key in rows if key not in clips]:
        notes.append(f"{split}: {counted(len(missing), 'row')} without a clip: {some(missing)}")
    for choice, other in (("recut", "plain"), ("plain", "recut")):
        if chosen := [clip.name for key, clip in clips.items() if clip.choice == choice and key in rows]:
            rows_chosen = counted(len(chosen), "row")
            notes.append(f"{split}: {choice} clip used instead of the {other} one for {rows_chosen}: {some(chosen)}")
    return notes


def _known(split: str, rows: dict[Key, _Row], defects: list[dict]) -> list[str]:
    present = {_name(key) for key in rows}
    return [
        f"{split}: known defect of the release: {some(clips)}: {defect['what']} ({defect['source']})"
        for defect in defects
        if (clips := [clip for clip in defect["clips"] if clip in present])
    ]


def _name(key: Key) -> str:
    return f"dia{key[0]}_utt{key[1]}"
