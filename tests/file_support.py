"""Counts file accesses: a measure of work that other processes on the machine do not affect."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KINDS = {"open": "open", "os.scandir": "list", "os.listdir": "list"}
_watched: dict[str, Counter[str]] = {}


def _count(event: str, arguments: tuple) -> None:
    if _watched and event in _KINDS and isinstance(arguments[0], str | bytes):
        name = os.fsdecode(arguments[0])
        for folder, counted in list(_watched.items()):
            if name == folder or name.startswith(folder + os.sep):
                counted[_KINDS[event]] += 1


@contextmanager
def looks_at_files(folder: Path) -> Iterator[Counter[str]]:
    """Counts, under the absolute `folder`, "open" (files opened) and "list" (folders listed) of this process."""
    global _count_is_added
    if not _count_is_added:  # an audit hook cannot be removed
        sys.addaudithook(_count)
        _count_is_added = True
    counted = _watched[str(folder)] = Counter()
    try:
        yield counted
    finally:
        del _watched[str(folder)]


_count_is_added = False
