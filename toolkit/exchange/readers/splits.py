"""Dictionaries of splits without MMSA's ids or labels, as MulT, MAG-BERT and MISA publish MOSI, MOSEI and IEMOCAP.

- `{"train": {"text": (N, T, D), "audio": …, "vision": …, "labels": …}, "valid": …, "test": …}`, in MulT's files; `id`
  or `segments` is missing, or (N, 3): video, start and end in seconds.
- `{"train": [((words, visual, acoustic), label, segment), …], "dev": …, "test": …}`, in MAG-BERT's and MISA's.

They are brought into MMSA's layout, which `..mmsa` reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...base.errors import UserError
from ...base.words import counted
from ..layouts import is_whole, short_key
from ..mmsa import FEATURES, SEPARATOR
from ..pack import entry_length
from ..read_lists import SENTIMENT

_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
_SEGMENT = re.compile(r"([^\[\]]{1,200})\[(\d{1,9})\]")
# MulT's own order (its evaluation prints them so); every emotion is absent or present.
_IEMOCAP = ("neutral", "happy", "sad", "angry")
_MOSEI = ("happy", "sad", "anger", "surprise", "disgust", "fear")


def is_splits(content: object) -> bool:
    """Whether a file's content is a dictionary of splits, of any kind."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(k, str) for k in content):
        return False
    parts = [part for name, part in content.items() if name in _SPLITS]
    if not parts or set(content) - set(_SPLITS) - {"metadata", "meta", "emb", "word2id", "w2i"}:
        return False
    return all(isinstance(p, Mapping) for p in parts) or all(isinstance(p, (list, tuple)) for p in parts)


def is_splits_without_labels(content: Mapping) -> bool:
    """Whether MMSA's layout lacks what `mmsa` needs: one name for each row, and classes."""
    parts = list(content.values())
    named = all(_is_column(part.get("id")) for part in parts)
    return not (named and any(name in part for part in parts for name in ("annotations", "classification_labels")))


def _is_column(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, (list, tuple)) and not (value and isinstance(value[0], (list, tuple, np.ndarray)))


def as_mmsa(content: Mapping, source: str, problems: list[str]) -> Mapping:
    """The content in MMSA's layout; what was made up is appended to `problems`.

    Raises:
        UserError: features, or everything that could be a label, are missing; the message names the fields.
    """
    made: dict[str, dict] = {}
    for name, part in content.items():
        if name in _SPLITS:
            fields = dict(part) if isinstance(part, Mapping) else _of_examples(part, f"{source}: {name}")
            if (split := _SPLITS[name]) in made:
                raise UserError(f"{source}: has two validation splits; remove one")
            made[split] = fields
    for split, fields in made.items():
        if not any(field in fields for field in FEATURES) and "raw_text" not in fields:
            found = ", ".join(short_key(k) for k in list(fields)[:8]) or "nothing"
            raise UserError(
                f"{source}: {split} contains {found}, but no features; needed is one of {', '.join(FEATURES)}"
            )
    named = any("id" in fields for fields in made.values())
    _identify(made, problems)
    _label(made, source, problems, named)
    return made


def _of_examples(examples: Sequence[Any], where: str) -> dict:
    """The fields of a list of examples, each ((words, visual, acoustic, …), label, segment)."""
    fields: dict[str, list] = {"raw_text": [], "vision": [], "audio": [], "labels": [], "segments": []}
    for number, example in enumerate(examples):
        parts, label, *segment = example if isinstance(example, (list, tuple)) and len(example) >= 2 else (None, None)
        if not isinstance(parts, (list, tuple)) or len(parts) < 3:
            raise UserError(
                f"{where}, example {number}: not ((words, visual, acoustic), label, segment), the only form of a list "
                "that is known"
            )
        # MISA has word numbers first and the words last.
        words = next((p for p in (parts[0], *parts[3:]) if _is_words(p)), None)
        fields["raw_text"].append(" ".join(str(w) for w in words) if words is not None else "")
        fields["vision"].append(parts[1])
        fields["audio"].append(parts[2])
        fields["labels"].append(label)
        fields["segments"].append(segment[0] if segment else None)
    if all(s is None for s in fields["segments"]):
        del fields["segments"]
    return fields


def _is_words(value: object) -> bool:
    return (
        isinstance(value, (list, tuple, np.ndarray))
        and bool(entry_length(value))
        and all(isinstance(w, str) for w in value)
    )


def _identify(made: Mapping[str, dict], problems: list[str]) -> None:
    """Sets `id`, from `id` or `segments` if they name videos, otherwise from split and row."""
    invented = 0
    for split, fields in made.items():
        given = next((fields[name] for name in ("id", "segments") if name in fields), None)
        length = _rows(fields)
        names = _names(given) if given is not None and entry_length(given) == length else None
        if given is not None and names is None:
            problems.append(f"{split}: `id` does not name a video for each of {counted(length, 'row')}; not used")
        if names is None:
            names = [f"{split}_{i}" for i in range(length)]
            invented += length
        fields["id"] = names
    if invented:
        problems.append(
            f"{counted(invented, 'utterance')} without an id: named after split and row, such as "
            f"{next(iter(made))}_0; each is a dialogue of its own, since nothing says which belong together"
        )


def _rows(fields: Mapping[str, object]) -> int:
    lengths = [entry_length(fields[name]) for name in ("labels", "raw_text", *FEATURES) if name in fields]
    return max((n for n in lengths if n is not None), default=0)


def _names(given: Any) -> list[str] | None:
    """Names "VIDEO$_$NUMBER", where the numbers count a video's utterances in the order of their times."""
    rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in given]
    if all(isinstance(row, str) and row for row in rows):
        pairs = [_SEGMENT.fullmatch(row) for row in rows]
        return [f"{m[1]}{SEPARATOR}{m[2]}" if m else row for m, row in zip(pairs, rows, strict=True)]
    if not all(isinstance(r, (list, tuple)) and r and _is_video(r[0]) for r in rows):
        return None
    starts: dict[str, list[tuple[float, int]]] = {}
    for i, row in enumerate(rows):
        starts.setdefault(str(row[0])[:500], []).append((_seconds(row[1]) if len(row) > 1 else 0.0, i))
    names = [""] * len(rows)
    for video, found in starts.items():
        for number, (_, i) in enumerate(sorted(found)):
            names[i] = f"{video}{SEPARATOR}{number}"
    return names


def _is_video(value: object) -> bool:
    return isinstance(value, str) and value != "" or (is_whole(value) and abs(value) < 10**15)


def _seconds(value: object) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return number if np.isfinite(number) else 0.0


def _label(made: Mapping[str, dict], source: str, problems: list[str], named: bool) -> None:
    """Sets `annotations` and `label_names` from `labels` or `regression_labels`, unless there are class labels."""
    if any(name in fields for fields in made.values() for name in ("annotations", "classification_labels")):
        return
    field = next((n for n in ("labels", "label", "regression_labels", "y") if all(n in f for f in made.values())), None)
    if field is None and named:
        return  # `mmsa` reports it
    if field is None:
        found = ", ".join(short_key(k) for k in list(next(iter(made.values())))[:10])
        raise UserError(f"{source}: has no labels in every split, only {found}; add a field `labels` to each split")
    tables = {split: _numbers(fields[field], f"{source}: {split}: {field}") for split, fields in made.items()}
    names, of_row = _naming(tables, f"{source}: {field}", problems)
    for split, fields in made.items():
        index = of_row(tables[split])
        fields["annotations"] = [names[i] if i >= 0 else "" for i in index]
        fields["label_names"] = list(names)
    if missing := sum(not a for fields in made.values() for a in fields["annotations"]):
        problems.append(f"{field}: {counted(missing, 'utterance')} without exactly one label; unlabelled")


def _numbers(value: Any, where: str) -> np.ndarray:
    """Labels as float64 (N, …)."""
    try:
        rows = value if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else None
        if rows is None and entry_length(value) == 0:
            return np.zeros(0)
        if rows is None:
            rows = np.stack([np.asarray(row, np.float64).reshape(-1) for row in value])
        return np.atleast_1d(np.asarray(rows, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: not numbers of the same shape for every utterance") from None


def _naming(tables: Mapping[str, np.ndarray], where: str, problems: list[str]):
    """The label names, and a function from a table to the index of each row's label, -1 for none."""
    shapes = {table.shape[1:] for table in tables.values() if len(table)}
    if len(shapes) != 1:
        raise UserError(f"{where} have different shapes in the splits, or there are none")
    shape = tuple(n for n in shapes.pop() if n != 1)
    every = np.concatenate([table.reshape(len(table), -1) for table in tables.values() if len(table)])
    if shape == (4, 2):
        problems.append(
            "labels: four emotions, each absent or present, as in MulT's IEMOCAP (neutral, happy, sad, angry)"
        )
        return _IEMOCAP, lambda table: _only(table.reshape(len(table), 4, 2).argmax(2))
    if shape == (7,):
        problems.append("labels: seven columns, sentiment first, as in MOSEI; the sign of the sentiment is the label")
        return SENTIMENT, lambda table: _signs(table.reshape(len(table), 7)[:, 0])
    if shape == (6,):
        problems.append(
            "labels: six columns, as in MOSEI (happy, sad, anger, surprise, disgust, fear); the largest is used"
        )
        return _MOSEI, lambda table: _largest(table.reshape(len(table), 6))
    if shape == ():
        if np.isfinite(every).all() and (every >= 0).all() and (every == every.round()).all() and every.max() < 100:
            classes = int(every.max()) + 1
            problems.append(f"labels: {counted(classes, 'class', 'classes')} without names")
            return [f"label-{i}" for i in range(classes)], lambda table: table.reshape(len(table)).astype(int)
        problems.append("labels: scores, such as the sentiment of MOSI and MOSEI; their sign is the label")
        return SENTIMENT, lambda table: _signs(table.reshape(len(table)))
    raise UserError(
        f"{where} have shape {every.shape[0], *shape}; known are scores or classes (N,), MOSEI's (N, 6) and (N, 7) and "
        "MulT's IEMOCAP (N, 4, 2)"
    )


def _signs(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(scores), np.sign(np.nan_to_num(scores)) + 1, -1).astype(int)


def _only(present: np.ndarray) -> np.ndarray:
    """The only emotion that is present, -1 if there are none or several."""
    return np.where(present.sum(1) == 1, present.argmax(1), -1)


def _largest(scores: np.ndarray) -> np.ndarray:
    """The emotion with the largest score, -1 if several have it or it is 0."""
    scores = np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)
    most = scores.max(1, keepdims=True)
    return np.where(((scores == most).sum(1) == 1) & (most[:, 0] > 0), scores.argmax(1), -1)
