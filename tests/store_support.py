"""What tests do to a store's matrices that its writer does not."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from erc_toolkit.toolkit.store.format import write
from erc_toolkit.toolkit.store.values import MatrixWriter


def replace_values(group: h5py.Group, values: np.ndarray) -> None:
    """Writes other values, float32 (N, dim), with checksums that fit them, into a feature of a store."""
    del group["values"], group["checksums"]
    writer = MatrixWriter(group, values.shape)
    writer.append(values)
    writer.end()


def in_chunks(path: Path) -> Path:
    """Gives every matrix of a store the layout of before: chunks with HDF5's checksum, and no other. Returns the path."""
    with h5py.File(path, "r+") as file:
        for modality in file["features"].values():
            for group in modality.values():
                values = group["values"][:]
                del group["values"], group["checksums"]
                write(group, "values", values)
    return path


def place_of(path: Path, name: str) -> int:
    """Where in the file the first byte of a matrix lies, in either layout."""
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
