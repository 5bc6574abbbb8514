"""MMSA's pickles: `{"train": {...}, "valid": {...}, "test": {...}}`, dictionaries of arrays with one row per utterance.

Loaders expect for each split: `text`, `audio`, `vision` (n, T, D), `audio_lengths`, `vision_lengths` (n,), `raw_text`,
`id` ("video$_$clip") and `regression_labels` (n,). The format was made for sentiment, -3 to 3; emotions are stored in
`classification_labels` and `annotations`, and their index also in `regression_labels`, which the loader requires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..base.errors import UserError
from ..base.words import counted
from ..manifest import Utterance
from ..store import Feature, FeatureStore
from .layouts import is_whole
from .pack import Pack, add_rows, entry_length, known_labels

SPLITS = {"train": "train", "valid": "val", "test": "test"}
SEPARATOR = "$_$"
FEATURES = {"text": "text/mmsa", "audio": "audio/mmsa", "vision": "visual/mmsa"}
_LENGTHS = {"text": "text_lengths", "audio": "audio_lengths", "vision": "vision_lengths"}


def is_mmsa(content: object) -> bool:
    """Whether an unpickled file has MMSA's layout."""
    if not isinstance(content, Mapping) or not content or not set(content) <= set(SPLITS):
        return False
    return all(isinstance(part, Mapping) and "id" in part for part in content.values())


def read_mmsa(content: Mapping, source: str, *, corpus: str | None, labels: Sequence[str], keep_zeros: bool) -> Pack:
    """Makes a pack from MMSA's dictionaries.

    Three-dimensional arrays are sequences: their frames are kept, truncated to `*_lengths` if given, and an utterance's
    vector is their mean. `text_bert` contains token ids rather than features and is not read.

    Args:
        content: content of the file.
        source: the file, for error messages.
        corpus: name of the corpus; None means "mmsa".
        labels: names in index order of `classification_labels`; if empty, the `annotations` are used.
        keep_zeros: treat zero vectors as features.

    Raises:
        UserError: there are no utterances, or the labels cannot be determined.
    """
    problems: list[str] = []
    rows: list[tuple[str, str, int]] = []  # id, the file's split, row there
    for split, part in content.items():
        ids = _list(part["id"])
        if ids is None:
            raise UserError(f"{source}: {split}: 'id' is not a list")
        rows += [(_name(name, f"{split}_{i}"), split, i) for i, name in enumerate(ids)]
    if not rows:
        raise UserError(f"{source}: contains no utterances")
    names, of_label = _labels(content, rows, labels, source, problems)
    utterances, order = _utterances(content, rows, of_label, problems)
    pack = Pack("mmsa", corpus or _plain(content, "corpus") or "mmsa", names, utterances, problems=problems)
    for field, name in FEATURES.items():
        _add_feature(pack, name, content, [rows[i] for i in order], field, keep_zeros)
    return pack


def _labels(
    content: Mapping, rows: Sequence[tuple], labels: Sequence[str], source: str, problems: list[str]
) -> tuple[list[str], list[str | None]]:
    """The label names in index order, and the label of each row."""
    annotations = [_entry(content, split, "annotations", i) for _, split, i in rows]
    classes = [_entry(content, split, "classification_labels", i) for _, split, i in rows]
    numbers = [_class(c) for c in classes]
    if any(isinstance(a, str) and a for a in annotations) and not labels:
        texts = [a if isinstance(a, str) and a else None for a in annotations]
        # If both are given, the numbers determine the order of the names.
        pairs = {n: t for n, t in zip(numbers, texts, strict=True) if n is not None and n >= 0 and t is not None}
        named = _list(next(iter(content.values())).get("label_names"))
        if named and all(isinstance(x, str) for x in named) and set(named) >= set(filter(None, texts)):
            return named, texts
        if pairs and set(pairs) == set(range(len(pairs))) and set(pairs.values()) >= set(filter(None, texts)):
            return [pairs[i] for i in range(len(pairs))], texts
        return sorted(set(filter(None, texts))), texts
    found = [n for n in numbers if n is not None and n >= 0]
    if not found:
        problems.append("there are neither annotations nor classification_labels; all utterances are unlabelled")
        return list(labels) or ["label-0"], [None] * len(rows)
    names = list(labels) or known_labels("mmsa", max(found) + 1)
    if max(found) >= len(names):
        raise UserError(f"{source}: has {counted(max(found) + 1, 'class', 'classes')}, but --labels names {len(names)}")
    return names, [None if n is None or n < 0 else names[n] for n in numbers]


def _utterances(
    content: Mapping, rows: Sequence[tuple], labels: Sequence[str | None], problems: list[str]
) -> tuple[list[Utterance], list[int]]:
    """The utterances, those of a dialogue contiguous, and the row of each."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, (name, split, _) in enumerate(rows):
        places.setdefault((split, name.split(SEPARATOR)[0]), []).append(i)
    splits_of: dict[str, list[str]] = {}
    for split, dialogue in places:
        splits_of.setdefault(dialogue, []).append(split)
    utterances, order, taken = [], [], set()
    for (split, dialogue), members in places.items():
        if len(splits_of[dialogue]) > 1:
            problems.append(
                f"{dialogue}: has utterances in {' and '.join(splits_of[dialogue])}; kept as separate dialogues"
            )
            dialogue = f"{dialogue}@{split}"
        clips = [rows[i][0].partition(SEPARATOR)[2] for i in members]
        if "dialogue" not in content[split] and all(c.isdecimal() and len(c) < 10 for c in clips):
            members = [i for _, i in sorted(zip(map(int, clips), members, strict=True))]
        for position, i in enumerate(members):
            name, _, row = rows[i]
            if name in taken:
                problems.append(f"{dialogue}: duplicate utterance id {name}; the later one is renamed to {name}#{i}")
                name = f"{name}#{i}"
            taken.add(name)
            speaker = _entry(content, split, "speaker", row)
            text = _entry(content, split, "raw_text", row)
            utterances.append(
                Utterance(
                    name.partition(SEPARATOR)[2] if _entry(content, split, "dialogue", row) else name,
                    dialogue,
                    position,
                    speaker if isinstance(speaker, str) and speaker else "unknown",
                    text if isinstance(text, str) else "",
                    labels[i],
                    SPLITS[split],
                )
            )
            order.append(i)
    return utterances, order


def _add_feature(pack: Pack, name: str, content: Mapping, rows: Sequence[tuple], field: str, keep_zeros: bool) -> None:
    if not any(field in part for part in content.values()):
        return
    values: list[object] = []
    lengths: list[int | None] = []
    missing: dict[int, str] = {}
    for at, (_, split, i) in enumerate(rows):
        array = content[split].get(field)
        value = array[i] if entry_length(array) is not None and i < len(array) else None
        if value is None:
            rows_found = counted(entry_length(array) or 0, "row")
            missing[at] = f"wrong length: {field} has {rows_found}, fewer than the {split} split's utterances"
        length = _entry(content, split, _LENGTHS[field], i)
        values.append(value)
        lengths.append(int(length) if is_whole(length) and 0 <= length < 1 << 31 else None)
    add_rows(pack, name, values, missing, keep_zeros, part=field, lengths=lengths, padded=True)


def _class(value: object) -> int | None:
    """A class index, -1 for none; None if the value is not one."""
    if not isinstance(value, (int, float, np.number)) or not -1 <= value < 1000:
        return None
    return int(value) if float(value).is_integer() else None


def _name(value: object, otherwise: str) -> str:
    """An id as a text; numbers of reasonable size are ids as well."""
    if isinstance(value, str):
        return value or otherwise
    return str(value) if is_whole(value) and abs(value) < 10**15 else otherwise


def _list(value: object) -> list | None:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else None


def _entry(content: Mapping, split: str, field: str, row: int) -> object:
    column = content[split].get(field)
    return column[row] if entry_length(column) is not None and row < len(column) else None


def _plain(content: Mapping, field: str) -> str | None:
    value = next(iter(content.values())).get(field)
    return value if isinstance(value, str) and value else None


def mmsa_content(
    store: FeatureStore, features: Mapping[str, Sequence[str]], sequences: bool
) -> dict[str, dict[str, object]]:
    """A store in the layout that MMSA's own loader reads, with the store's other fields added for `convert`.

    Args:
        store: open.
        features: modality to the name of its feature, in a list of length one.
        sequences: write the frames of features that have them; otherwise each vector is written as a sequence of one.
    """
    names = store.dialogue_ids
    columns = {name: store.column(name) for name in ("id", "dialogue", "speaker", "label", "split", "text")}
    arrays = {m: store.feature(features[m][0]) for m in features}
    content = {}
    for theirs, ours in SPLITS.items():
        rows = np.flatnonzero(columns["split"] == ours)
        dialogues = [names[d] for d in columns["dialogue"][rows]]
        labels = columns["label"][rows]
        part: dict[str, object] = {
            "id": [f"{d}{SEPARATOR}{u}" for d, u in zip(dialogues, columns["id"][rows], strict=True)],
            "raw_text": np.array(columns["text"][rows].tolist(), object),
            "annotations": [store.labels[i] if i >= 0 else "" for i in labels],
            "classification_labels": labels.astype(np.float32),
            "regression_labels": labels.astype(np.float32),
            "dialogue": dialogues,
            "speaker": [store.speaker_names[s] for s in columns["speaker"][rows]],
            "label_names": store.labels,
            "corpus": store.corpus,
        }
        for modality, feature in arrays.items():
            field = "vision" if modality == "visual" else modality
            part[field], part[_LENGTHS[field]] = _padded(feature, rows, sequences)
        content[theirs] = part
    return content


def _padded(feature: Feature, rows: np.ndarray, sequences: bool) -> tuple[np.ndarray, list[int]]:
    """The features, float32 (n, T, D), and the length of each utterance."""
    if not (sequences and feature.has_sequences):
        return feature.values()[rows][:, None], [int(p) for p in feature.present()[rows]]
    frames = [feature.sequence(int(row))[0] for row in rows]
    longest, width = max([len(f) for f in frames] + [1]), max([f.shape[1] for f in frames] + [1])
    padded = np.zeros((len(rows), longest, width), np.float32)
    for i, f in enumerate(frames):
        padded[i, : len(f)] = f
    return padded, [len(f) for f in frames]
