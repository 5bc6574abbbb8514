"""CH-SIMS and CMU-MOSEI as MMSA distributes them: a table of clips with their sentiment, and a folder per video."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.media_endings import MEDIA_SUFFIXES
from ...toolkit.base.reading.plain_numbers import parse_number, parse_whole, shown
from ...toolkit.base.reading.tables import column_key, read_table
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .tree import listed, need_folder, some, walk

TABLES = ("label.csv", "meta.csv")
_RAW = "Raw"
_DEPTH = 2
# In this order, by which a table without a header is recognised.
_COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")
_SPELLING = {column_key(name): name for name in _COLUMNS}
_REQUIRED = ("video_id", "clip_id", "text", "mode")
_SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "dev": "val", "test": "test"}
_SCORES = {
    "label": "sentiment",
    "label_T": "text_sentiment",
    "label_A": "audio_sentiment",
    "label_V": "visual_sentiment",
}
_SEPARATOR = "$_$"  # as in the ids of MMSA's feature files

TableOption = Annotated[Path | None, "The table, relative to ROOT.  [default: label.csv, else meta.csv]"]


def read_ch_sims(root: Path, *, table: TableOption = None) -> Manifest:
    """CH-SIMS, three sentiments in Chinese: a folder with label.csv and Raw/VIDEO/CLIP.mp4, as MMSA distributes it.

    Args:
        root: the folder.
        table: the table, relative to root; None for label.csv or meta.csv, there or down to the second level below.

    Returns:
        Utterances with MMSA's ids, "video_0001$_$0001", in the order of their numbers. Each video is a dialogue with
        one speaker, as nobody is named; if its clips are in several splits, a dialogue for each, "video_0001@train".
        The label is the class in `annotation`; `extra` has the scores: sentiment, text_sentiment, audio_sentiment,
        visual_sentiment (-1 to 1).

    Raises:
        UserError: no such folder or table, a row that cannot be read, or a table with scores and without classes.
    """
    return _read(Path(root), "ch-sims", table, windows=False)


def read_cmu_mosei(root: Path, *, table: TableOption = None) -> Manifest:
    """CMU-MOSEI, three sentiments: a folder with label.csv and Raw/VIDEO/CLIP.mp4, as MMSA distributes it.

    Args:
        root: the folder.
        table: the table, relative to root; None for label.csv or meta.csv, there or down to the second level below.

    Returns:
        As `read_ch_sims`; the scores are from -3 to 3, those of single modalities are usually empty. The corpus's six
        emotions are not in MMSA's table: several may be present at once, each with an intensity.

    Raises:
        UserError: as `read_ch_sims`; or the folder has the labels of the CMU-MultimodalSDK instead.
    """
    return _read(Path(root), "cmu-mosei", table, windows=True)


def _read(root: Path, corpus: str, table: Path | None, windows: bool) -> Manifest:
    need_folder(root, "the folder with label.csv and Raw")
    facts = manifests.load(f"{corpus}.yaml")
    found = walk(root, _DEPTH, skip=(_RAW,))
    path = _table(root, found, table)
    text, note = read_text(path, "table", "name an existing one with --table", windows=windows)
    notes = [note] if note else []
    rows = _rows(text, path, facts, notes)
    raw = found.get(_RAW)
    if raw is not None and raw.is_dir():
        clips = _Clips(root, raw)
        rows = [replace(row, media=clips.of(row.video, row.clip)) for row in rows]
        notes += clips.notes(rows)
    else:
        notes.append(f"folder {_RAW} not found: text only")
    return Manifest(corpus, facts["labels"], root, _utterances(rows, notes), notes)


def _table(root: Path, found: Mapping[str, Path], given: Path | None) -> Path:
    if given is not None:
        return root / given
    for name in TABLES:
        if name in found:
            return found[name]
    sdk = next((path for name, path in sorted(found.items()) if name.lower().endswith(".csd")), None)
    if sdk is not None:
        raise UserError(
            f"{sdk}: has a score and six emotions, of which several may be present at once, and the models here "
            "predict one class; give the folder with MMSA's label.csv, which has sentiment classes"
        )
    raise UserError(
        f"{root}: contains no {' or '.join(TABLES)}; give the folder with MMSA's table, or name it with --table"
    )


@dataclass(frozen=True, slots=True)
class _Row:
    video: str
    clip: str
    text: str
    label: str | None
    split: str
    media: str | None = None
    extra: dict[str, object] = field(default_factory=dict)


def _rows(text: str, path: Path, facts: Mapping[str, Any], notes: list[str]) -> list[_Row]:
    table = read_table(text, path, _SPELLING, headless=_headless)
    notes += table.notes
    if missing := [name for name in _REQUIRED if name not in table.columns]:
        raise UserError(f"{path}: no column {missing[0]!r}; MMSA's tables have {', '.join(_COLUMNS)}")
    low, high = facts["range"]
    remedy = (
        f"the scores from {low} to {high} in `label` are a regression target, and the models here predict classes; "
        f"fill a column `annotation` with {', '.join(facts['labels'])}"
    )
    if "annotation" not in table.columns:
        raise UserError(f"{path}: no column 'annotation' with classes; {remedy}")
    rows: list[_Row] = []
    seen: set[tuple[str, str]] = set()
    outside: list[str] = []
    for line, cells in table.rows:
        where = f"{path}, line {line}"
        row = _row(cells, where, facts["labels"])
        if (row.video, _key(row.clip)) in seen:
            raise UserError(f"{where}: clip {row.clip} of {row.video} appears twice; remove one")
        seen.add((row.video, _key(row.clip)))
        if any(not low <= score <= high for score in row.extra.values() if isinstance(score, float)):
            outside.append(f"line {line}")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: contains no clips")
    if all(row.label is None for row in rows):
        raise UserError(f"{path}: no row has an annotation; {remedy}")
    if unlabelled := sum(row.label is None for row in rows):
        notes.append(f"{counted(unlabelled, 'clip')} without an annotation: context only")
    if outside:
        notes.append(f"{counted(len(outside), 'clip')} with a score outside {low} to {high}: {some(outside)}")
    return rows


def _headless(cells: list[str]) -> tuple[str, ...]:
    """The names of the columns, if the first row is a clip: copies of CH-SIMS without a header are in use."""
    is_clip = len(cells) == len(_COLUMNS) and cells[-1].strip().lower() in _SPLITS
    return _COLUMNS if is_clip and parse_number(cells[3]) is not None else ()


def _row(cells: Mapping[str, str], where: str, labels: list[str]) -> _Row:
    video, clip = (cells.get(name, "").strip() for name in ("video_id", "clip_id"))
    for name, value in (("video_id", video), ("clip_id", clip)):
        if not value or value in (".", "..") or set(value) & set("/\\"):
            raise UserError(
                f"{where}, {name}: {shown(value)} is no name of a folder or clip; is there a comma outside quotes?"
            )
    split = _SPLITS.get(cells.get("mode", "").strip().lower())
    if split is None:
        raise UserError(f"{where}, mode: {shown(cells.get('mode', ''))}; must be one of train, valid, test")
    annotation = cells.get("annotation", "").strip().lower()
    if annotation and annotation not in labels:
        raise UserError(
            f"{where}, annotation: unknown class {shown(cells['annotation'])}; must be one of {', '.join(labels)}"
        )
    extra: dict[str, object] = {}
    for name, known_as in _SCORES.items():
        if cell := cells.get(name, "").strip():
            score = parse_number(cell)
            if score is None:
                raise UserError(f"{where}, {name}: {shown(cell)} is not a number")
            extra[known_as] = score
    return _Row(video, clip, cells.get("text", "").strip(), annotation or None, split, extra=extra)


class _Clips:
    """The clips below Raw, and what is missing or left over."""

    def __init__(self, root: Path, raw: Path) -> None:
        self._below = raw.relative_to(root).as_posix()
        self._raw = raw
        self._files: dict[str, dict[str, str]] = {}  # of each video: number or stem to name
        self._used: set[tuple[str, str]] = set()
        self._missing: list[str] = []

    def of(self, video: str, clip: str) -> str:
        """The path of a clip, or where it would be."""
        name = self._of(video).get(_key(clip))
        if name is None:
            self._missing.append(f"{video}/{clip}")
            name = f"{clip}.mp4"
        else:
            self._used.add((video, name))
        return f"{self._below}/{video}/{name}"

    def _of(self, video: str) -> dict[str, str]:
        if video not in self._files:
            folder = self._raw / video
            there = listed(folder) if os.path.isdir(folder) else []
            names = [e.name for e in there if Path(e.name).suffix.lower() in MEDIA_SUFFIXES and e.name[:1] != "."]
            self._files[video] = {_key(Path(name).stem): name for name in names}
        return self._files[video]

    def notes(self, rows: list[_Row]) -> list[str]:
        """Notes on rows without a clip, and on clips and folders without a row."""
        notes = []
        if self._missing:
            notes.append(f"{counted(len(self._missing), 'row')} without a clip: {some(self._missing)}")
        left = [
            f"{video}/{name}"
            for video, names in self._files.items()
            for name in names.values()
            if (video, name) not in self._used
        ]
        if left:
            notes.append(f"{counted(len(left), 'clip')} without a row in the table, left out: {some(left)}")
        videos = [entry.name for entry in listed(self._raw) if entry.name[:1] != "." and entry.is_dir()]
        if unknown := [name for name in videos if name not in self._files]:
            notes.append(f"{counted(len(unknown), 'video')} without a row in the table, left out: {some(unknown)}")
        return notes


def _key(clip: str) -> str:
    """A clip's number, as tables that were saved by a spreadsheet say 1 for 0001; else its name."""
    number = parse_whole(clip)
    return clip if number is None else str(number)


def _utterances(rows: list[_Row], notes: list[str]) -> list[Utterance]:
    """The utterances of each video and split, in the order of the clips' numbers."""
    places: dict[tuple[str, str], list[_Row]] = {}
    splits: dict[str, set[str]] = {}
    for row in rows:
        places.setdefault((row.split, row.video), []).append(row)
        splits.setdefault(row.video, set()).add(row.split)
    utterances = []
    for (split, video), members in places.items():
        if all(parse_whole(row.clip) is not None for row in members):
            members.sort(key=lambda row: int(row.clip))
        dialogue = video if len(splits[video]) == 1 else f"{video}@{split}"
        utterances += [
            Utterance(
                f"{video}{_SEPARATOR}{row.clip}",
                dialogue,
                position,
                video,
                row.text,
                row.label,
                split,
                media=row.media,
                extra=row.extra,
            )
            for position, row in enumerate(members)
        ]
    if several := [video for video, names in splits.items() if len(names) > 1]:
        notes.append(
            f"{counted(len(several), 'video')} with clips in several splits, a dialogue for each: {some(several)}"
        )
    return utterances
