"""Byte strings in the content of a pickle as texts: Python 2's, or those of `pickle.load(…, encoding="bytes")`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...base.reading.foreign_text import decode_bytes

_DEPTH = 5  # a dictionary of splits, of fields, of rows, and their entries
_ATOMS = {int, float, bool, str, type(None)}


def bytes_to_texts(content: object) -> object:
    """The content with byte strings decoded, in keys and entries of the containers that layouts consist of.

    Returns:
        The same objects where there are no byte strings; arrays of them become lists.
    """
    return _texts(content, _DEPTH, {})


def _texts(value: object, depth: int, known: dict[int, tuple[object, object]]) -> object:
    if isinstance(value, bytes):
        return decode_bytes(bytes(value))
    if depth == 0 or not isinstance(value, (Mapping, list, tuple, np.ndarray)):
        return value
    # A container can be in millions of places. It is kept with its result, as another one may get its number otherwise.
    if (found := known.get(id(value))) is not None:
        return found[1]
    known[id(value)] = value, value
    made = value
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "S" and value.ndim:
            made = [_texts(row, depth - 1, known) for row in value.tolist()]
        elif value.dtype.hasobject and value.ndim == 1:
            rows = value.tolist()
            changed = _all(rows, depth, known)
            made = value if all(a is b for a, b in zip(changed, rows, strict=True)) else changed
    elif isinstance(value, Mapping):
        entries = _all(list(value.values()), depth, known)
        keys = [decode_bytes(bytes(k)) if isinstance(k, bytes) else k for k in value]
        if any(a is not b for a, b in zip((*keys, *entries), (*value, *value.values()), strict=True)):
            made = dict(zip(keys, entries, strict=True))
    elif not set(map(type, value)) <= _ATOMS:
        entries = _all(value, depth, known)
        if any(a is not b for a, b in zip(entries, value, strict=True)):
            made = entries
    known[id(value)] = value, made
    return made


def _all(values: Iterable[object], depth: int, known: dict[int, tuple[object, object]]) -> list:
    return [_texts(value, depth - 1, known) for value in values]
