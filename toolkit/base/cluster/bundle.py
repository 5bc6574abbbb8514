"""Files and plain values on their way between nodes: a zip archive that is read in memory and never executed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import FaultError
from ..files import is_temporary


def pack(about: Any, files: Mapping[str, bytes]) -> bytes:
    """Plain JSON values, and files by their names relative to a folder, with slashes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("about", json.dumps({"about": about, "names": list(files)}))
        for number, content in enumerate(files.values()):
            archive.writestr(str(number), content)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """What `pack` was given.

    Raises:
        FaultError: the bytes are something else, or a name leaves its folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            head = json.loads(archive.read("about"))
            files = {str(name): archive.read(str(number)) for number, name in enumerate(head["names"])}
            about = head["about"]
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise FaultError(f"a node returned something damaged: {error}") from None
    for name in files:
        check_name(name)
    return about, files


def check_name(name: str) -> None:
    """Raises a FaultError if a name that comes from a node would leave the folder into which its file is written."""
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    bad = not name or "\0" in name or "\\" in name or path.is_absolute() or windows.drive or ".." in path.parts
    if bad or str(path) != name or name == ".":
        raise FaultError(f"a node returned a file named {name!r}, which is no name in a run's folder")


def files_in(folder: Path) -> dict[str, bytes]:
    """The regular files in and below a folder, without links and temporary files."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        linked = any((folder / part).is_symlink() for part in [below, *below.parents][:-1])
        if path.is_file() and not linked and not is_temporary(path.name):
            found[below.as_posix()] = path.read_bytes()
    return found
