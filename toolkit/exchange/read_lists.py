"""From a pickled tuple of dictionaries (`erc_toolkit.toolkit.exchange.layouts`) to a `Pack`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ... import manifests
from ..base.errors import UserError
from ..manifest import SPLITS, Utterance
from .layouts import Layout, is_whole
from .pack import NO_FEATURE, Matrix, Pack, entry_length, known_labels, matrix_of, numeric_vector, stored_text, unique

_MELD = manifests.load("meld.yaml")
# Split to the number of its first dialogue in MELD's pickles, and the number after the last one.
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
    """Makes a pack of a recognised tuple.

    Args:
        content: what the file holds.
        layout: which one it is; it has "speakers" and "labels".
        source: the file, for messages.
        corpus: name of the corpus; None finds it out.
        labels: names of the emotions in index order; empty takes those known for the corpus.
        keep_zeros: take vectors of zeros as features.

    Raises:
        UserError: not one dialogue can be used, or a label has no name.
    """
    parts = {name: part for name, part in zip(layout.parts, content) if name != "-"}
    dialogues, of_split, problems = _divide(parts)
    corpus = corpus or _corpus(layout, dialogues)
    if corpus == "meld" and all(map(is_whole, dialogues)):
        if "val" not in parts:
            _official_validation(dialogues, of_split, problems)
        name = _meld_name
    else:
        name = lambda key, split: str(key)
    utterances: list[Utterance] = []
    kept: dict[Hashable, list] = {}
    classes = 0
    for key in dialogues:
        entries = _labels(parts["labels"].get(key), name(key, of_split.get(key)), problems)
        if entries and key in of_split:
            kept[key] = entries
            classes = max(classes, max(entries) + 1)
        elif entries:
            problems.append(f"{name(key, None)}: is in no split; left out")
    if not kept:
        raise UserError(f"{source}: not one dialogue with labels and a split in it")
    names = list(labels) or known_labels(corpus, classes)
    if classes > len(names):
        raise UserError(f"{source}: holds {classes} classes, but --labels names {len(names)}")
    if names[0] == "label-0":
        problems.append(f"the names of the {classes} classes are not known; give them in index order with --labels")
    taken: set[str] = set()
    for key, entries in kept.items():
        utterances += _utterances(parts, key, name(key, of_split[key]), entries, names, of_split[key], taken, problems)
    pack = Pack(layout.name, corpus, names, utterances, problems=problems)
    add_features(pack, parts, {name(key, of_split[key]): key for key in kept}, keep_zeros)
    pack.attrs = {
        "dialogue_keys": "int" if all(map(is_whole, kept)) else "str",
        "split_order": {
            split: [
                name(key, of_split[key]) for key in unique(parts[split])[0] if key in kept and of_split[key] == split
            ]
            for split in SPLITS
            if split in parts
        },
    }
    return pack


def add_features(pack: Pack, parts: Mapping[str, object], keys: Mapping[str, Hashable], keep_zeros: bool) -> None:
    """Adds the features among a tuple's parts to a pack.

    Args:
        pack: with its utterances.
        parts: the tuple's, by what they hold.
        keys: dialogue id to its key in the parts.
        keep_zeros: as for `read_lists`.
    """
    names, dialogues = [u.id for u in pack.utterances], [u.dialogue for u in pack.utterances]
    counts: dict[str, int] = {}
    for dialogue in dialogues:
        counts[dialogue] = counts.get(dialogue, 0) + 1
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
                    else f"wrong length: {length} vectors for the dialogue's {count} utterances"
                )
                missing.update((len(rows) + i, why) for i in range(count))
                entry = [None] * count
            rows.extend(entry)
        matrix = matrix_of(rows, names, dialogues, missing, keep_zeros, part, pack.problems)
        matrix.source["part"] = part
        _add(pack, part, matrix)


def _add(pack: Pack, name: str, matrix: Matrix) -> None:
    if matrix.values.shape[1] == 0:
        pack.problems.append(f"{name}: not one usable vector; the feature is left out")
    else:
        pack.features[name] = matrix


def _divide(parts: Mapping[str, object]) -> tuple[list[Hashable], dict[Hashable, str], list[str]]:
    """Dialogues in the order of the labels, the split of each, and what is odd about them."""
    problems: list[str] = []
    of_split: dict[Hashable, str] = {}
    # Test last: what stands in two lists must not be learnt from.
    for split in SPLITS:
        if split not in parts:
            continue
        keys, twice = unique(_key(key) for key in parts[split] if isinstance(key, (str, int, np.integer)))
        problems += [f"{key}: stands more than once in the list of the {split} split; counted once" for key in twice]
        for key in keys:
            if key in of_split:
                problems.append(f"{key}: stands in the lists of {of_split[key]} and {split}; taken as {split}")
            of_split[key] = split
    dialogues = [_key(key) for key in parts["labels"] if isinstance(key, (str, int, np.integer))]
    for key in of_split:
        if key not in parts["labels"]:
            problems.append(
                f"{key}: is in the list of the {of_split[key]} split, but the file has no labels for it; left out"
            )
    others = (
        key for part, entries in parts.items() if isinstance(entries, Mapping) and part != "labels" for key in entries
    )
    for key in dict.fromkeys(others):
        if key not in parts["labels"] and key not in of_split:
            problems.append(f"{key}: has no labels; left out")
    return dialogues, of_split, problems


def _key(key: object) -> Hashable:
    return int(key) if isinstance(key, np.integer) else str(key) if isinstance(key, np.str_) else key


def _corpus(layout: Layout, dialogues: Sequence[Hashable]) -> str:
    if any(str(key).startswith("Ses0") for key in dialogues[:1]):
        return "iemocap"
    if layout.name == "cosmic-features" or layout.name == "cosmic-sentences":
        # EmoryNLP's are named season_episode_scene, DailyDialog's are numbered.
        parts = str(dialogues[0]).split("_") if dialogues else []
        return (
            "emorynlp"
            if len(parts) == 3 and all(p.isdigit() for p in parts)
            else "dailydialog"
            if len(parts) == 1
            else "unknown"
        )
    # The layouts of MELD and DailyDialog serve others too; theirs are numbered.
    return layout.corpus if layout.corpus not in (None, "iemocap") and all(map(is_whole, dialogues)) else "unknown"


def _official_validation(dialogues: Sequence[int], of_split: dict, problems: list[str]) -> None:
    """MELD's pickles without a validation list keep its dialogues in the training list, by their number."""
    moved = [key for key in dialogues if of_split.get(key) == "train" and meld_split(key) == "val"]
    of_split.update((key, "val") for key in moved)
    if moved:
        span = f"{MELD_FIRST['val']} to {MELD_FIRST['test'] - 1}"
        problems.append(
            f"{len(moved)} dialogues of the training list are MELD's validation dialogues ({span}); taken as val"
        )


def _meld_name(key: int, split: str | None) -> str:
    first = MELD_FIRST.get(split, 0)
    return f"{split}_dia{key - first}" if split and meld_split(key) == split else f"dialogue_{key}"


def dialogue_name(key: str | int, corpus: str) -> str:
    """The dialogue id of a pickle's key, where no list says its split."""
    return _meld_name(key, meld_split(key)) if corpus == "meld" and is_whole(key) else str(key)


def meld_split(key: int) -> str | None:
    """The official split of a dialogue's number in MELD's pickles, or None where there is no such dialogue."""
    return next((s for s, first in reversed(MELD_FIRST.items()) if first <= key < MELD_END), None)


def _labels(entry: object, dialogue: str, problems: list[str]) -> list[int]:
    """A dialogue's label indices; empty, with a problem, where they are none."""
    if isinstance(entry, np.ndarray) and entry.ndim == 1:
        entry = entry.tolist()
    if not isinstance(entry, (list, tuple)) or not entry or not all(is_whole(x) and -1 <= x < 1000 for x in entry):
        problems.append(f"{dialogue}: labels are not a list of class numbers; left out")
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
            problems.append(f"{dialogue}: {part}: {'no' if found is None else found} entries for {n} labels; not used")
            return None
        return None if entry is None else list(entry)

    texts = [stored_text(t) if isinstance(t, str) else "" for t in column("sentences") or [""] * n]
    speakers = [_speaker(s, dialogue) for s in column("speakers") or [None] * n]
    ids = []
    given = column("ids")
    for i in range(n):
        name = wanted = str(given[i]) if given and isinstance(given[i], str) and given[i] else f"{dialogue}_utt{i}"
        for again in range(2, 2**31):
            if name not in taken:
                break
            name = f"{wanted}#{again}"
        if name != wanted:
            problems.append(f"{dialogue}: the utterance id {wanted} stands twice; the second is called {name}")
        taken.add(name)
        ids.append(name)
    return [
        Utterance(ids[i], dialogue, i, speakers[i], texts[i], names[labels[i]] if labels[i] >= 0 else None, split)
        for i in range(n)
    ]


def _speaker(value: object, dialogue: str) -> str:
    """A speaker's name. A one-hot vector only tells a dialogue's speakers apart, so the name holds the dialogue."""
    if isinstance(value, str) and value:
        return stored_text(value)
    vector = numeric_vector(value)
    places = [] if vector is None else np.flatnonzero(vector)
    return f"{dialogue}/{places[0]}" if len(places) == 1 else f"{dialogue}/unknown"
