"""Plain numpy files: `.npy`, and `.npz` with an array for each utterance, one for all, or a whole store (`export --format npz`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..manifest import MODALITIES, Utterance, manifest_from_rows
from ..store import FeatureStore
from .pack import NO_FEATURE, Matrix, Pack, keep_frames, matrix_of, pooled

_TEXTS = ("id", "dialogue", "speaker", "text", "split")
_SPANS = ("start_s", "end_s")


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """What a .npy or .npz file holds.

    Raises:
        UserError: it is neither, damaged, or holds objects, which numpy keeps as pickles.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except MemoryError:
        raise
    except ValueError as error:
        pickled = "; arrays of objects are pickles inside and refused" if "allow_pickle" in str(error) else ""
        raise UserError(f"{path}: not a readable numpy file ({' '.join(str(error).split())[:100]}){pickled}") from None
    except Exception as error:  # zipfile and numpy fail in many ways on damaged files
        raise UserError(
            f"{path}: not a readable numpy file ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        ) from None


def is_store(arrays: object) -> bool:
    """Whether a .npz file is what `export --format npz` writes."""
    return isinstance(arrays, Mapping) and {*_TEXTS, "label", "labels", "corpus"} <= set(arrays)


def read_store_arrays(arrays: Mapping[str, np.ndarray], source: str) -> Pack:
    """Makes a pack of what `store_arrays` wrote.

    Raises:
        UserError: arrays disagree in length, or their content is none that a store may hold.
    """
    n = len(arrays["id"]) if arrays["id"].ndim else 0
    for name in (*_TEXTS, *_SPANS, "label"):
        if name in arrays and arrays[name].shape != (n,):
            raise UserError(f"{source}: {name} has shape {arrays[name].shape}, but there are {n} utterances")
    labels = [str(x) for x in np.atleast_1d(arrays["labels"])]
    index = arrays["label"]
    if index.dtype.kind not in "iu" or (n and not (-1 <= index.min() and index.max() < len(labels))):
        raise UserError(f"{source}: label holds numbers that are no index into its {len(labels)} labels")
    rows = []
    for i in range(n):
        row = {name: str(arrays[name][i]) for name in _TEXTS} | {"label": labels[index[i]] if index[i] >= 0 else None}
        for name, field in zip(_SPANS, ("start", "end")):
            if name in arrays and np.isfinite(arrays[name][i]):
                row[field] = float(arrays[name][i])
        rows.append((i, row))
    manifest = manifest_from_rows(source, rows, str(arrays["corpus"]), labels, Path("."), unit="utterance")
    pack = Pack("npz", manifest.corpus, labels, manifest.utterances)
    for key, values in arrays.items():
        group, _, name = key.partition("/")
        if group != "features":
            continue
        missing = {i: str(r) for i, r in enumerate(arrays.get(f"reasons/{name}", ())) if str(r)}
        add_array(pack, name, values, missing, keep_zeros=True)
    return pack


def add_array(pack: Pack, name: str, values: np.ndarray, missing: Mapping[int, str], keep_zeros: bool) -> None:
    """Adds an array (N, D), or (N, T, D) of frames, in the order of the pack's utterances.

    Raises:
        UserError: it has not a row for each utterance.
    """
    if values.ndim not in (2, 3) or len(values) != len(pack.utterances):
        raise UserError(
            f"{name}: an array of shape {values.shape} for {len(pack.utterances)} utterances; rows must be utterances, in the "
            "manifest's order"
        )
    _add(pack, name, list(values), missing, keep_zeros)


def add_by_id(pack: Pack, name: str, arrays: Mapping[str, np.ndarray], keep_zeros: bool) -> None:
    """Adds a .npz file whose keys are utterance ids, each (D,) or (T, D).

    Raises:
        UserError: no key is an utterance's id.
    """
    rows = [arrays.get(u.id) for u in pack.utterances]
    if all(row is None for row in rows):
        some = ", ".join(list(arrays)[:3])
        raise UserError(
            f"{name}: none of its {len(arrays)} arrays ({some}, …) is named like an utterance of the manifest"
        )
    missing = {i: NO_FEATURE for i, row in enumerate(rows) if row is None}
    if extra := len(arrays.keys() - {u.id for u in pack.utterances}):
        pack.problems.append(f"{name}: {extra} arrays are named like no utterance; left out")
    _add(pack, name, rows, missing, keep_zeros)


def _add(pack: Pack, name: str, rows: Sequence[object], missing: Mapping[int, str], keep_zeros: bool) -> None:
    both = [pooled(row) for row in rows]
    missing = dict(missing) | {
        i: "no frames in the file" for i, (v, _) in enumerate(both) if v is None and i not in missing
    }
    ids, dialogues = [u.id for u in pack.utterances], [u.dialogue for u in pack.utterances]
    matrix: Matrix = matrix_of([v for v, _ in both], ids, dialogues, missing, keep_zeros, name, pack.problems)
    if matrix.values.shape[1] == 0:
        pack.problems.append(f"{name}: not one usable vector; the feature is left out")
        return
    matrix.source["part"] = name
    keep_frames(matrix, [f for _, f in both])
    pack.features[name] = matrix


def feature_name(path: Path, given: str | None) -> str:
    """ "modality/name" of an array file: what the user wrote before `=`, else the file's name where it begins with a modality.

    Raises:
        UserError: neither names a modality.
    """
    modality, _, name = (given or path.stem).partition("/")
    if given is None:
        modality = next((m for m in MODALITIES if path.stem.lower().startswith(m)), path.stem)
        name = path.stem[len(modality) :].strip("-_.") or "converted"
    if modality not in MODALITIES:
        raise UserError(
            f"{path}: which modality is it? Write text={path.name}, audio={path.name} or visual={path.name}"
        )
    return f"{modality}/{name or path.stem}"


def store_arrays(store: FeatureStore, features: Sequence[str]) -> dict[str, np.ndarray]:
    """A store as plain arrays, for `numpy.savez`: no objects, so that any numpy loads it without pickles.

    Returns:
        corpus, labels; id, dialogue, speaker, text, split (N,) texts; label (N,) int32, -1 for none; start_s, end_s
        float64 (N,), NaN for none; and for each feature "features/MODALITY/NAME" float32 (N, D), "present/…" bool (N,)
        and "reasons/…" (N,) texts.
    """
    arrays = {
        "corpus": np.array(store.corpus),
        "labels": np.array(store.labels, str),
        "label": store.column("label"),
        "dialogue": np.array(store.dialogue_ids, str)[store.column("dialogue")],
        "speaker": np.array(store.speaker_names, str)[store.column("speaker")],
        **{name: np.array(store.column(name).tolist(), str) for name in ("id", "text", "split")},
        **{name: store.column(name) for name in _SPANS},
    }
    for name in features:
        feature = store.feature(name)
        arrays |= {
            f"features/{name}": feature.values(),
            f"present/{name}": feature.present(),
            f"reasons/{name}": np.array(feature.reasons().tolist(), str),
        }
    return arrays


def pack_of(utterances: Sequence[Utterance], corpus: str, labels: Sequence[str]) -> Pack:
    """An empty pack for a manifest's utterances."""
    return Pack("arrays", corpus, list(labels), list(utterances))
