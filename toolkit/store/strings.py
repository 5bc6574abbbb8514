"""Reading a dataset of texts without HDF5, whose code for them trusts the lengths and addresses in the file.

HDF5 stores each text of variable length as an object in a "global heap collection", and in the dataset a reference to
it: the length, the address of the collection and the number of the object. Neither has a checksum, and a wrong one can
make HDF5 hang, crash or use up the memory. Here each is checked before its use, and the texts are read faster too.
"""

from __future__ import annotations

import os
import struct

import h5py
import numpy as np

_REFERENCE = np.dtype([("size", "<u4"), ("address", "<u8"), ("number", "<u4")])
_HEAD, _OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HHIQ")
_LEAST = 8  # bytes counted for a text, even an empty one


def is_plain(file: h5py.File, dataset: h5py.h5d.DatasetID) -> bool:
    """Whether the texts of a dataset can be read by `read_plain`, in a file that can be read by its descriptor."""
    creation = file.id.get_create_plist()
    return (
        dataset.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        and dataset.get_type().is_variable_str()
        and creation.get_sizes() == (8, 8)
        and creation.get_userblock() == 0
        and dataset.get_offset() is not None
    )


def read_plain(file: h5py.File, dataset: h5py.h5d.DatasetID) -> list[bytes]:
    """The bytes of a contiguous dataset of texts (n,), see `is_plain`.

    Raises:
        OSError: a reference or collection is damaged, or the texts claim more bytes than the file has, as any number of
            them can refer to the same object.
    """
    count, most = dataset.shape[0], file.id.get_filesize()
    descriptor = file.id.get_vfd_handle()
    if dataset.get_storage_size() != count * _REFERENCE.itemsize:
        raise OSError("its references to texts have another size")
    references = np.frombuffer(_read(descriptor, dataset.get_offset(), count * _REFERENCE.itemsize), _REFERENCE)
    sizes = references["size"].astype(np.int64)
    if (claimed := int(sizes.sum()) + _LEAST * count) > most:
        raise OSError(f"its {count:,} strings claim {claimed:,} bytes, but the file has {most:,}; refused")
    collections: dict[int, dict[int, bytes]] = {}
    room = most
    for address in np.unique(references["address"][sizes > 0]).tolist():
        collections[address] = _collection(descriptor, address, room)
        room -= sum(map(len, collections[address].values()))
    found = []
    for size, address, number in zip(*(references[name].tolist() for name in _REFERENCE.names or ()), strict=True):
        text = collections[address].get(number) if size else b""
        if text is None or len(text) != size:
            raise OSError(f"string {len(found):,} refers to bytes that are not a string")
        found.append(text.split(b"\0", 1)[0] if b"\0" in text else text)  # as HDF5 does
    return found


def _collection(descriptor: int, address: int, most: int) -> dict[int, bytes]:
    """The objects of a global heap collection by their numbers."""
    signature, version, size = _HEAD.unpack(_read(descriptor, address, _HEAD.size))
    if signature != b"GCOL" or version != 1 or not _HEAD.size <= size <= most + (1 << 12):
        raise OSError("a collection of strings is damaged")
    data = _read(descriptor, address, size)
    objects: dict[int, bytes] = {}
    at, unpack, head = _HEAD.size, _OBJECT.unpack_from, _OBJECT.size
    while at + head <= size:
        number, _, _, length = unpack(data, at)
        if number == 0:  # the free space
            break
        at += head
        if at + length > size:
            raise OSError("a collection of strings is damaged")
        objects[number] = data[at : at + length]
        at += length + -length % 8
    return objects


def _read(descriptor: int, address: int, size: int) -> bytes:
    if address >= 1 << 63:
        raise OSError("a collection of strings lies beyond the end of the file")
    data = os.pread(descriptor, size, address)
    while len(data) < size:
        if not (more := os.pread(descriptor, size - len(data), address + len(data))):
            raise OSError("a string lies beyond the end of the file")
        data += more
    return data
