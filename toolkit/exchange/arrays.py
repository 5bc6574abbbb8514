"""Plain numpy files: `.npy`, and `.npz` with one array per utterance, one array for all, or a whole store."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from ..base.errors import UserError
from ..base.files import atomic_path
from ..base.reading.file_kinds import file_kind
from ..base.reading.foreign_text import decode, match_names
from ..base.words import counted, shorten
from ..manifest import MODALITIES, Utterance, manifest_from_rows
from ..store import FeatureStore
from .marks import ARCHIVE_COMMENT
from .pack import NO_FEATURE, Pack, add_rows
from .pickles.safe import Refused
from .pickles.torch_files import TensorReader

_TEXTS = ("id", "dialogue", "speaker", "text", "split")
_SPANS = ("start_s", "end_s")


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy or .npz file. Arrays of Python objects are pickles; they are read as `load_pickle` does.

    Raises:
        UserError: it is neither, is damaged, or an array of objects contains more than plain data.
    """
    try:
        if file_kind(path).name == "npy":
            return _array(lambda: open(path, "rb"))
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _array(functools.partial(archive.open, name)) for name in names}
    except MemoryError:
        raise
    except Refused as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: {why}; refused: arrays of objects contain pickles, which can run programs") from None
    except Exception as error:  # zipfile and numpy raise many exceptions on damaged files
        why = shorten(str(error), 100)
        kind = file_kind(path)
        what = "" if kind.name in ("npy", "npz", "unknown") else f"{kind.description}, "
        raise UserError(f"{path}: {what}not a readable numpy file ({type(error).__name__}: {why})") from None


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        UserError: as for `load_arrays`, or it contains several arrays.
    """
    loaded = load_arrays(path)
    if not isinstance(loaded, np.ndarray):
        raise UserError(f"{path}: a NumPy archive (.npz), not one array")
    return loaded


def _array(opened: Callable[[], IO[bytes]]) -> np.ndarray:
    """The array of a .npy file, or of a member of an archive."""
    with opened() as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
    with opened() as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, _ = np.lib.format.read_array_header_2_0(file)
        loaded = TensorReader(cast(BinaryIO, file)).load()
    if not isinstance(loaded, np.ndarray) or loaded.shape != shape or not loaded.dtype.hasobject:
        raise ValueError("its objects do not match its header")
    return loaded


def write_store_arrays(store: FeatureStore, features: Sequence[str], path: Path) -> None:
    """Writes `store_arrays` as a .npz file.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **store_arrays(store, features))  # pyright: ignore[reportArgumentType]
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = ARCHIVE_COMMENT


def is_store(arrays: object) -> bool:
    """Whether a .npz file was written by `export --format npz`."""
    return isinstance(arrays, Mapping) and {*_TEXTS, "label", "labels", "corpus"} <= set(arrays)


def read_store_arrays(arrays: Mapping[str, np.ndarray], source: str) -> Pack:
    """Makes a pack from the arrays of `store_arrays`.

    Raises:
        UserError: the arrays differ in length, or a store cannot contain their values.
    """
    # Fixed-length bytes, which old versions of numpy make of texts.
    arrays = {name: _texts(array) if array.dtype.kind == "S" else array for name, array in arrays.items()}
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


def _texts(array: np.ndarray) -> np.ndarray:
    made = np.empty(array.shape, object)
    made.reshape(-1)[:] = [decode(bytes(item)) for item in array.reshape(-1).tolist()]
    return made


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
    add_rows(pack, name, list(values), missing, keep_zeros, padded=True)


def add_by_id(pack: Pack, name: str, arrays: Mapping[str, np.ndarray], keep_zeros: bool) -> None:
    """Adds a .npz file whose keys are utterance ids, each (D,) or (T, D).

    Raises:
        UserError: no key is the id of an utterance.
    """
    of_id = match_names([u.id for u in pack.utterances], arrays)
    rows = [arrays[of_id[u.id]] if u.id in of_id else None for u in pack.utterances]
    if not of_id:
        some = ", ".join(repr(key[:60]) for key in list(arrays)[:3])
        raise UserError(
            f"{name}: has {counted(len(arrays), 'array')} ({some}, …), none named after an utterance of the manifest"
        )
    missing = {i: NO_FEATURE for i, row in enumerate(rows) if row is None}
    if extra := len(arrays) - len(of_id):
        pack.problems.append(f"{name}: {counted(extra, 'array')} not named after an utterance; skipped")
    add_rows(pack, name, rows, missing, keep_zeros)


def feature_name(path: Path, given: str | None) -> str:
    """The "modality/name" of a file or folder of arrays: what the user wrote before `=`, or from a file name such as
    `audio-x.npy`.

    Raises:
        UserError: neither contains a modality.
    """
    stem = path.resolve().name if path.is_dir() else path.stem
    modality, _, name = (given or stem).partition("/")
    if given is None:
        modality = next((m for m in MODALITIES if stem.lower().startswith(m)), stem)
        name = stem[len(modality) :].strip("-_.") or "converted"
    if modality not in MODALITIES:
        raise UserError(
            f"{path}: its modality is unknown; write text={path.name}, audio={path.name} or visual={path.name}"
        )
    return f"{modality}/{name or stem}"


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
