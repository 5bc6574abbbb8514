"""What a user gives for a corpus: its raw folder, a feature store, or a feature pickle of another project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from ..base.errors import UserError
from ..store import FeatureStore

RAW, STORE, PICKLE = "raw", "store", "pickle"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a corpus comes from.

    Attributes:
        corpus: name of the corpus's reader, e.g. "iemocap".
        path: what the user gave.
        kind: RAW, STORE or PICKLE.
    """

    corpus: str
    path: Path
    kind: str


def find_source(corpus: str, path: Path) -> Source:
    """Recognises what a path holds.

    Raises:
        UserError: it does not exist, or is a store of another corpus.
    """
    if path.is_dir():
        return Source(corpus, path, RAW)
    if not path.is_file():
        raise UserError(
            f"--{corpus} {path}: does not exist; give a raw corpus's folder, a feature store or a feature pickle"
        )
    if not h5py.is_hdf5(path):
        return Source(corpus, path, PICKLE)
    with FeatureStore.open(path) as store:
        if store.corpus.lower() != corpus:
            raise UserError(f"--{corpus} {path}: is a store of the corpus {store.corpus!r}, not of {corpus}")
    return Source(corpus, path, STORE)
