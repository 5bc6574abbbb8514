"""Reading a store's HDF5 file: every object is checked before any of its data is read.

Only plain, internal, fully written datasets behind hard links are allowed: HDF5's external, virtual and unwritten
datasets and its soft and external links would let a small untrusted file return other files' bytes or terabytes of
zeros. Each object is checked before its first use, since checking all of them takes longer than reading a dialogue.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import h5py
import h5py.h5i
import h5py.h5l
import h5py.h5o
import numpy as np

from ..base.errors import UserError, first_line
from .format import (
    ATTRIBUTES_HASH,
    MADE_FROM,
    MOST_LABELS,
    SCHEMA,
    Dataset,
    attributes_hash,
    damaged,
    plain,
    read_texts,
    text_hash,
)
from .strings import is_plain, read_plain
from .values import Matrix, has_descriptor

# How many times its stored size a compressed dataset may have, besides 64 MB, which a feature of zeros may well have.
# Features of float32 have up to 5 times; with the 1,032 times of which deflate is capable, a file of megabytes would
# claim gigabytes.
_MOST_INFLATION, _SLACK = 32, 1 << 26
_MOST_ATTRIBUTES, _MOST_ATTRIBUTE_BYTES = 256, 1 << 20
_ODD = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)  # what h5py raises on broken structures
_Id: TypeAlias = "h5py.h5g.GroupID | h5py.h5d.DatasetID"


class StoreFile:
    """An open HDF5 file whose objects are checked before their first use.

    Every method raises UserError for objects that are refused, missing or damaged; its message starts with the path.

    Attributes:
        path: path of the file.
        file: the open h5py file.
        covered: whether the file's attributes have a hash; those of earlier versions have none.
    """

    def __init__(self, path: Path, file: h5py.File):
        self.path, self.file = path, file
        self._groups: dict[str, h5py.Group] = {"": file}
        # The addresses in the file of a group and its ancestors.
        self._addresses: dict[str, tuple[int, ...]] = {}
        self._datasets: dict[str, Dataset] = {}
        self._root: dict[str, object] | None = None  # the file's attributes, if they have a hash
        try:
            self._addresses[""] = (h5py.h5o.get_info(file.id).addr,)
            self._by_descriptor = has_descriptor(file)
            self.covered = h5py.h5a.exists(file.id, ATTRIBUTES_HASH.encode())
        except _ODD as error:
            raise self.broken(error) from None

    def broken(self, error: BaseException) -> UserError:
        """The error for a structure that h5py cannot read."""
        return UserError(f"{self.path}: damaged feature store ({first_line(error)}); extract it again")

    def has(self, name: str) -> bool:
        """Whether there is a link with that path."""
        if name in self._groups or name in self._datasets:
            return True
        above, _, leaf = name.rpartition("/")
        if leaf in ("", ".") or not self.has(above):
            return False
        try:
            return self.group(above).id.links.exists(leaf.encode())
        except _ODD as error:
            raise self.broken(error) from None

    def names(self, name: str) -> list[str]:
        """The names in a group."""
        try:
            return [_text(link) for link in self.group(name).id]
        except _ODD as error:
            raise self.broken(error) from None

    def group(self, name: str) -> h5py.Group:
        """The group of a path such as "features/audio"."""
        if name not in self._groups:
            item, address = self._item(name)
            if not isinstance(item, h5py.h5g.GroupID):
                raise UserError(f"{self.path}: /{name} is not a group; refused")
            if address in (line := self._addresses[name.rpartition("/")[0]]):
                raise UserError(f"{self.path}: /{name} is nested in itself; refused")
            self._groups[name], self._addresses[name] = h5py.Group(item), (*line, address)
        return self._groups[name]

    def dataset(self, name: str, kinds: str, length: int | None, ndim: int = 1) -> Dataset:
        """The dataset at a path.

        Args:
            name: its path.
            kinds: the dtype kinds it may have, "O" for strings.
            length: its first dimension; None for any.
            ndim: its number of dimensions.
        """
        if name not in self._datasets:
            item, _ = self._item(name)
            if not isinstance(item, h5py.h5d.DatasetID):
                raise UserError(f"{self.path}: /{name} is not a dataset; refused")
            try:
                checked = self._checked(item)
            except _ODD as error:
                raise self.broken(error) from None
            shape = checked.shape
            if checked.kind not in kinds or len(shape) != ndim or (length is not None and shape[0] != length):
                raise self._not_allowed(item)
            self._datasets[name] = checked
        return self._datasets[name]

    def read(self, name: str, kinds: str, length: int | None, rows: slice = slice(None), ndim: int = 1) -> np.ndarray:
        """A dataset's numbers or str objects, or some rows of them; strings are checked against their `sha256`."""
        dataset = self.dataset(name, kinds, length, ndim)
        try:
            if dataset.kind != "O" and rows == slice(None):
                out = np.empty(dataset.shape, dataset.dtype)
                dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
                return out
            if dataset.kind != "O":
                return dataset.opened[rows]
            encoded, _ = self._texts(dataset.id)
            return np.array([text.decode() for text in encoded], dtype=object)[rows]
        except _ODD as error:
            raise damaged(self.path, dataset.name, error) from None

    def matrix(self, name: str, length: int) -> Matrix:
        """The `values` of the feature at a path, with its checksums; `length` rows."""
        values = self.dataset(f"{name}/values", "f", length, ndim=2)
        try:
            if self.has(f"{name}/checksums"):
                checksums = self.dataset(f"{name}/checksums", "u", None)
                return Matrix(
                    self.path, self.file, values, checksums, self.attribute(checksums.id, "rows"), self._by_descriptor
                )
            return Matrix(self.path, self.file, values, None, None, self._by_descriptor)
        except _ODD as error:
            raise self.broken(error) from None

    def attribute(self, item: _Id, name: str) -> object:
        """An attribute of an object of this file: string, number or bool, or a list of them."""
        try:
            return self._attribute(item, name)
        except _ODD as error:
            raise self.broken(error) from None

    def root_attribute(self, name: str) -> object:
        """An attribute of the file, or None if there is none."""
        try:
            if self.covered:
                return self._root_attributes().get(name)
            return self._attribute(self.file.id, name) if h5py.h5a.exists(self.file.id, name.encode()) else None
        except _ODD as error:
            raise self.broken(error) from None

    def attributes(self, item: h5py.Group, but: str = "") -> dict[str, object]:
        """All attributes of an object except the one named `but` and their hash, with which they are compared."""
        if self.covered and item.name == "/":
            found = self._root_attributes()
        else:
            found = self._attributes(item, but)
        return {name: value for name, value in found.items() if name != but}

    def seal(self, item: h5py.Group) -> None:
        """Writes the hash of an object's other attributes, in place of an earlier one."""
        if ATTRIBUTES_HASH in item.attrs:
            del item.attrs[ATTRIBUTES_HASH]
        item.attrs[ATTRIBUTES_HASH] = attributes_hash(self._attributes(item))

    def _root_attributes(self) -> dict[str, object]:
        if self._root is None:
            self._root = self._attributes(self.file)
        return self._root

    def _attributes(self, item: h5py.Group, but: str = "") -> dict[str, object]:
        try:
            if (count := h5py.h5a.get_num_attrs(item.id)) > _MOST_ATTRIBUTES:
                raise UserError(f"{self.path}: {item.name} has {count:,} attributes; refused")
            names: list[bytes] = []
            h5py.h5a.iterate(item.id, names.append)
            sealed = ATTRIBUTES_HASH.encode() in names
            found = {n: self._attribute(item.id, n) for n in map(_text, names) if sealed or n != but}
        except _ODD as error:
            raise self.broken(error) from None
        self._bound(item.id, sum(len(value) for value in found.values() if isinstance(value, str)))
        if sealed and found.pop(ATTRIBUTES_HASH) != attributes_hash(found):
            raise UserError(
                f"{self.path}: damaged feature store (the attributes of {item.name} do not match their checksum); "
                "extract it again"
            )
        return found

    def check_links(self, name: str = "") -> None:
        """Checks every link and object in and below a group, whether the schema defines it or not."""
        try:
            self._check_links(self.group(name), set(), 0)
        except _ODD as error:
            raise self.broken(error) from None

    def content_hash(self) -> str:
        """SHA-256 over every dataset in the order of its path: path, shape, dtype and bytes.

        Attributes, the features' checksums (which follow from the values) and what their rows were made from are
        excluded, so stores with the same content have the same hash whatever their layout and the place of their media.
        Call it after `check_links`.
        """
        digest = hashlib.sha256()
        for name, dataset in sorted(_datasets(self.file)):
            feature = name.split("/")[-1] if name.startswith("features/") and name.count("/") == 3 else ""
            if feature == "checksums" or (name.startswith("features/") and name.split("/")[3:4] == [MADE_FROM]):
                continue
            text = h5py.check_string_dtype(dataset.dtype) is not None
            digest.update(f"{name}\0{dataset.shape}\0{'text' if text else dataset.dtype.str}\0".encode())
            read = (
                self.matrix(name.rpartition("/")[0], dataset.shape[0]).read
                if feature == "values"
                else dataset.__getitem__
            )
            step = max(1, (1 << 24) // max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:])))
            try:
                if text:
                    digest.update(self._texts(dataset.id)[1].encode())
                    continue
                for start in range(0, dataset.shape[0], step):
                    digest.update(np.ascontiguousarray(read(slice(start, start + step)), dataset.dtype).data)
            except _ODD as error:
                raise damaged(self.path, f"/{name}", error) from None
        return digest.hexdigest()

    def _item(self, name: str) -> tuple[_Id, int]:
        """The object at a path, and its address in the file."""
        above, _, leaf = name.rpartition("/")
        group = self.group(above).id
        try:
            if leaf in ("", "."):
                raise KeyError(f"{name!r} is not a path")
            # The low-level interface: h5py's high-level one would take most of the time to open a store.
            link = group.links.get_info(leaf.encode())
            if link.type != h5py.h5l.TYPE_HARD:
                raise UserError(f"{self.path}: /{name} is a soft or external link; refused")
            return h5py.h5o.open(group, leaf.encode()), link.u
        except KeyError:
            raise UserError(f"{self.path}: damaged feature store (it has no /{name}); extract it again") from None
        except _ODD as error:
            raise self.broken(error) from None

    def _checked(self, dataset: h5py.h5d.DatasetID) -> Dataset:
        """Checks what is required of every dataset, whether the schema defines it or not."""
        creation = dataset.get_create_plist()
        layout = creation.get_layout()
        if layout == h5py.h5d.VIRTUAL or creation.get_external_count():
            raise UserError(f"{self.path}: {_name(dataset)} keeps its data in other files; refused")
        shape, dtype, stored = dataset.shape, dataset.dtype, dataset.get_storage_size()
        text = h5py.check_string_dtype(dtype) is not None
        # A file can claim any number of objects; those other than strings are not counted while they are read.
        if not shape or (text and len(shape) != 1) or (dtype.hasobject and not text):
            raise self._not_allowed(dataset)
        size, there = math.prod(shape) * dtype.itemsize, min(stored, self.file.id.get_filesize())
        most = _MOST_INFLATION * there + _SLACK if creation.get_nfilters() else there
        if not text and size > most:
            remedy = "; uncompress it with `h5repack -f NONE`" if stored and creation.get_nfilters() else ""
            raise UserError(f"{self.path}: {_name(dataset)} claims {size:,} bytes but has {there:,}; refused{remedy}")
        return Dataset(dataset, "O" if text else dtype.kind, shape, dtype, layout, stored)

    def _not_allowed(self, dataset: h5py.h5d.DatasetID) -> UserError:
        what = f"shape {dataset.shape} and type {dataset.dtype}"
        return UserError(f"{self.path}: {_name(dataset)} has {what}, which schema {SCHEMA} does not allow")

    def _check_links(self, group: h5py.Group, seen: set[object], depth: int) -> None:
        if depth > 8 or group.id in seen:
            raise UserError(f"{self.path}: {group.name} is nested too deeply or in itself; refused")
        seen.add(group.id)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{self.path}: {group.name}/{name} is a soft or external link; refused")
            item = group[name]
            if isinstance(item, h5py.Group):
                self._check_links(item, seen, depth + 1)
            elif not isinstance(item, h5py.Dataset):
                raise UserError(f"{self.path}: {item.name} is neither a group nor a dataset; refused")
            else:
                self._checked(item.id)

    def _attribute(self, item: _Id, name: str) -> object:
        attribute = h5py.h5a.open(item, name.encode())
        shape, dtype = attribute.shape, attribute.dtype
        count = math.prod(shape)
        if count > MOST_LABELS or count * dtype.itemsize > _MOST_ATTRIBUTE_BYTES:
            raise UserError(f"{self.path}: {_name(item)} has attribute {name!r} with {count:,} values; refused")
        if dtype.hasobject and not h5py.check_string_dtype(dtype):
            raise UserError(f"{self.path}: {_name(item)} has an attribute {name!r} of type {dtype}; refused")
        found = np.empty(shape, dtype)
        attribute.read(found)
        if not shape and not dtype.hasobject:
            return plain(found[()])
        values = [plain(value) for value in found.ravel().tolist()]
        self._bound(item, sum(len(value) for value in values if isinstance(value, str)))
        return values if shape else values[0]

    def _bound(self, item: _Id, size: int) -> None:
        if size > (most := self.file.id.get_filesize()):
            raise UserError(
                f"{self.path}: attributes of {_name(item)} claim {size:,} characters, but the file has {most:,} "
                "bytes; refused"
            )

    def _texts(self, dataset: h5py.h5d.DatasetID) -> tuple[list[bytes], str]:
        """The encoded strings and their hash, which must be equal to their `sha256` if there is one."""
        plainly = self._by_descriptor and is_plain(self.file, dataset)
        encoded = read_plain(self.file, dataset) if plainly else read_texts(h5py.Dataset(dataset))
        found = text_hash(encoded)
        if h5py.h5a.exists(dataset, b"sha256") and self.attribute(dataset, "sha256") not in ("", found):
            raise OSError("its strings do not match their sha256")
        return encoded, found


def _text(name: bytes) -> str:
    """The name of a link or attribute; ValueError if it is not UTF-8."""
    return name.decode("utf-8")


def _name(item: _Id) -> str:
    name = h5py.h5i.get_name(item)
    return "an object" if name is None else name.decode("utf-8", "replace")


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{name}/")
        elif isinstance(item, h5py.Dataset):
            yield f"{prefix}{name}", item
