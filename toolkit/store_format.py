"""How the feature store's HDF5 file is laid out: reading and writing datasets with checksums, the content hash, and what is
refused in a file from elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from toolkit.errors import UserError
from toolkit.manifest import SPLITS

FORMAT = "erc-feature-store"
SCHEMA = 1
# Column name -> dtype kinds it may have ("O" stands for variable-length UTF-8 text).
COLUMNS = {
    "id": "O", "dialogue": "i", "position": "i", "speaker": "i", "label": "i", "split": "O", "text": "O",
    "start_s": "f", "end_s": "f", "media": "O",
}  # fmt: skip
CHUNK_BYTES = 1 << 18  # small enough that one dialogue reads little more than its own rows
_MOST_INFLATION = 1100  # deflate cannot expand by more than about 1032


def content_hash(file: h5py.File) -> str:
    """SHA-256 over every dataset in the order of its path: path, shape, dtype and bytes; attributes are left out."""
    digest = hashlib.sha256()
    for name, dataset in sorted(_datasets(file)):
        text = h5py.check_string_dtype(dataset.dtype) is not None
        digest.update(f"{name}\0{dataset.shape}\0{'text' if text else dataset.dtype.str}\0".encode())
        if text:
            digest.update(_text_hash(read(dataset)).encode())
            continue
        step = max(1, (1 << 24) // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
        for start in range(0, dataset.shape[0], step):
            digest.update(np.ascontiguousarray(read(dataset, slice(start, start + step))).data)
    return digest.hexdigest()


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def write(group: h5py.Group, name: str, data: np.ndarray) -> None:
    if data.dtype == object:  # HDF5 has no checksum filter for text of variable length
        dataset = group.create_dataset(name, data=data, dtype=h5py.string_dtype())
        dataset.attrs["sha256"] = _text_hash(data)
        return
    row = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    rows = min(max(1, CHUNK_BYTES // max(row, 1)), max(len(data), 1))
    group.create_dataset(name, data=data, chunks=(rows, *data.shape[1:]), fletcher32=True)


def _text_hash(texts: np.ndarray) -> str:
    return hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()


def texts(texts: Sequence[str]) -> np.ndarray:
    return np.array(list(texts), dtype=object)


def read(dataset: h5py.Dataset, rows: slice = slice(None)) -> np.ndarray:
    try:
        if not h5py.check_string_dtype(dataset.dtype):
            return dataset[rows]
        texts = dataset.asstr()[:]
        if plain(dataset.attrs.get("sha256", "")) not in ("", _text_hash(texts)):
            raise OSError("its text does not match its sha256")
        return texts[rows]
    except (OSError, UnicodeDecodeError) as error:
        place = f"{dataset.file.filename}: {dataset.name}"
        raise UserError(f"{place} is damaged on disk ({first_line(error)}); extract it again") from None


def labels_of(file: h5py.File) -> list[str]:
    return [str(plain(label)) for label in np.atleast_1d(file.attrs["labels"])]


def plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_store(path: Path, file: h5py.File) -> None:
    if plain(file.attrs.get("format")) != FORMAT:
        raise UserError(f"{path}: an HDF5 file, but not a feature store of erc-toolkit")
    if plain(file.attrs.get("schema")) != SCHEMA:
        raise UserError(f"{path}: store schema {file.attrs.get('schema')}; this version reads schema {SCHEMA}")
    _check_links(path, file, seen=set(), depth=0)
    n = file["utterances/id"].shape[0]
    for name, kind in COLUMNS.items():
        _check_dataset(path, file[f"utterances/{name}"], kind, n)
    dialogues = file["dialogues/id"].shape[0]
    _check_dataset(path, file["dialogues/id"], "O", dialogues)
    _check_dataset(path, file["dialogues/offsets"], "i", dialogues + 1)
    _check_dataset(path, file["speakers/name"], "O", file["speakers/name"].shape[0])
    for modality in file.get("features", {}):
        for name in file["features"][modality]:
            group = file["features"][modality][name]
            _check_dataset(path, group["values"], "f", n, ndim=2)
            _check_dataset(path, group["present"], "b", n)
            _check_dataset(path, group["reason"], "O", n)
            if "dimension_names" in group:
                _check_dataset(path, group["dimension_names"], "O", group["values"].shape[1])
            for detail in group.get("details", {}):
                _check_dataset(path, group["details"][detail], "fiubO", n)
            if "reduction" in group:
                _check_reduction(path, group["reduction"], group["values"].shape[1])
            if "frames" in group:
                _check_frames(path, group["frames"], n)
    offsets = read(file["dialogues/offsets"])
    if offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) <= 0).any():
        raise UserError(f"{path}: /dialogues/offsets does not divide the {n} utterances")
    if (read(file["utterances/dialogue"]) != np.repeat(np.arange(dialogues), np.diff(offsets))).any():
        raise UserError(f"{path}: /utterances/dialogue disagrees with /dialogues/offsets")
    labels = labels_of(file)
    label = read(file["utterances/label"])
    if label.min() < -1 or label.max() >= len(labels):
        raise UserError(f"{path}: labels out of range of the {len(labels)} label names")
    speaker = read(file["utterances/speaker"])
    if speaker.min() < 0 or speaker.max() >= file["speakers/name"].shape[0]:
        raise UserError(f"{path}: a speaker index has no name in /speakers")
    if unknown := set(read(file["utterances/split"])) - set(SPLITS):
        raise UserError(f"{path}: unknown split {sorted(unknown)[0]!r}")
    if not isinstance(plain(file.attrs.get("content_sha256")), str):
        raise UserError(f"{path}: incomplete store (no content hash); extract it again")


def _check_frames(path: Path, frames: h5py.Group, n: int) -> None:
    count = frames["values"].shape[0]
    _check_dataset(path, frames["values"], "f", count, ndim=2)
    _check_dataset(path, frames["time_s"], "f", count)
    _check_dataset(path, frames["offsets"], "i", n + 1)
    if "dimension_names" in frames:
        _check_dataset(path, frames["dimension_names"], "O", frames["values"].shape[1])
    offsets = read(frames["offsets"])
    if offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
        raise UserError(f"{path}: {frames.name}/offsets does not divide the {count} frames")


def _check_reduction(path: Path, reduction: h5py.Group, dim: int) -> None:
    if not isinstance(reduction, h5py.Group) or not all(isinstance(reduction[name], h5py.Dataset) for name in reduction):
        raise UserError(f"{path}: {reduction.name} is not a group of datasets; refused")
    if set(reduction) == {"columns", "f_values"}:
        _check_dataset(path, reduction["columns"], "i", dim)
        _check_dataset(path, reduction["f_values"], "f", dim)
    elif set(reduction) == {"components", "mean", "scale"}:
        columns = len(reduction["mean"])
        _check_dataset(path, reduction["components"], "f", columns, ndim=2)
        if (width := reduction["components"].shape[1]) != dim:
            raise UserError(f"{path}: {reduction.name}/components makes {width} dimensions, not the feature's {dim}")
        _check_dataset(path, reduction["mean"], "f", columns)
        _check_dataset(path, reduction["scale"], "f", columns)
    else:
        raise UserError(f"{path}: {reduction.name} holds {', '.join(reduction)}, which schema {SCHEMA} does not know")


def _check_links(path: Path, group: h5py.Group, seen: set[object], depth: int) -> None:
    """Refuses every link that is not hard and every object that is not a plain group or dataset."""
    if depth > 8 or group.id in seen:
        raise UserError(f"{path}: {group.name} is nested too deep or in itself; refused")
    seen.add(group.id)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {group.name}/{name} is a soft or external link; refused")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_links(path, item, seen, depth + 1)
        elif not isinstance(item, h5py.Dataset):
            raise UserError(f"{path}: {item.name} is neither group nor dataset; refused")
        elif item.external is not None or item.is_virtual:
            raise UserError(f"{path}: {item.name} keeps its data in other files; refused")


def _check_dataset(path: Path, dataset: h5py.Dataset, kinds: str, length: int, ndim: int = 1) -> None:
    kind = "O" if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.kind
    if kind not in kinds or dataset.ndim != ndim or dataset.shape[0] != length:
        raise UserError(f"{path}: {dataset.name} has shape {dataset.shape} and type {dataset.dtype}, which schema {SCHEMA} does not allow")
    if dataset.nbytes > _MOST_INFLATION * dataset.id.get_storage_size() + 4096:
        raise UserError(f"{path}: {dataset.name} claims {dataset.nbytes:,} bytes but holds {dataset.id.get_storage_size():,}; refused")
