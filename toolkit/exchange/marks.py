"""The marks by which `export` knows files that it wrote; other projects' readers do not see them.

Nothing heavy is imported here, since the command line lists the formats.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from ..base.outputs import is_stamped

PROTOCOL = 4  # of pickles: Python 3.4 and later, as published code may run on old versions
# A string that is pushed and taken off again before the content.
PICKLE_MARK = pickle.PROTO + bytes([PROTOCOL]) + pickle.SHORT_BINUNICODE + b"\x12erc-toolkit export" + pickle.POP
ARCHIVE_COMMENT = b"written by erc-toolkit export"
TABLE_KEY = "erc-toolkit"  # in the metadata of a Parquet file
# The Hub's names of the splits, and the files of a folder for it.
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
HUB_CARD, HUB_FILE = "README.md", "data/{}-00000-of-00001.parquet"
HUB_FILES = (HUB_CARD, *(HUB_FILE.format(split) for split in HUB_SPLITS.values()))


def is_exported_pickle(path: Path) -> bool:
    """Whether `write_lists.write_pickle` wrote a file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(PICKLE_MARK)) == PICKLE_MARK
    except OSError:
        return False


def is_exported_archive(path: Path) -> bool:
    """Whether `arrays.write_store_arrays` wrote a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == ARCHIVE_COMMENT
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def is_exported_table(path: Path) -> bool:
    """Whether `parquet.write_parquet` wrote a file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return False
    try:
        return TABLE_KEY.encode() in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def is_hub_folder(folder: Path) -> bool:
    """Whether `parquet.write_hub_folder` wrote a folder, and its card is unchanged."""
    return is_stamped(folder / HUB_CARD, "export")
