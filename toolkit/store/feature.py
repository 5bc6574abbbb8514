"""A feature of a store that is open for reading."""

from __future__ import annotations

import hashlib
from functools import cached_property

import h5py
import numpy as np

from ..base.errors import UserError
from ..base.reading.plain_json import parse_json
from ..base.words import counted
from .format import MADE_FROM, SCHEMA, Dataset
from .hdf5 import StoreFile
from .values import Matrix


class Feature:
    """A feature matrix of an open store, returned by `FeatureStore.feature`.

    Every method raises UserError if the data is damaged.

    Attributes:
        name: "modality/name".
        dim: number of columns of the matrix.
    """

    def __init__(self, name: str, file: StoreFile, length: int):
        self.name = name
        self._file, self._path, self._length = file, f"features/{name}", length
        self._matrix: Matrix = file.matrix(self._path, length)
        self.dim: int = self._matrix.shape[1]

    @cached_property
    def attrs(self) -> dict[str, object]:
        """Extractor, versions, parameters, model, weights_sha256, … as recorded."""
        return self._file.attributes(self._file.group(self._path))

    def values(self, rows: slice = slice(None)) -> np.ndarray:
        """The matrix, or the rows of a slice: float32 (n, dim). Rows that are not present are zero.

        Raises:
            UserError: the bytes on disk do not match their checksum.
        """
        return self._matrix.read(rows)

    @cached_property
    def layers(self) -> int:
        """Number of an encoder's layers that each row has side by side, the first one first, each with `dim // layers`
        columns (`erc-toolkit extract` with `layers=each`); 0 for all other features.

        Raises:
            UserError: the recorded number and width of the layers do not make up the matrix.
        """
        recorded = self.attrs.get("parameters")
        try:
            parameters = parse_json(recorded) if isinstance(recorded, str) else None
        except ValueError:
            parameters = None
        if not isinstance(parameters, dict) or parameters.get("layers") != "each":
            return 0
        count, width = parameters.get("layer_count"), parameters.get("layer_dim")
        if type(count) is not int or type(width) is not int or min(count, width) < 1 or count * width != self.dim:
            raise UserError(
                f"{self._file.path}: {self.name} has {counted(self.dim, 'dimension')}, which are not {count!r} layers "
                f"of {width!r} as recorded; extract it again"
            )
        return count

    def layer_values(self, rows: slice = slice(None)) -> np.ndarray:
        """The layers of the rows of a slice: float32 (n, layers, dim // layers), as `values` otherwise.

        Raises:
            UserError: the feature has no layers, or the bytes on disk do not match their checksum.
        """
        if not self.layers:
            raise UserError(
                f"{self._file.path}: {self.name} has one vector per utterance, not one per layer; extract it with "
                "layers=each"
            )
        values = self.values(rows)
        return values.reshape(len(values), self.layers, self.dim // self.layers)

    def values_hash(self) -> bytes:
        """A hash of the matrix: from its checksums, without reading it, where it has them."""
        if self._has("checksums"):
            return np.ascontiguousarray(
                self._read("checksums", "u", self._dataset("checksums", "u", None).shape[0])
            ).tobytes()
        return hashlib.sha256(np.ascontiguousarray(self.values()).data).digest()

    def present(self, rows: slice = slice(None)) -> np.ndarray:
        """bool (n,): which utterances have this feature."""
        return self._read("present", "b", self._length, rows).astype(bool)

    def reasons(self, rows: slice = slice(None)) -> np.ndarray:
        """str objects (n,): why an utterance does not have the feature; empty where it is present."""
        return self._read("reason", "O", self._length, rows)

    def dimension_names(self) -> list[str]:
        """The extractor's names for the matrix's columns, or an empty list."""
        return self._read("dimension_names", "O", self.dim).tolist() if self._has("dimension_names") else []

    def details(self) -> dict[str, np.ndarray]:
        """Further columns of the extractor, each (N,): frames seen, seconds of audio, tokens truncated."""
        return {name: self._read(f"details/{name}", "fiubO", self._length) for name in self._names("details")}

    def reduction(self) -> dict[str, np.ndarray]:
        """The fitted parameters of a feature reduced from another one (`erc-toolkit reduce`), otherwise an empty dict.

        Either `columns` int64 (dim,) of the source and their `f_values` float64 (dim,), or `mean` and `scale` float64
        (S,) and `components` float64 (S, dim): the feature is (source - mean) / scale @ components.
        """
        return {name: self._read(f"reduction/{name}", *form) for name, form in self._reduction_forms().items()}

    def made_from(self) -> tuple[list[str], list[tuple[str, int, str]]] | None:
        """What the rows were made from; None for features that were not extracted, or by an earlier version.

        Returns:
            For each row a hash of its media's or transcript's content and everything else it depends on, "" if unknown;
            and (identity, size in bytes, hash of the content) of each media file.
        """
        if not self._has(MADE_FROM):
            return None
        rows = self._read(f"{MADE_FROM}/rows", "O", self._length).tolist()
        files = [self._read(f"{MADE_FROM}/{name}", *form).tolist() for name, form in self._file_forms().items()]
        return rows, list(zip(*files, strict=True))

    @property
    def has_sequences(self) -> bool:
        """Whether each utterance's frames are stored too (`erc-toolkit extract --sequences`)."""
        return self._has("frames")

    @property
    def frame_width(self) -> int:
        """Number of columns of a frame; 0 without sequences."""
        return self._dataset("frames/values", "f", None, 2).shape[1] if self.has_sequences else 0

    def sequence(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one utterance.

        Returns:
            float32 (T, width) and the time of each frame in seconds from the start of the utterance, float64 (T,). T is
            0 if the feature is not present. `width`, the size of a frame, may differ from `dim`.

        Raises:
            UserError: the feature was extracted without sequences.
        """
        if not self.has_sequences:
            raise UserError(f"{self.name}: has no sequences; extract it with --sequences")
        row = range(self._length)[row]
        frames = slice(*self._frame_offsets[row : row + 2].tolist())
        count = int(self._frame_offsets[-1])
        return self._read("frames/values", "f", count, frames, ndim=2), self._read("frames/time_s", "f", count, frames)

    def frame_names(self) -> list[str]:
        """The extractor's names for a frame's columns, or an empty list."""
        if not self._has("frames/dimension_names"):
            return []
        width = self._dataset("frames/values", "f", int(self._frame_offsets[-1]), 2).shape[1]
        return self._read("frames/dimension_names", "O", width).tolist()

    def check(self) -> None:
        """Checks the shape and dtype of everything in the feature, without reading its matrix, strings and frames.

        Raises:
            UserError: something does not conform to the schema.
        """
        self._dataset("present", "b", self._length)
        self._dataset("reason", "O", self._length)
        _ = self.layers  # raises if they do not fit the matrix
        if self._has("dimension_names"):
            self._dataset("dimension_names", "O", self.dim)
        for name in self._names("details"):
            self._dataset(f"details/{name}", "fiubO", self._length)
        for name, form in self._reduction_forms().items():
            self._dataset(f"reduction/{name}", form[0], form[1], form[3])
        if self._has(MADE_FROM):
            self._dataset(f"{MADE_FROM}/rows", "O", self._length)
            for name, form in self._file_forms().items():
                self._dataset(f"{MADE_FROM}/{name}", *form)
        if self.has_sequences:
            self._dataset("frames/time_s", "f", int(self._frame_offsets[-1]))
            if self._has("frames/dimension_names"):
                self._dataset("frames/dimension_names", "O", self._dataset("frames/values", "f", None, 2).shape[1])

    def copy_into(self, group: h5py.Group) -> None:
        """Copies the stored feature unchanged, including checksums, into a group of another file.

        Raises:
            UserError: as for `check`, or a link is not allowed in a store.
        """
        self.check()
        self._file.check_links(self._path)
        self._file.file.copy(self._file.group(self._path), group)

    def _has(self, name: str) -> bool:
        return self._file.has(f"{self._path}/{name}")

    def _names(self, group: str) -> list[str]:
        return self._file.names(f"{self._path}/{group}") if self._has(group) else []

    def _dataset(self, name: str, kinds: str, length: int | None, ndim: int = 1) -> Dataset:
        return self._file.dataset(f"{self._path}/{name}", kinds, length, ndim)

    def _read(self, name: str, kinds: str, length: int, rows: slice = slice(None), ndim: int = 1) -> np.ndarray:
        return self._file.read(f"{self._path}/{name}", kinds, length, rows, ndim)

    def _file_forms(self) -> dict[str, tuple[str, int]]:
        """The dtype kinds and length of each dataset about the media files; none for texts."""
        if not self._has(f"{MADE_FROM}/file_sizes"):
            return {}
        count = self._dataset(f"{MADE_FROM}/file_sizes", "i", None).shape[0]
        return {"file_identities": ("O", count), "file_sizes": ("i", count), "file_contents": ("O", count)}

    @cached_property
    def _frame_offsets(self) -> np.ndarray:
        count = self._dataset("frames/values", "f", None, 2).shape[0]
        offsets = self._read("frames/offsets", "i", self._length + 1)
        if offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
            raise UserError(
                f"{self._file.path}: /{self._path}/frames/offsets does not partition the {counted(count, 'frame')}"
            )
        return offsets

    def _reduction_forms(self) -> dict[str, tuple[str, int, slice, int]]:
        """The dtype kinds, length, rows to read and number of dimensions of each dataset of `reduction`."""
        names, path = set(self._names("reduction")), f"{self._file.path}: /{self._path}/reduction"
        every = slice(None)
        if names == {"columns", "f_values"}:
            return {"columns": ("i", self.dim, every, 1), "f_values": ("f", self.dim, every, 1)}
        if names == {"components", "mean", "scale"}:
            columns = self._dataset("reduction/mean", "f", None).shape[0]
            if (width := self._dataset("reduction/components", "f", columns, 2).shape[1]) != self.dim:
                raise UserError(f"{path}/components has {counted(width, 'dimension')}, but the feature has {self.dim}")
            return {
                "components": ("f", columns, every, 2),
                "mean": ("f", columns, every, 1),
                "scale": ("f", columns, every, 1),
            }
        if names or self._has("reduction"):
            raise UserError(
                f"{path} contains {', '.join(sorted(names)) or 'nothing'}, which schema {SCHEMA} does not define"
            )
        return {}
