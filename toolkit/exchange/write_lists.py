"""Writing a store as the pickles of `erc_toolkit.toolkit.exchange.layouts`, readable by numpy 1 and 2."""

from __future__ import annotations

import pickle
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ... import manifests
from ..base.errors import UserError
from ..base.files import atomic_path
from ..base.reading.plain_json import parse_json
from ..base.words import counted
from ..manifest import MODALITIES, SPLITS
from ..store import FeatureStore
from .layouts import LAYOUTS, Layout
from .marks import PICKLE_MARK, PROTOCOL
from .read_lists import MELD_FIRST


def layout_for(family: str, store: FeatureStore, shape: str | None) -> Layout:
    """The layout that a family of projects uses for this store's corpus.

    Args:
        family: "mmgcn", "sdt" or "cosmic-features".
        store: open.
        shape: "iemocap" (two speakers, "M" and "F") or "meld" (up to nine, one-hot); None selects IEMOCAP's for
            IEMOCAP, otherwise MELD's.
    """
    iemocap = (shape or store.corpus.lower()) == "iemocap"
    name = family if iemocap else f"{family}-meld"
    return next(layout for layout in LAYOUTS if layout.name == name)


def lists_of(store: FeatureStore, layout: Layout, features: Mapping[str, Sequence[str]]) -> tuple[tuple, list[str]]:
    """A store as the tuple of a layout, and notes on what the layout cannot represent.

    Features are float32 (L, D) per dialogue, zeros where not present. Dictionaries are in the store's order, and so are
    the split lists, unless the store was converted from a file with another order.

    Args:
        store: open.
        layout: a layout with "train" and "test".
        features: modality to the names of its features; text has one or four (RoBERTa's last layers, last one first).

    Raises:
        UserError: the layout cannot represent the store: too many speakers in a dialogue, a missing modality or label.
    """
    notes: list[str] = []
    names = _feature_parts(store, layout, features, notes)
    keys = _keys(store)
    ids, speaker, label, text, split = (store.column(n) for n in ("id", "speaker", "label", "text", "split"))
    if (label < 0).any():
        raise UserError(
            f"{store.path}: {counted(int((label < 0).sum()), 'utterance')} without a label, which the layout does not "
            "allow; extract without --keep-unlabelled"
        )
    speakers = _two_speakers if not layout.name.endswith("-meld") else _one_hot
    columns: dict[str, dict] = {part: {} for part in layout.parts if part not in ("train", "val", "test", "-")}
    matrices = {part: store.feature(name).values() if name else None for part, name in names.items()}
    for key, (dialogue, rows) in zip(keys, store.dialogues(), strict=True):
        if "ids" in columns:
            columns["ids"][key] = ids[rows].tolist()
        columns["speakers"][key] = speakers(store, dialogue, speaker[rows])
        columns["labels"][key] = label[rows].tolist()
        columns["sentences"][key] = text[rows].tolist()
        for part, matrix in matrices.items():
            if matrix is not None:
                columns[part][key] = matrix[rows].copy()
    order = _split_order(store, keys, split)
    if "val" not in layout.parts and order["val"]:
        notes.append(
            f"the layout has no validation list: {counted(len(order['val']), 'val dialogue')} added to the training "
            "list"
        )
        known = store.attrs.get("split_order")
        order["train"] = _merged(order["train"], order["val"], keys if known is None else None)
    for name in names.values():
        if name and (absent := int((~store.feature(name).present()).sum())):
            notes.append(
                f"{name}: {counted(absent, 'utterance')} without it written as zeros; the layout has no other marker"
            )
    made = {**columns, **order, "-": {}}
    return tuple(made[part] for part in layout.parts), notes


def _feature_parts(
    store: FeatureStore, layout: Layout, features: Mapping[str, Sequence[str]], notes: list[str]
) -> dict[str, str | None]:
    """Maps each feature part of the layout to a feature of the store, or None."""
    parts: dict[str, str | None] = {}
    for modality in MODALITIES:
        places = [part for part in layout.parts if part.startswith(f"{modality}/")]
        names = list(features.get(modality, ()))
        if not places:
            continue
        if not names:
            raise UserError(
                f"{store.path}: has no {modality} feature, which the layout requires; extract or convert one"
            )
        if len(names) not in (1, len(places)):
            raise UserError(
                f"{store.path}: the layout has {counted(len(places), f'{modality} part')}, not {len(names)}; "
                "choose as many with --feature"
            )
        if len(names) < len(places) and layout.name.startswith("cosmic"):
            raise UserError(
                f"{store.path}: COSMIC's loaders read four text layers; extract with --pooling last4, or choose four "
                "with --feature"
            )
        if len(names) < len(places):
            notes.append(
                f"only {names[0]} is given for the {len(places)} text layers; the others are empty dictionaries, which "
                "the published loaders unpack but do not use"
            )
        parts |= dict(zip(places, [*names, *[None] * (len(places) - len(names))], strict=True))
    return parts


def _keys(store: FeatureStore) -> list[Hashable]:
    """The dialogues' keys: MELD's numbers if the ids are MELD's, otherwise the ids or the numbers they come from."""
    if store.corpus.lower() == "meld":
        matches = [re.fullmatch(r"(train|val|test)_dia(\d+)", name) for name in store.dialogue_ids]
        if all(matches):
            return [MELD_FIRST[m[1]] + int(m[2]) for m in matches]
    if store.attrs.get("dialogue_keys") == "int":
        return [int(name.removeprefix("dialogue_")) for name in store.dialogue_ids]
    return list(store.dialogue_ids)


def _split_order(store: FeatureStore, keys: Sequence[Hashable], split: np.ndarray) -> dict[str, list]:
    key_of = dict(zip(store.dialogue_ids, keys, strict=True))
    of_split = dict(zip(store.dialogue_ids, split[store.offsets[:-1]], strict=True))
    order = {s: [key_of[name] for name in store.dialogue_ids if of_split[name] == s] for s in SPLITS}
    try:
        recorded = parse_json(str(store.attrs["split_order"]))
        for s, names in recorded.items():
            found = [key_of[name] for name in names]
            if sorted(map(str, found)) == sorted(map(str, order[s])):
                order[s] = found
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return order


def _merged(train: list, val: list, keys: Sequence[Hashable] | None) -> list:
    """Training and validation dialogues in one list, in the store's order, or one after the other."""
    if keys is None:
        return train + val
    both = {*train, *val}
    return [key for key in keys if key in both]


def _two_speakers(store: FeatureStore, dialogue: str, speaker: np.ndarray) -> list[str]:
    names = [store.speaker_names[s] for s in speaker]
    if set(names) <= {"M", "F"}:
        return names
    order = list(dict.fromkeys(names))
    if len(order) > 2:
        raise UserError(
            f"{store.path}: dialogue {dialogue} has {len(order)} speakers, but IEMOCAP's layout allows two; "
            "use --layout meld"
        )
    return ["MF"[order.index(name)] for name in names]


def _one_hot(store: FeatureStore, dialogue: str, speaker: np.ndarray) -> list[list[int]]:
    """One-hot vectors by order of first utterance, or by the index of each speaker in a converted file."""
    places = manifests.load("pickles.yaml")["speaker_places"]
    names = [store.speaker_names[s] for s in speaker]
    given = [re.fullmatch(re.escape(dialogue) + r"/(\d{1,3})", name) for name in names]
    order = list(dict.fromkeys(names))
    at = [int(m[1]) for m in given] if all(given) else [order.index(name) for name in names]
    if max(at) >= places:
        raise UserError(
            f"{store.path}: dialogue {dialogue} has {counted(len(order), 'speaker')}, but the layout allows {places}"
        )
    return [[int(i == place) for i in range(places)] for place in at]


class _Pickler(pickle._Pickler):
    """Uses numpy 1's names of numpy's functions, which numpy 2 reads too: published code mostly runs on numpy 1."""

    def save_global(self, obj: object, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if module.startswith("numpy._core."):
            self.save(module.replace("numpy._core.", "numpy.core."))
            self.save(name or obj.__qualname__)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def write_pickle(content: object, path: Path) -> None:
    """Pickles numbers, strings, arrays and plain containers so that numpy 1 and 2 can read them.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(PICKLE_MARK)
        _Pickler(file, protocol=PROTOCOL).dump(content)
