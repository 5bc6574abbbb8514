"""MELD as its archives unpack it: three tables, three folders of clips that are already cut."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import manifests
from toolkit.errors import UserError
from toolkit.manifest import Manifest, Utterance

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_CLIP = re.compile(r"(?P<prefix>\D*?)dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)\.mp4", re.IGNORECASE)
_SEARCH_DEPTH = 3


def read_meld(root: Path) -> Manifest:
    """Reads MELD's tables and looks up its clips.

    Args:
        root: the folder that holds the tables and the clip folders, itself or a few folders further down.

    Returns:
        Utterances "train_dia0_utt0" in the tables' order; every row of a table is there, whether its clip is or not.

    Raises:
        UserError: no such folder, a table without MELD's columns, or a row that cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that MELD's archive unpacks to")
    facts = manifests.load("meld.yaml")
    found = _walk(root)
    utterances: list[Utterance] = []
    notes: list[str] = []
    for split, names in facts["splits"].items():
        table = found.get(names["table"])
        if table is None:
            notes.append(f"no {names['table']}: the {split} split is left out")
            continue
        folder = found.get(names["folder"])
        if folder is None:
            notes.append(f"no folder {names['folder']}: the {split} split has text alone")
        clips = _clips(folder, facts["recut_prefix"]) if folder else {}
        expected = f"{names['folder']}/" if folder is None else f"{folder.relative_to(root).as_posix()}/"
        rows = _rows(table, facts["labels"])
        for (dialogue, number), row in rows.items():
            clip = clips.get((dialogue, number))
            utterances.append(
                Utterance(
                    id=f"{split}_dia{dialogue}_utt{number}", dialogue=f"{split}_dia{dialogue}", position=row["position"],
                    speaker=row["speaker"], text=row["text"], label=row["label"], split=split,
                    media=expected + f"dia{dialogue}_utt{number}.mp4" if clip is None else clip.relative_to(root).as_posix(),
                )
            )  # fmt: skip
        notes += _differences(split, rows, clips, facts["recut_prefix"])
    if not utterances:
        raise UserError(f"{root}: none of MELD's tables ({', '.join(s['table'] for s in facts['splits'].values())}) is in it")
    return Manifest("meld", facts["labels"], root, utterances, notes)


def repair_text(text: str) -> str:
    """Undoes the archive's double encoding: C1 control characters are Windows-1252 punctuation; NBSP is a blank."""
    repaired = "".join(
        bytes([ord(c)]).decode("cp1252", "replace") if "\x80" <= c <= "\x9f" else c for c in text.replace("\xa0", " ")
    )
    return repaired.replace("�", "").strip()


def _walk(root: Path) -> dict[str, Path]:
    """The tables and clip folders below root by name, the one nearest to the root first."""
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(_SEARCH_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()):
                if not path.name.startswith("."):
                    found.setdefault(path.name, path)
                    if path.is_dir() and not path.is_symlink():
                        below.append(path)
        level = below
    return found


def _clips(folder: Path, recut: str) -> dict[tuple[int, int], Path]:
    """The clip of each (dialogue, utterance); a re-cut twin stands in for the plain clip."""
    clips: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _CLIP.fullmatch(path.name)
        if match is None or match["prefix"] not in ("", recut):
            continue  # macOS's ._ files among them
        key = int(match["dialogue"]), int(match["utterance"])
        if match["prefix"] or key not in clips:
            clips[key] = path
    return clips


def _rows(table: Path, labels: list[str]) -> dict[tuple[int, int], dict]:
    """The rows of a table by (dialogue, utterance), those of a dialogue together."""
    data = table.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    reader = csv.DictReader(text.splitlines(keepends=True))
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{table}: no column {missing[0]!r}; MELD's tables have {', '.join(_COLUMNS)}")
        dialogues: dict[int, dict[tuple[int, int], dict]] = {}
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            try:
                key = int(row["Dialogue_ID"]), int(row["Utterance_ID"])
            except (TypeError, ValueError):
                raise UserError(f"{where}: Dialogue_ID and Utterance_ID must be whole numbers") from None
            label = (row["Emotion"] or "").strip().lower()
            if label not in labels:
                raise UserError(f"{where}, Emotion: {row['Emotion']!r} is none of {', '.join(labels)}")
            dialogue = dialogues.setdefault(key[0], {})
            if key in dialogue:
                raise UserError(f"{where}: dialogue {key[0]} utterance {key[1]} stands twice")
            dialogue[key] = {
                "position": len(dialogue), "speaker": repair_text(row["Speaker"] or "") or "unknown",
                "text": repair_text(row["Utterance"] or ""), "label": label,
            }  # fmt: skip
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from None
    return {key: row for dialogue in dialogues.values() for key, row in dialogue.items()}


def _differences(split: str, rows: dict, clips: dict[tuple[int, int], Path], recut: str) -> list[str]:
    notes = []
    if orphans := [clips[key].name for key in clips if key not in rows]:
        notes.append(f"{split}: {len(orphans)} clips without a row in the table are left out: {_some(orphans)}")
    if missing := [f"dia{d}_utt{u}.mp4" for d, u in rows if (d, u) not in clips] if clips else []:
        notes.append(f"{split}: {len(missing)} rows without a clip: {_some(missing)}")
    if twins := [clips[key].name for key in clips if clips[key].name.startswith(recut) and key in rows]:
        notes.append(f"{split}: {len(twins)} re-cut clips are used in place of the plain ones: {_some(twins)}")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
