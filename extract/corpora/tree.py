"""Finds the files of a corpus, which people unpack at different depths."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ...toolkit.base.errors import UserError

SEARCH_DEPTH = 3


def walk(root: Path, depth: int = SEARCH_DEPTH, skip: Collection[str] = ()) -> dict[str, Path]:
    """The files and folders below a folder by name; of equal names the one nearest to it.

    Hidden ones, such as macOS's `._` files, are left out, and links to folders are not followed.

    Args:
        root: the folder.
        depth: how many levels of folders below it are listed.
        skip: names of folders that are found but not listed.

    Raises:
        UserError: a folder cannot be listed.
    """
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(depth + 1):
        below: list[Path] = []
        for folder in level:
            for entry in listed(folder):
                if not entry.name.startswith("."):
                    found.setdefault(entry.name, folder / entry.name)
                    if entry.name not in skip and entry.is_dir(follow_symlinks=False):
                        below.append(folder / entry.name)
        level = below
    return found


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from None


def need_folder(root: Path, what: str) -> None:
    """Checks that the root of a corpus is a folder.

    Args:
        root: the folder.
        what: what to give instead, for the error.

    Raises:
        UserError: there is no such folder.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give {what}")


def some(names: Sequence[str]) -> str:
    """The first five of some names, for a note."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
