"""Reading a feature store: one HDF5 file with utterances, dialogues and feature matrices (docs/reference/store.md).

Opening a store checks little, since checking everything takes longer than reading a dialogue: each dataset is checked
before its first use (`erc_toolkit.toolkit.store.hdf5`), and `FeatureStore.check` checks all of them at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from ..base.errors import UserError, first_line
from ..base.words import counted
from ..manifest import SPLITS
from .feature import Feature
from .format import ATTRIBUTES_HASH, COLUMNS, FORMAT, SCHEMA
from .hdf5 import StoreFile
from .structure import check_structure


class FeatureStore:
    """A complete feature store, open for reading. Use `FeatureStore.open(path)`, preferably in a `with` statement.

    Everything is checked before its first use and raises UserError if it is refused or damaged.

    Attributes:
        path: path of the file.
        content_hash: the recorded SHA-256 over every dataset.
        offsets: int64 (D + 1): dialogue d has the rows offsets[d] to offsets[d + 1] - 1.
    """

    def __init__(self, path: Path, file: StoreFile):
        if file.root_attribute("format") != FORMAT:
            raise UserError(f"{path}: an HDF5 file, but not a feature store of erc-toolkit")
        if (schema := file.root_attribute("schema")) != SCHEMA:
            raise UserError(f"{path}: store schema {schema}; this version reads schema {SCHEMA}")
        if not isinstance(content_hash := file.root_attribute("content_sha256"), str):
            raise UserError(f"{path}: incomplete store (no content hash); extract it again")
        self.path, self.content_hash = path, content_hash
        self._file = file
        self._columns: dict[str, np.ndarray] = {}
        self.offsets: np.ndarray = file.read("dialogues/offsets", "i", None).astype(np.int64)
        starts, ends = self.offsets[:-1], self.offsets[1:]
        # Every column is checked against the number of utterances that the offsets imply before its first use.
        if len(starts) == 0 or starts[0] != 0 or (starts >= ends).any():
            raise UserError(f"{path}: /dialogues/offsets does not partition the utterances")

    @classmethod
    def open(cls, path: str | os.PathLike) -> FeatureStore:
        """Opens a store, checking that it is complete and its dialogue offsets; the rest is checked on first use.

        Raises:
            UserError: the file is missing, not HDF5, of another format or schema, truncated, or uses HDF5 features that
                are refused.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such store; create one with `erc-toolkit extract`")
        check_structure(path)
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"{path}: not a readable HDF5 file, or truncated ({first_line(error)})") from None
        try:
            return cls(path, StoreFile(path, file))
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        self._file.file.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of utterances."""
        return int(self.offsets[-1])

    @cached_property
    def attrs(self) -> dict[str, object]:
        """The root attributes except `labels`: strings and numbers."""
        return self._file.attributes(self._file.file, but="labels")

    @cached_property
    def corpus(self) -> str:
        """Name of the corpus."""
        return str(self._file.root_attribute("corpus"))

    @cached_property
    def labels(self) -> list[str]:
        """Names of the emotions in index order."""
        labels = self._file.root_attribute("labels")
        if not isinstance(labels, list):
            raise UserError(f"{self.path}: damaged feature store (no list of labels); extract it again")
        return [str(label) for label in labels]

    @cached_property
    def dialogue_ids(self) -> list[str]:
        """The D dialogue ids, in order."""
        return self._file.read("dialogues/id", "O", len(self.offsets) - 1).tolist()

    @cached_property
    def speaker_names(self) -> list[str]:
        """Names of the speakers in index order."""
        return self._file.read("speakers/name", "O", None).tolist()

    def column(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """One column of /utterances: str objects, int32 or float64, (n,). Cached in memory after its first use.

        Raises:
            UserError: there is no such column, or its content is invalid.
        """
        if name not in COLUMNS:
            raise UserError(f"{self.path}: no utterance column {name!r}; available: {', '.join(COLUMNS)}")
        if name not in self._columns:
            column = self._file.read(f"utterances/{name}", COLUMNS[name], len(self))
            self._check_column(name, column)
            self._columns[name] = column
        return self._columns[name][rows].copy()

    def feature_names(self) -> list[str]:
        """Sorted "modality/name" of every feature matrix."""
        modalities = self._file.names("features") if self._file.has("features") else []
        return sorted(
            f"{modality}/{name}" for modality in modalities for name in self._file.names(f"features/{modality}")
        )

    def feature(self, name: str) -> Feature:
        """The feature matrix "modality/name".

        Raises:
            UserError: the store has no such feature; the message lists those it has.
        """
        if name.count("/") != 1 or not self._file.has(f"features/{name}"):
            raise UserError(f"{self.path}: no feature {name!r}; available: {', '.join(self.feature_names()) or 'none'}")
        return Feature(name, self._file, len(self))

    def rows(self, dialogue: int | str) -> slice:
        """The rows of one dialogue, by index or id.

        Raises:
            UserError: there is no such dialogue.
        """
        try:
            i = (
                self.dialogue_ids.index(dialogue)
                if isinstance(dialogue, str)
                else range(len(self.offsets) - 1)[dialogue]
            )
        except (ValueError, IndexError):
            raise UserError(f"{self.path}: no dialogue {dialogue!r}") from None
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def dialogues(self) -> Iterator[tuple[str, slice]]:
        """Yields (dialogue id, its rows) in order."""
        for i, name in enumerate(self.dialogue_ids):
            yield name, slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    @property
    def attributes_covered(self) -> bool:
        """Whether the attributes have a checksum; those of stores of earlier versions have none."""
        return self._file.covered and all(
            ATTRIBUTES_HASH in self._file.group(f"features/{name}").attrs for name in self.feature_names()
        )

    def content_of(self, features: Iterable[str]) -> str:
        """SHA-256 over the utterances, without their texts and times, and some features.

        It stays the same when the store gains other features; copies with the same content have the same hash.

        Raises:
            UserError: the store has no such feature, or is damaged.
        """
        digest = self._rows_digest.copy()
        for name in features:
            feature = self.feature(name)
            digest.update(f"\0{name}\0{feature.dim}\0".encode())
            digest.update(np.packbits(feature.present()).tobytes())
            digest.update(feature.values_hash())
        return digest.hexdigest()

    @cached_property
    def _rows_digest(self) -> hashlib._Hash:
        """Of the utterances, as `content_of` takes them; many runs of a study ask for it."""
        digest = hashlib.sha256()
        speakers, dialogues = np.array(self.speaker_names, object), np.array(self.dialogue_ids, object)
        labels = np.array([*self.labels, ""], object)
        parts = [self.column("id"), dialogues[self.column("dialogue")], speakers[self.column("speaker")]]
        parts += [labels[self.column("label")], self.column("split"), np.array(self.labels, object)]
        for part in parts:
            digest.update(f"{len(part)}\0".encode())
            digest.update("\0".join(map(str, part.tolist())).encode("utf-8", "surrogatepass"))
        return digest

    def check(self) -> None:
        """Checks the shape and dtype of everything in the file, and the content of the columns.

        Raises:
            UserError: the file uses HDF5 features that are refused, or something does not conform to the schema.
        """
        self._file.check_links()
        for name, kinds in COLUMNS.items():
            self._file.dataset(f"utterances/{name}", kinds, len(self))
        for name in ("dialogue", "label", "speaker", "split"):
            self.column(name)
        self._file.dataset("dialogues/id", "O", len(self.offsets) - 1)
        for name in self.feature_names():
            self.feature(name).check()

    def verify(self) -> None:
        """Checks everything (`check`), reads every dataset with its checksums, and compares the content hash.

        Raises:
            UserError: as for `check`, or a checksum or the hash does not match.
        """
        self.check()
        if (found := self._file.content_hash()) != self.content_hash:
            raise UserError(
                f"{self.path}: content hash {found[:12]}… differs from the recorded {self.content_hash[:12]}…"
            )

    def _check_column(self, name: str, column: np.ndarray) -> None:
        lengths = np.diff(self.offsets)
        if name == "dialogue" and (column != np.repeat(np.arange(len(lengths)), lengths)).any():
            raise UserError(f"{self.path}: /utterances/dialogue disagrees with /dialogues/offsets")
        if name == "label" and (column.min() < -1 or column.max() >= len(self.labels)):
            raise UserError(
                f"{self.path}: a label index is out of range of the {counted(len(self.labels), 'label name')}"
            )
        if name == "speaker":
            if column.min() < 0 or column.max() >= self._file.dataset("speakers/name", "O", None).shape[0]:
                raise UserError(f"{self.path}: a speaker index has no name in /speakers")
        if name == "split" and (unknown := set(column) - set(SPLITS)):
            raise UserError(f"{self.path}: unknown split {sorted(unknown)[0]!r}")


def is_extracted(path: Path) -> bool:
    """Whether a file is a store that extraction wrote, not `convert`; a damaged one is not."""
    try:
        with FeatureStore.open(path) as store:
            return "corpus_fingerprint" in store.attrs and "converted_from" not in store.attrs
    except UserError:
        return False
