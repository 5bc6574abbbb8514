"""The layout of the feature store's HDF5 file: its columns, and writing and reading a dataset with its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ..base.errors import UserError, first_line

FORMAT = "erc-feature-store"
SCHEMA = 1
# Column name -> dtype kind ("O" means variable-length UTF-8 strings).
COLUMNS = {
    "id": "O",
    "dialogue": "i",
    "position": "i",
    "speaker": "i",
    "label": "i",
    "split": "O",
    "text": "O",
    "start_s": "f",
    "end_s": "f",
    "media": "O",
}
MADE_FROM = "made_from"  # the group of a feature that says what its rows were made from; not part of the content
ATTRIBUTES_HASH = "attributes_sha256"
MOST_LABELS = 256  # a reader must limit the size of an attribute of strings
CHUNK_BYTES = 1 << 18  # small enough that reading a few rows reads little else
_REFERENCE = 8  # minimum size in bytes of a string, even an empty one, when not compressed
_TEXTS = 128  # strings read at a time: a hostile file can make a reader allocate this many times its own size


class Dataset(NamedTuple):
    """A checked dataset with its properties: querying HDF5 for them again would dominate the time to open a store.

    Attributes:
        id: h5py's identifier.
        kind: kind of the dtype; "O" for strings.
        shape, dtype: as of a numpy array.
        layout: `h5d.CONTIGUOUS`, `CHUNKED` or `COMPACT`.
        stored: its size in the file in bytes.
    """

    id: h5py.h5d.DatasetID
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    layout: int
    stored: int

    @property
    def opened(self) -> h5py.Dataset:
        """The h5py dataset."""
        return h5py.Dataset(self.id)

    @property
    def name(self) -> str:
        """Its path in the file."""
        return self.opened.name or "a dataset without a name"


def write(group: h5py.Group, name: str, data: np.ndarray) -> None:
    """Writes a dataset with a checksum: numbers in chunks with HDF5's own, str objects with a `sha256` attribute."""
    if data.dtype == object:  # HDF5 has no checksum filter for variable-length strings
        dataset = group.create_dataset(name, data=data, dtype=h5py.string_dtype())
        dataset.attrs["sha256"] = text_hash(text.encode() for text in data)
        return
    row = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    rows = min(max(1, CHUNK_BYTES // max(row, 1)), max(len(data), 1))
    group.create_dataset(name, data=data, chunks=(rows, *data.shape[1:]), fletcher32=True)


def text_hash(encoded: Iterable[bytes]) -> str:
    """SHA-256 over each string's bytes followed by a zero byte, in hexadecimal."""
    return hashlib.sha256(b"".join(text + b"\0" for text in encoded)).hexdigest()


def attributes_hash(attributes: Mapping[str, object]) -> str:
    """SHA-256, in hexadecimal, over attributes (strings, numbers, lists) as JSON in the order of their names."""
    text = json.dumps(attributes, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def texts(texts: Sequence[str]) -> np.ndarray:
    """The strings as an array of str objects (n,)."""
    return np.array(list(texts), dtype=object)


def read_texts(dataset: h5py.Dataset) -> list[bytes]:
    """The UTF-8 bytes of a dataset of strings (n,).

    Raises:
        OSError: unreadable, or more bytes than the file has: any number of strings can refer to the same bytes, so that
            a file of megabytes can claim terabytes. In the toolkit's own stores every string has its own bytes.
    """
    found: list[bytes] = []
    claimed, most = 0, dataset.file.id.get_filesize()
    for start in range(0, dataset.shape[0], _TEXTS):
        piece = dataset[start : start + _TEXTS].tolist()
        claimed += sum(map(len, piece)) + _REFERENCE * len(piece)
        if claimed > most:
            raise OSError(
                f"its first {start + len(piece):,} strings claim {claimed:,} bytes, but the file has {most:,}; refused"
            )
        found += piece
    return found


def plain(value: object) -> object:
    """The Python value of an attribute as h5py returns it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def damaged(path: Path, name: str, error: BaseException) -> UserError:
    """The error for a dataset whose bytes are not those that were written."""
    return UserError(f"{path}: {name} is damaged on disk ({first_line(error)}); extract it again")
