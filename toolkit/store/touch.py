"""Everything in an HDF5 file that may hang or end a process when the file is damaged, but not the bulk of its numbers.

It runs in a process of its own (`erc_toolkit.toolkit.store.structure`), as a fork of the reader or as a script, and so
imports nothing of the package.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

import h5py
import h5py.h5i
import h5py.h5l
import h5py.h5o
import numpy as np

_MOST_VALUES = 256  # of an attribute; readers refuse others
_MOST_BYTES = 1 << 20  # of an attribute; of the strings that are read at a time
_MOST_SLACK = 1 << 26  # of a dataset that is compressed; readers refuse more, see `hdf5._SLACK`
_WHOLE = 1 << 24  # bytes of a chunked dataset up to which it is read whole
_TEXTS = 128


def touch(path: str, progress: Callable[[], object]) -> None:
    """Reads every object, attribute and chunk index of a file, and the texts that a reader reads through HDF5.

    What HDF5 reports as damaged is left to the reader, which comes across it again and knows what it means.

    Args:
        path: the file.
        progress: called after each step, none of which takes long in an intact file.
    """
    try:
        file = h5py.File(path, "r")
    except Exception:
        return
    progress()
    sec2 = hasattr(os, "preadv") and file.id.get_access_plist().get_driver() == h5py.h5fd.SEC2
    waiting, seen = [file.id], set()
    while waiting:
        item = waiting.pop()
        try:
            address = h5py.h5o.get_info(item).addr
            if address in seen:
                continue
            seen.add(address)
        except Exception:
            continue
        for work in (_attributes, _dataset if isinstance(item, h5py.h5d.DatasetID) else _group):
            try:
                waiting += work(item, sec2, progress) or ()
            except Exception:
                pass
            progress()


def _group(group: h5py.h5g.GroupID, _: bool, progress: Callable[[], object]) -> list:
    found = []
    for name in list(group):
        try:
            if group.links.get_info(name).type == h5py.h5l.TYPE_HARD:
                found.append(h5py.h5o.open(group, name))
        except Exception:
            pass
        progress()
    return found


def _attributes(item: h5py.h5o.ObjectID, _: bool, progress: Callable[[], object]) -> None:
    names: list[bytes] = []
    if h5py.h5a.get_num_attrs(item) <= _MOST_VALUES:
        h5py.h5a.iterate(item, names.append)
    for name in names:
        try:
            h5py.h5a.exists(item, name)
            attribute = h5py.h5a.open(item, name)
            shape, dtype = attribute.shape, attribute.dtype
            if math.prod(shape) <= _MOST_VALUES and math.prod(shape) * dtype.itemsize <= _MOST_BYTES:
                attribute.read(np.empty(shape, dtype))
        except Exception:
            pass
        progress()


def _dataset(item: h5py.h5d.DatasetID, sec2: bool, progress: Callable[[], object]) -> None:
    creation = item.get_create_plist()
    layout, external = creation.get_layout(), creation.get_external_count()
    shape, dtype, stored = item.shape, item.dtype, item.get_storage_size()
    progress()
    if layout == h5py.h5d.VIRTUAL or external or not shape or not shape[0]:
        return
    item.get_offset()
    most = h5py.h5i.get_file_id(item).get_filesize()
    opened = h5py.Dataset(item)
    if dtype.hasobject:
        # A reader takes the bytes of contiguous texts from the file itself.
        if h5py.check_string_dtype(dtype) and len(shape) == 1 and not (sec2 and layout == h5py.h5d.CONTIGUOUS):
            claimed = 0
            for start in range(0, shape[0], _TEXTS):
                claimed += sum(map(len, opened[start : start + _TEXTS].tolist())) + 8 * _TEXTS
                progress()
                if claimed > most + 8 * _TEXTS:
                    return
        return
    size = math.prod(shape) * dtype.itemsize
    if layout != h5py.h5d.CHUNKED or size > 32 * min(stored, most) + _MOST_SLACK:
        return
    item.get_num_chunks()  # goes through the whole index
    progress()
    rows = max(1, _WHOLE // max(1, size // shape[0]))
    for start in (0, shape[0] - min(rows, shape[0])):
        opened[start : start + rows] if size > _WHOLE or start == 0 else None
        progress()


if __name__ == "__main__":
    touch(sys.argv[1], lambda: None)
    print("done", flush=True)
    os._exit(0)
