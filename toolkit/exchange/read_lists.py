"""Converting a pickled tuple of dictionaries (`erc_toolkit.toolkit.exchange.layouts`) to a `Pack`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ... import manifests
from ..base.errors import UserError
from ..base.words import counted
from ..manifest import SPLITS, Utterance
from .layouts import Layout, is_whole, kinds
from .pack import NO_FEATURE, Pack, add_rows, entry_length, known_labels, numeric_vector, unique

SENTIMENT = ("Negative", "Neutral", "Positive")
_MELD = manifests.load("meld.yaml")
_IEMOCAP_VALIDATION = {*manifests.load("iemocap.yaml")["validation"]}
# The number of each split's first dialogue in MELD's pickles, and one more than the last number.
MELD_FIRST = {split: facts["pickle_offset"] for split, facts in _MELD["splits"].items()}
MELD_END = MELD_FIRST["test"] + _MELD["published"][0]["splits"]["test"]["dialogues"]


def read_lists(
    content: Sequence[object],
    layout: Layout,
    source: str,
    *,
    corpus: str | None,
    labels: Sequence[str],
    keep_zeros: bool,
) -> Pack:
    """Makes a pack from a tuple with a known layout.

    Args:
        content: content of the file.
        layout: its layout, which has "speakers" and "labels".
        source: the file, for error messages.
        corpus: name of the corpus; None to detect it.
        labels: names of the emotions in index order; if empty, those known for the corpus are used.
        keep_zeros: treat zero vectors as features.

    Raises:
        UserError: no dialogue can be used, or a label has no name.
    """
    parts: dict[str, Any] = {name: part for name, part in zip(layout.parts, content, strict=True) if name != "-"}
    scored = "scores" in kinds(parts["labels"])
    if scored:
        parts["labels"], signed = _classes(parts["labels"])
        labels = labels or (SENTIMENT if signed else ())
    dialogues, of_split, problems = _divide(parts)
    if scored and signed:
        problems.append("labels: scores, such as the sentiment of MOSI and MOSEI; their sign is the label")
    corpus = corpus or _corpus(layout, dialogues)
    numbered = corpus.lower() == "meld" and all(map(is_whole, dialogues))
    if "val" not in parts:
        if numbered:
            span = f"{MELD_FIRST['val']} to {MELD_FIRST['test'] - 1}"
            _official_validation(lambda key: meld_split(key) == "val", f"MELD's ({span})", of_split, problems)
        elif corpus.lower() == "iemocap":
            _official_validation(lambda key: str(key) in _IEMOCAP_VALIDATION, "IEMOCAP's", of_split, problems)
    name = _meld_name if numbered else _plain_name
    utterances: list[Utterance] = []
    kept: dict[Hashable, list] = {}
    classes = 0
    for key in dialogues:
        entries = _labels(parts["labels"].get(key), name(key, of_split.get(key)), problems)
        if entries and key in of_split:
            kept[key] = entries
            classes = max(classes, max(entries) + 1)
        elif entries:
            problems.append(f"{name(key, None)}: is not in any split; skipped")
    if not kept:
        raise UserError(f"{source}: no dialogue has both labels and a split")
    names = list(labels) or known_labels(corpus, max(classes, 1))
    if classes > len(names):
        raise UserError(f"{source}: has {counted(classes, 'class', 'classes')}, but --labels names {len(names)}")
    if names[0] == "label-0":
        problems.append(
            f"{counted(classes, 'class', 'classes')} without known names; give them in index order with --labels"
        )
    taken: set[str] = set()
    for key, entries in kept.items():
        utterances += _utterances(parts, key, name(key, of_split[key]), entries, names, of_split[key], taken, problems)
    pack = Pack(layout.name, corpus, names, utterances, problems=problems)
    add_features(pack, parts, {name(key, of_split[key]): key for key in kept}, keep_zeros)
    pack.attrs = {
        "dialogue_keys": "int" if all(map(is_whole, kept)) else "str",
        "split_order": {
            split: [
                name(key, of_split[key])
                for key in unique(_key(key) for key in parts[split] if is_key(key))[0]
                if key in kept and of_split[key] == split
            ]
            for split in SPLITS
            if split in parts
        },
    }
    return pack


def add_features(pack: Pack, parts: Mapping[str, object], keys: Mapping[str, Hashable], keep_zeros: bool) -> None:
    """Adds the features of a tuple to a pack.

    Args:
        pack: a pack with utterances.
        parts: the parts of the tuple, by their content.
        keys: dialogue id to its key in the parts.
        keep_zeros: as for `read_lists`.
    """
    counts = Counter(u.dialogue for u in pack.utterances)
    for part, entries in parts.items():
        if "/" not in part or not entries:
            continue
        rows: list[object] = []
        missing: dict[int, str] = {}
        for dialogue, count in counts.items():
            entry = entries.get(keys.get(dialogue))
            length = entry_length(entry)
            if length != count:
                why = (
                    NO_FEATURE
                    if length is None
                    else f"wrong length: {counted(length, 'vector')} for {counted(count, 'utterance')}"
                )
                missing.update((len(rows) + i, why) for i in range(count))
                entry = [None] * count
            rows.extend(entry)
        add_rows(pack, part, rows, missing, keep_zeros)


def _divide(parts: Mapping[str, object]) -> tuple[list[Hashable], dict[Hashable, str], list[str]]:
    """The dialogues in the order of the labels, the split of each, and problems found."""
    problems: list[str] = []
    of_split: dict[Hashable, str] = {}
    # Test last: a dialogue in both lists must not be trained on.
    for split in SPLITS:
        if split not in parts:
            continue
        keys, repeated = unique(_key(key) for key in parts[split] if is_key(key))
        problems += [f"{key}: is more than once in the list of the {split} split; counted once" for key in repeated]
        for key in keys:
            if key in of_split:
                problems.append(f"{key}: is in the lists of {of_split[key]} and {split}; used as {split}")
            of_split[key] = split
    dialogues = [_key(key) for key in parts["labels"] if is_key(key)]
    for key in of_split:
        if key not in parts["labels"]:
            problems.append(
                f"{key}: is in the list of the {of_split[key]} split, but the file has no labels for it; skipped"
            )
    others = (
        key for part, entries in parts.items() if isinstance(entries, Mapping) and part != "labels" for key in entries
    )
    for key in dict.fromkeys(others):
        if is_key(key) and key not in parts["labels"] and key not in of_split:
            problems.append(f"{key}: has no labels; skipped")
    return dialogues, of_split, problems


def is_key(key: object) -> bool:
    """Whether a key can name a dialogue: a text, or a number of reasonable size."""
    return isinstance(key, str) or (is_whole(key) and abs(int(key)) < 10**15)


def _key(key: object) -> Hashable:
    return int(key) if isinstance(key, np.integer) else str(key) if isinstance(key, np.str_) else key


def _corpus(layout: Layout, dialogues: Sequence[Hashable]) -> str:
    if any(str(key).startswith("Ses0") for key in dialogues[:1]):
        return "iemocap"
    if layout.name == "cosmic-features" or layout.name == "cosmic-sentences":
        # EmoryNLP's dialogues are named season_episode_scene, DailyDialog's are numbered.
        parts = str(dialogues[0]).split("_") if dialogues else []
        return (
            "emorynlp"
            if len(parts) == 3 and all(p.isdigit() for p in parts)
            else "dailydialog"
            if len(parts) == 1
            else "unknown"
        )
    # The layouts of MELD and DailyDialog are used for other corpora too, but only their own dialogues are numbered.
    return layout.corpus if layout.corpus not in (None, "iemocap") and all(map(is_whole, dialogues)) else "unknown"


def _official_validation(
    is_val: Callable[[Any], bool], whose: str, of_split: dict[Hashable, str], problems: list[str]
) -> None:
    """Moves a corpus's validation dialogues out of the training list, for files that have no validation list.

    Extraction from the raw corpus has the same split.
    """
    moved = [key for key, split in of_split.items() if split == "train" and is_val(key)]
    of_split.update((key, "val") for key in moved)
    if moved:
        problems.append(
            f"{counted(len(moved), 'dialogue')} of the training list in {whose} validation split; used as val"
        )


def _plain_name(key: Hashable, split: str | None) -> str:
    return key if isinstance(key, str) else str(key)  # `str` would forget that it was a byte string


def _meld_name(key: int, split: str | None) -> str:
    first = MELD_FIRST.get(split, 0)
    return f"{split}_dia{key - first}" if split and meld_split(key) == split else f"dialogue_{key}"


def dialogue_name(key: str | int, corpus: str) -> str:
    """The dialogue id of a pickle's key that is in no split list."""
    return _meld_name(key, meld_split(key)) if corpus.lower() == "meld" and is_whole(key) else _plain_name(key, None)


def meld_split(key: Hashable) -> str | None:
    """The official split of a dialogue's number in MELD's pickles, or None if there is no such dialogue."""
    if not is_whole(key):  # the list of a split may hold anything
        return None
    return next((s for s, first in reversed(MELD_FIRST.items()) if first <= key < MELD_END), None)


def _classes(scores: Any) -> tuple[dict[Hashable, object], bool]:
    """Labels that are not whole numbers, as class indices.

    Returns:
        The indices by dialogue: the numbers themselves if all are whole and none is negative, otherwise indices of
        `SENTIMENT` by their sign; and which of these. An entry that is not a list of numbers is kept: it is reported
        with the other labels.
    """
    vectors = {}
    for key, entry in scores.items():
        flat = entry.reshape(-1) if isinstance(entry, np.ndarray) else entry
        vectors[key] = numeric_vector(flat)
    found = [v for v in vectors.values() if v is not None and len(v)]
    numbers = np.concatenate(found).astype(np.float64) if found else np.zeros(0)
    with np.errstate(invalid="ignore"):
        signed = not (np.isfinite(numbers).all() and (numbers >= 0).all() and (numbers == numbers.round()).all())
    made = {}
    for key, v in vectors.items():
        if v is None:
            made[key] = scores[key]
        elif signed:
            made[key] = [int(np.sign(x)) + 1 if np.isfinite(x) else -1 for x in v]
        else:
            made[key] = [int(x) for x in v]
    return made, signed


def _labels(entry: object, dialogue: str, problems: list[str]) -> list[int]:
    """A dialogue's label indices; if they are invalid, an empty list, and a problem is appended."""
    if isinstance(entry, np.ndarray) and entry.ndim == 1:
        entry = entry.tolist()
    if not isinstance(entry, (list, tuple)) or not entry or not all(is_whole(x) and -1 <= x < 1000 for x in entry):
        problems.append(f"{dialogue}: labels are not a list of class indices; skipped")
        return []
    return [int(x) for x in entry]


def _utterances(
    parts: Mapping[str, object],
    key: Hashable,
    dialogue: str,
    labels: Sequence[int],
    names: Sequence[str],
    split: str,
    taken: set[str],
    problems: list[str],
) -> list[Utterance]:
    n = len(labels)

    def column(part: str) -> list | None:
        entry = parts[part].get(key) if part in parts else None
        if part in parts and (found := entry_length(entry)) != n:
            problems.append(f"{dialogue}: {part}: {found or 0} instead of {counted(n, 'entry', 'entries')}; not used")
            return None
        return None if entry is None else list(entry)

    texts = [t if isinstance(t, str) else "" for t in column("sentences") or [""] * n]
    speakers = [_speaker(s, dialogue) for s in column("speakers") or [None] * n]
    ids = []
    given = column("ids")
    for i in range(n):
        name = wanted = given[i] if given and isinstance(given[i], str) and given[i] else f"{dialogue}_utt{i}"
        for again in range(2, 2**31):
            if name not in taken:
                break
            name = f"{wanted}#{again}"
        if name != wanted:
            problems.append(f"{dialogue}: duplicate utterance id {wanted}; the later one is renamed to {name}")
        taken.add(name)
        ids.append(name)
    return [
        Utterance(ids[i], dialogue, i, speakers[i], texts[i], names[labels[i]] if labels[i] >= 0 else None, split)
        for i in range(n)
    ]


def _speaker(value: object, dialogue: str) -> str:
    """A speaker's name. For a one-hot vector it includes the dialogue, since the vector is only unique within it."""
    if isinstance(value, str) and value:
        return value
    vector = numeric_vector(value)
    places = [] if vector is None else np.flatnonzero(vector)
    return f"{dialogue}/{places[0]}" if len(places) == 1 else f"{dialogue}/unknown"
