"""Utterances and labels without features: tables (CSV), and the label archives of the MER challenges and MERBench.

Such an archive (`label-6way.npz`) contains for each split a pickled dictionary from utterance to its labels:
`train_corpus`: `{"sample_0001": {"emo": "happy", "val": 1.5}, …}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import UserError
from ...base.reading import tables
from ...base.reading.file_kinds import file_kind
from ...base.reading.texts import read_text
from ...base.words import counted
from ...manifest import Manifest, load_manifest, manifest_from_rows
from ..arrays import load_arrays
from ..layouts import is_whole

_CORPUS = "_corpus"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
# What tables call the fields of an utterance, in lower case; the first that a table has is used.
_COLUMNS = {
    "id": ("id", "utterance_id", "utterance", "utt_id", "name", "sample", "sample_id", "filename", "file", "clip"),
    "dialogue": ("dialogue", "dialogue_id", "dialog", "dialog_id", "conversation", "video_id", "video"),
    "speaker": ("speaker", "speaker_id", "speaker_name"),
    "label": ("label", "emotion", "emo", "discrete", "annotation"),
    "split": ("split", "mode", "partition", "subset", "set"),
    "text": ("text", "sentence", "transcript", "transcription", "subtitle", "english", "chinese"),
}
_MEDIA = (".mp4", ".avi", ".mkv", ".wav", ".mp3", ".flac", ".npy")


def is_label_archive(arrays: object) -> bool:
    """Whether a .npz file contains dictionaries of labels by split."""
    return isinstance(arrays, Mapping) and any(str(name).endswith(_CORPUS) for name in arrays)


def read_label_archive(arrays: Mapping[str, np.ndarray], source: Path, labels: Sequence[str]) -> Manifest:
    """The utterances of a label archive: each is a dialogue of its own, since the file does not group them.

    Args:
        arrays: content of the file.
        source: the file, for messages.
        labels: names in index order, if the file has numbers.

    Raises:
        UserError: a part is not a dictionary of labels, or an utterance is in two splits.
    """
    found: list[tuple[str, str, object]] = []
    for name, array in arrays.items():
        if not str(name).endswith(_CORPUS):
            continue
        split = _split(name.removesuffix(_CORPUS))
        content = array.item() if array.dtype.hasobject and array.size == 1 else None
        if split is None or not isinstance(content, Mapping):
            raise UserError(
                f"{source}: {str(name)[:60]!r} is not a dictionary of the labels of a train, val or test split"
            )
        found += [(str(key), split, value) for key, value in content.items() if isinstance(key, (str, np.str_))]
    given = [value.get("emo") if isinstance(value, Mapping) else value for _, _, value in found]
    names, of_value = _names(given, labels, str(source))
    rows = [
        (
            number,
            {"id": name, "dialogue": name, "speaker": "unknown", "split": split, "label": of_value.get(_key(value))},
        )
        for number, ((name, split, _), value) in enumerate(zip(found, given, strict=True), 1)
    ]
    notes = [f"{source.name}: does not name dialogues or speakers; each utterance is a dialogue of its own"]
    if missing := sum(row["label"] is None for _, row in rows):
        notes.append(f"{source.name}: {counted(missing, 'utterance')} without an emotion (`emo`)")
    return manifest_from_rows(source, rows, source.stem, names, source.parent, notes, unit="utterance")


def _split(name: str) -> str | None:
    return _SPLITS.get(name.strip().lower().rstrip("0123456789").rstrip("_-"))


def _key(value: object) -> object:
    """A label as it is compared: a text, or a class index, -1 for a number that is none; None if there is no label."""
    if is_whole(value):
        return int(value) if -1 <= value < 1000 else -1
    return value if isinstance(value, str) and value else None


def _names(values: Iterable[object], labels: Sequence[str], source: str) -> tuple[list[str], dict[object, str]]:
    """The label names in index order, and the name of each value that occurs."""
    kinds = {key for key in map(_key, values) if key is not None}
    numbers = sorted(key for key in kinds if isinstance(key, int))
    texts = sorted(key for key in kinds if isinstance(key, str))
    if numbers and texts:
        raise UserError(f"{source}: labels are texts ({texts[0][:60]!r}, …) and numbers ({numbers[0]}, …); use one")
    if texts:
        return list(labels) or texts, {text: text for text in texts}
    if numbers and numbers[0] < 0:
        raise UserError(f"{source}: labels are numbers below 0 or above 999, not class indices")
    classes = numbers[-1] + 1 if numbers else 1
    names = list(labels) or [f"label-{i}" for i in range(classes)]
    if classes > len(names):
        raise UserError(f"{source}: has {counted(classes, 'class', 'classes')}, but --labels names {len(names)}")
    return names, {number: names[number] for number in numbers}


def read_label_file(path: Path, labels: Sequence[str]) -> Manifest:
    """The utterances of a manifest, a table or a label archive.

    Raises:
        UserError: as for `read_table` and `read_label_archive`.
    """
    if path.is_file() and file_kind(path).name == "npz":
        content: Any = load_arrays(path)
        if not is_label_archive(content):
            raise UserError(
                f"{path}: a NumPy archive without labels (`train_corpus`, …); it does not define utterances"
            )
        return read_label_archive(content, path, labels)
    return read_table(path, labels)


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return path.suffix.lower() in (".csv", ".tsv")


def read_table(path: Path, labels: Sequence[str]) -> Manifest:
    """The utterances of a manifest, or of a table with at least an id in each row.

    A table without dialogues has one utterance in each dialogue; without splits, everything is in `train`.

    Raises:
        UserError: the table has no column of ids, or as for `load_manifest`.
    """
    if not is_table(path):
        return load_manifest(path)
    text, note = read_text(path, "table")
    table = tables.read_table(text, path, {name for names in _COLUMNS.values() for name in names})
    if {"id", "dialogue", "speaker"} <= {*table.columns}:
        return load_manifest(path)
    columns = {
        field: found
        for field, names in _COLUMNS.items()
        if (found := next((name for name in names if name in table.columns), None)) is not None
    }
    if "id" not in columns:
        found = " ".join(", ".join(table.columns)[:200].split())
        raise UserError(
            f"{path}, line 1: no column of ids among {found}; name one `id`, with what the feature files are called"
        )
    made, places = [], {}
    for line, row in table.rows:
        fields = {field: row.get(name, "").strip() for field, name in columns.items()}
        name = fields["id"]
        fields["id"] = name[:-4] if name.lower().endswith(_MEDIA) else name
        if (split := fields.get("split")) and (known := _split(split)):
            fields["split"] = known
        fields.setdefault("dialogue", fields["id"])
        fields.setdefault("speaker", "unknown")
        places.setdefault(fields["dialogue"], len(places))
        made.append((line, {key: value for key, value in fields.items() if value}))
    made.sort(key=lambda pair: places.get(pair[1].get("dialogue", ""), 0))
    used = ", ".join(f"{field} from {name!r}" for field, name in columns.items())
    notes = [*([note] if note else []), *table.notes, f"{path.name}: {used}"]
    notes += [
        f"{path.name}: no column for {field}; {instead}"
        for field, instead in (
            ("dialogue", "each utterance is a dialogue of its own"),
            ("speaker", "all are `unknown`"),
            ("split", "all are in `train`"),
            ("label", "all are unlabelled"),
        )
        if field not in columns
    ]
    return manifest_from_rows(path, made, path.stem, list(labels) or None, path.parent, notes)
