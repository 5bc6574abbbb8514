"""Changes to a store's matrices that the writer does not make."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from erc_toolkit.toolkit.store.format import write
from erc_toolkit.toolkit.store.values import MatrixWriter


def replace_values(group: h5py.Group, values: np.ndarray) -> None:
    """Replaces the values of a stored feature, float32 (N, dim), and its checksums."""
    del group["values"], group["checksums"]
    writer = MatrixWriter(group, values.shape)
    writer.append(values)
    writer.end()


def in_chunks(path: Path) -> Path:
    """Converts every matrix of a store to the old layout, chunks with only HDF5's checksum. Returns the path."""
    with h5py.File(path, "r+") as file:
        for modality in file["features"].values():
            for group in modality.values():
                values = group["values"][:]
                del group["values"], group["checksums"]
                write(group, "values", values)
    return path


def place_of(path: Path, name: str) -> int:
    """The position in the file of a matrix's first byte, in either layout."""
    with h5py.File(path) as file:
        dataset = file[name].id
        return dataset.get_offset() or dataset.get_chunk_info(0).byte_offset


def flip(path: Path, place: int, bits: int = 4) -> None:
    """Damages one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bits]))


def as_earlier(path: Path) -> Path:
    """Rewrites a store as earlier versions did: HDF5's first format, and no checksums of attributes."""
    new = path.with_suffix(".earlier")
    with h5py.File(path) as source, h5py.File(new, "w", libver=("earliest", "v108")) as target:
        _copy(source, target)
    new.replace(path)
    return path


def unseal(path: Path) -> None:
    """Removes the checksums of the attributes, so that they can be changed."""
    with h5py.File(path, "r+") as file:
        for group in (file, *(feature for modality in file["features"].values() for feature in modality.values())):
            if "attributes_sha256" in group.attrs:
                del group.attrs["attributes_sha256"]


def _copy(source: h5py.Group, target: h5py.Group) -> None:
    for name, value in source.attrs.items():
        if name != "attributes_sha256":
            target.attrs.create(name, value, dtype=source.attrs.get_id(name).dtype)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, target.create_group(name))
            continue
        options = {"chunks": item.chunks, "fletcher32": True} if item.fletcher32 else {}
        made = target.create_dataset(name, data=item[()], dtype=item.dtype, maxshape=item.maxshape, **options)
        for key, value in item.attrs.items():
            made.attrs[key] = value
