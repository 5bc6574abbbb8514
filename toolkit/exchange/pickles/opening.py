"""Opening a file that should be a pickle: decompressing it, or saying what it is instead."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ...base.errors import UserError
from ...base.reading.file_kinds import HEAD_BYTES, Kind, file_kind
from ...base.words import shorten

COMPRESSED: dict[str, Callable[[Path], BinaryIO]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "lzma": lzma.open,
}  # pyright: ignore[reportAssignmentType]
# Of what a compressed file may contain: this much, and as many times its size. Padded features compress well.
SPARE, FACTOR = 1 << 30, 20

_AGAIN = "the download or copy failed; fetch the file again"
_ARRAYS = "save its arrays as .npz or .npy and give them with --manifest"
_UNPACK = "unpack it, and convert the file inside"
REMEDIES = {
    "empty": _AGAIN,
    "zeros": _AGAIN,
    "git-lfs": "fetch the file with `git lfs pull`",
    "git-annex": "fetch the file with `git annex get`",
    "html": "the page around a download, such as a warning or a login; fetch the file itself",
    "xml": "what a server sends instead of a file; fetch it again",
    "hdf5": f"a feature store needs no conversion; of any other file, {_ARRAYS}",
    "mat": _ARRAYS,
    "parquet": _ARRAYS,
    "arrow": _ARRAYS,
    "netcdf": _ARRAYS,
    "zstd": "decompress it with `zstd -d` first",
    "lz4": "decompress it with `lz4 -d` first",
    "compress": "decompress it with `uncompress` first",
    "zlib": "load it with joblib in your own Python, and save plain arrays, lists and dictionaries with pickle.dump",
    "zip": _UNPACK,
    "tar": _UNPACK,
    "7z": _UNPACK,
    "rar": _UNPACK,
    "cab": _UNPACK,
    "encrypted": "decrypt it first",
    "appledouble": "the file itself has the same name without `._`",
    "plist": "let iCloud download the file first",
    "shortcut": "give the file that it refers to",
    "torrent": _AGAIN,
    "json": "features as text are not read; save them as .npy or .npz and give them with --manifest",
    "table": "a table is read as --manifest, or as the first file if its name ends in .csv; features are .npy or .npz",
    "npy": "convert it by itself, with --manifest",
    "npz": "convert it by itself, with --manifest",
}
_OTHER = "convert reads pickles, files of torch.save, .npy, .npz and folders of .npy"


def not_a_pickle(path: Path, kind: Kind, within: str = "") -> UserError:
    """The error for a file of another kind: what it is, and what to do."""
    return UserError(f"{path}: {within}{kind.description}, not a pickle; {REMEDIES.get(kind.name, _OTHER)}")


class _Bounded(io.RawIOBase):
    """A decompressed file that ends with an error after `most` bytes."""

    def __init__(self, file: BinaryIO, most: int):
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class TooLarge(Exception):
    """A compressed file contains more than its size justifies."""


DAMAGED = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, TooLarge)


def open_unpacked(path: Path, notes: list[str] | None = None) -> tuple[io.BufferedReader[Any], Kind, str]:
    """Opens a file, through gzip, bzip2, xz or LZMA if it is compressed.

    Returns:
        The file, with `peek`; the kind of its content; and how it was compressed, for messages: "a gzip file of ".

    Raises:
        UserError: it cannot be opened, or is damaged from the start.
    """
    kind = file_kind(path)
    try:
        if (opener := COMPRESSED.get(kind.name)) is None:
            return open(path, "rb"), kind, ""
        most = SPARE + FACTOR * path.stat().st_size
        file = io.BufferedReader(_Bounded(opener(path), most), 1 << 16)
        inner = file_kind(file.peek(HEAD_BYTES)[:HEAD_BYTES])
    except OSError as error:
        why = error.strerror or shorten(str(error), 100)
        raise UserError(f"{path}: cannot be read ({why}); {kind.description}") from None
    except (*DAMAGED, EOFError) as error:
        raise damaged(path, kind, error) from None
    if inner.name in COMPRESSED:
        raise not_a_pickle(path, inner, f"{kind.description} that contains ")
    if notes is not None:
        notes.append(f"{path.name}: {kind.description}, decompressed while it was read")
    return file, inner, f"{kind.description} that contains "


def damaged(path: Path, kind: Kind, error: BaseException) -> UserError:
    """The error for a compressed file that cannot be decompressed."""
    if isinstance(error, TooLarge):
        return UserError(
            f"{path}: {kind.description} that contains far more than its size justifies; decompress it first"
        )
    if isinstance(error, EOFError):
        return UserError(f"{path}: {kind.description} that ends too early; {_AGAIN}")
    return UserError(f"{path}: {kind.description} that is damaged ({shorten(str(error), 80)}); {_AGAIN}")
