"""SHA-256 of texts, files and descriptions, in hexadecimal."""

from __future__ import annotations

import hashlib
import json
from os import PathLike


def text_sha256(text: str) -> str:
    """Over the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | PathLike[str]) -> str:
    """Over a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(description: object) -> str:
    """Over a description of plain JSON values, whatever the order of its keys."""
    return text_sha256(json.dumps(description, sort_keys=True))
