"""The largest batches that fitted into a device's memory, kept in this process and in the user's cache folder.

They change no number, so a file that is damaged or cannot be written is ignored.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from ...toolkit.base.files import write_atomically

# With more free memory than this many times what there was, a batch that did not fit may fit now.
_MUCH_MORE = 1.25
_here: dict[str, dict[str, int]] = {}
_lock = threading.Lock()  # the text encoder runs in its own thread


def cache_file() -> Path:
    """The file of remembered batches.

    Raises:
        RuntimeError: the user has no home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = given if given.is_absolute() else Path.home() / ".cache"  # as the XDG specification has it
    return folder / "erc-toolkit" / "batches.json"


def recall(key: str, free: int) -> int | None:
    """The size of the largest batch that fitted, or None if it is not known or may be larger now.

    Args:
        key: device, model and precision.
        free: bytes of the device's memory that are free.
    """
    with _lock:
        found = _here.get(key) or _read().get(key)
    if not isinstance(found, dict):
        return None
    most, before = found.get("most"), found.get("free")
    if type(most) is not int or type(before) is not int or most < 1 or free > _MUCH_MORE * before:
        return None
    return most


def remember(key: str, most: int, free: int) -> None:
    """Remembers the size of the largest batch that fitted, and the bytes of memory that were free then."""
    with _lock:
        _here[key] = {"most": most, "free": free}
        try:
            path = cache_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(_read() | {key: _here[key]}, indent=1).encode())
        except (OSError, RuntimeError):
            pass


def _read() -> dict[str, object]:
    try:
        found = json.loads(cache_file().read_bytes())
    except (OSError, RuntimeError, ValueError):  # RuntimeError includes JSON that is nested too deeply
        return {}
    return found if isinstance(found, dict) else {}
