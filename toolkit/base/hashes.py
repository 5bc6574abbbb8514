"""SHA-256 of strings, files and descriptions, in hexadecimal."""

from __future__ import annotations

import hashlib
import json
from os import PathLike


def text_sha256(text: str) -> str:
    """The hash of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | PathLike[str]) -> str:
    """The hash of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(description: object) -> str:
    """The hash of a description of plain JSON values, independent of the order of its keys."""
    return text_sha256(json.dumps(description, sort_keys=True))
