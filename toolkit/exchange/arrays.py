"""Plain numpy files: `.npy`, and `.npz` with one array per utterance, one array for all, or a whole store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.words import counted
from ..manifest import MODALITIES, Utterance, manifest_from_rows
from ..store import FeatureStore
from .pack import NO_FEATURE, Matrix, Pack, keep_frames, matrix_of, pooled

_TEXTS = ("id", "dialogue", "speaker", "text", "split")
_SPANS = ("start_s", "end_s")


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy or .npz file.

    Raises:
        UserError: it is neither, is damaged, or contains object arrays, which numpy stores as pickles.
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
        pickled = "; object arrays contain pickles and are refused" if "allow_pickle" in str(error) else ""
        raise UserError(f"{path}: not a readable numpy file ({' '.join(str(error).split())[:100]}){pickled}") from None
    except Exception as error:  # zipfile and numpy raise many exceptions on damaged files
        raise UserError(
            f"{path}: not a readable numpy file ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        ) from None


def is_store(arrays: object) -> bool:
    """Whether a .npz file was written by `export --format npz`."""
    return isinstance(arrays, Mapping) and {*_TEXTS, "label", "labels", "corpus"} <= set(arrays)


def read_store_arrays(arrays: Mapping[str, np.ndarray], source: str) -> Pack:
    """Makes a pack from the arrays of `store_arrays`.

    Raises:
        UserError: the arrays differ in length, or a store cannot contain their values.
    """
    n = len(arrays["id"]) if arrays["id"].ndim else 0
    for name in (*_TEXTS, *_SPANS, "label"):
        if name in arrays and arrays[name].shape != (n,):
            raise UserError(f"{source}: {name} has shape {arrays[name].shape}, but there are {counted(n, 'utterance')}")
    labels = [str(x) for x in np.atleast_1d(arrays["labels"])]
    index = arrays["label"]
    if index.dtype.kind not in "iu" or (n and not (-1 <= index.min() and index.max() < len(labels))):
        raise UserError(f"{source}: label contains numbers that are not indices of its {counted(len(labels), 'label')}")
    rows = []
    for i in range(n):
        row = {name: str(arrays[name][i]) for name in _TEXTS} | {"label": labels[index[i]] if index[i] >= 0 else None}
        for name, field in zip(_SPANS, ("start", "end"), strict=True):
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
        UserError: it does not have one row per utterance.
    """
    if values.ndim not in (2, 3) or len(values) != len(pack.utterances):
        raise UserError(
            f"{name}: an array of shape {values.shape} for {counted(len(pack.utterances), 'utterance')}; "
            "it needs one row per utterance, in the manifest's order"
        )
    _add(pack, name, list(values), missing, keep_zeros)


def add_by_id(pack: Pack, name: str, arrays: Mapping[str, np.ndarray], keep_zeros: bool) -> None:
    """Adds a .npz file whose keys are utterance ids, each (D,) or (T, D).

    Raises:
        UserError: no key is the id of an utterance.
    """
    rows = [arrays.get(u.id) for u in pack.utterances]
    if all(row is None for row in rows):
        some = ", ".join(list(arrays)[:3])
        raise UserError(
            f"{name}: has {counted(len(arrays), 'array')} ({some}, …), none named after an utterance of the manifest"
        )
    missing = {i: NO_FEATURE for i, row in enumerate(rows) if row is None}
    if extra := len(arrays.keys() - {u.id for u in pack.utterances}):
        pack.problems.append(f"{name}: {counted(extra, 'array')} not named after an utterance; skipped")
    _add(pack, name, rows, missing, keep_zeros)


def _add(pack: Pack, name: str, rows: Sequence[object], missing: Mapping[int, str], keep_zeros: bool) -> None:
    pairs = [pooled(row) for row in rows]
    missing = dict(missing) | {
        i: "no frames in the file" for i, (v, _) in enumerate(pairs) if v is None and i not in missing
    }
    ids, dialogues = [u.id for u in pack.utterances], [u.dialogue for u in pack.utterances]
    matrix: Matrix = matrix_of([v for v, _ in pairs], ids, dialogues, missing, keep_zeros, name, pack.problems)
    if matrix.values.shape[1] == 0:
        pack.problems.append(f"{name}: no usable vector; the feature is skipped")
        return
    matrix.source["part"] = name
    keep_frames(matrix, [f for _, f in pairs])
    pack.features[name] = matrix


def feature_name(path: Path, given: str | None) -> str:
    """The "modality/name" of an array file: what the user wrote before `=`, or from a file name such as `audio-x.npy`.

    Raises:
        UserError: neither contains a modality.
    """
    modality, _, name = (given or path.stem).partition("/")
    if given is None:
        modality = next((m for m in MODALITIES if path.stem.lower().startswith(m)), path.stem)
        name = path.stem[len(modality) :].strip("-_.") or "converted"
    if modality not in MODALITIES:
        raise UserError(
            f"{path}: its modality is unknown; write text={path.name}, audio={path.name} or visual={path.name}"
        )
    return f"{modality}/{name or path.stem}"


def store_arrays(store: FeatureStore, features: Sequence[str]) -> dict[str, np.ndarray]:
    """A store as plain arrays, for `numpy.savez`: without object arrays, so that numpy loads it without pickles.

    Returns:
        corpus, labels; id, dialogue, speaker, text, split (N,) strings; label (N,) int32, -1 for none; start_s, end_s
        float64 (N,), NaN for none; and for each feature "features/MODALITY/NAME" float32 (N, D), "present/…" bool (N,)
        and "reasons/…" (N,) strings.
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
