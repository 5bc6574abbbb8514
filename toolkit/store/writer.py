"""Writing a feature store (schema: docs/reference/store.md)."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import h5py
import numpy as np

from ..base.errors import UserError
from ..base.files import atomic_path
from ..base.version import __version__
from ..manifest import Utterance
from .format import CHUNK_BYTES, FORMAT, MADE_FROM, MOST_LABELS, SCHEMA, texts, write
from .hdf5 import StoreFile
from .structure import trust
from .values import MatrixWriter

if TYPE_CHECKING:
    from .feature import Feature

_ROWS = 2048  # at a time, when copying


@dataclass(frozen=True)
class FeaturePart:
    """Some rows of a feature.

    Attributes:
        first: the first row.
        values: float32 (n, dim).
        reasons: n strings, empty where the row is present.
        details: further columns, each (n,).
        frames, counts, times: the utterances' frames concatenated, float32 (T, width); the number of frames of each
            utterance, int64 (n,); and the times of the frames in seconds from the utterance's start, float64 (T,).
            None if no sequences are stored.
        made_from: n strings, each a hash of everything the row was made from (`Feature.made_from`); None if unknown.
    """

    first: int
    values: np.ndarray
    reasons: Sequence[str]
    details: Mapping[str, np.ndarray]
    frames: np.ndarray | None = None
    counts: np.ndarray | None = None
    times: np.ndarray | None = None
    made_from: Sequence[str] | None = None


class _SequenceWriter:
    """Appends utterances' frames to a feature, with only one part in memory at a time."""

    def __init__(self, group: h5py.Group, width: int, names: Sequence[str]):
        self._group = group.create_group("frames")
        rows = max(1, CHUNK_BYTES // (4 * width))
        self._values, self._times = (
            self._group.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunk, fletcher32=True)
            for name, shape, dtype, chunk in (
                ("values", (0, width), np.float32, (rows, width)),
                ("time_s", (0,), np.float64, (rows,)),
            )
        )
        self._counts = [np.zeros(1, np.int64)]
        if names:
            write(self._group, "dimension_names", texts(names))

    def append(self, part: FeaturePart) -> None:
        frames, counts, times = part.frames, part.counts, part.times
        if frames is None or counts is None or times is None:
            raise ValueError(f"{self._group.name}: the part at row {part.first} has no frames")
        if counts.sum() != len(frames) or len(frames) != len(times) or not np.isfinite(frames).all():
            raise ValueError(
                f"{self._group.name}: the part at row {part.first} has a wrong number of frames, or NaN or infinite "
                "values"
            )
        start = self._values.shape[0]
        for dataset, new in ((self._values, frames), (self._times, times)):
            dataset.resize(start + len(new), axis=0)
            dataset[start:] = new
        self._counts.append(counts)

    def end(self) -> None:
        write(self._group, "offsets", np.cumsum(np.concatenate(self._counts)).astype(np.int64))


class StoreWriter:
    """Writes a store under a temporary name; it is renamed on a clean exit and removed on an error.

    Args:
        path: the store to create; an existing one is replaced.
        corpus: name of the corpus.
        labels: names of the emotions in index order.
        utterances: in dialogue order, those of a dialogue contiguous.
        command: the command line, recorded as provenance.
        attrs: further root attributes (strings or numbers).

    Raises:
        UserError: there are more labels than a store can have.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        corpus: str,
        labels: Sequence[str],
        utterances: Sequence[Utterance],
        command: str = "",
        attrs: Mapping[str, object] | None = None,
    ):
        self.path = Path(path)
        self._atomic = atomic_path(self.path)
        self._utterances = utterances
        self._head = {
            "format": FORMAT,
            "schema": SCHEMA,
            "corpus": corpus,
            "labels": np.array(list(labels), h5py.string_dtype()),
            "toolkit_version": __version__,
            "command": command,
            **(attrs or {}),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._labels = {label: i for i, label in enumerate(labels)}
        if len(labels) > MOST_LABELS:
            raise UserError(f"{self.path}: {len(labels)} labels; a store can have at most {MOST_LABELS}")

    def __enter__(self) -> StoreWriter:
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path}: its folder does not exist; create it first")
        temporary = self._atomic.__enter__()
        # HDF5 1.10's format, the first in which everything that describes the data has a checksum.
        self._file = h5py.File(temporary, "w", libver=("v110", "v110"))
        try:
            self._file.attrs.update(self._head)
            self._write_utterances()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._file.flush()  # datasets still in HDF5's buffers have no stored size yet
                store = StoreFile(self.path, self._file)
                self._file.attrs["content_sha256"] = store.content_hash()
                store.seal(self._file)
            except BaseException as error:
                self._file.close()
                self._atomic.__exit__(type(error), error, error.__traceback__)
                raise
        self._file.close()
        self._atomic.__exit__(kind, raised, traceback)
        if kind is None:
            trust(self.path)

    def add_feature(
        self,
        modality: str,
        name: str,
        values: np.ndarray,
        present: np.ndarray,
        reasons: Sequence[str],
        attrs: Mapping[str, object] | None = None,
        details: Mapping[str, np.ndarray] | None = None,
        dimension_names: Sequence[str] = (),
        reduction: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes one feature matrix.

        Args:
            modality: "text", "audio" or "visual".
            name: name of the feature, e.g. "ComParE_2016"; a slash becomes "--".
            values: float32 (N, dim); rows that are not present are written as zeros.
            present: bool (N,).
            reasons: N strings, non-empty exactly where not present.
            attrs: provenance; values other than strings and numbers are written as JSON.
            details: further columns, each (N,).
            dimension_names: `dim` names, or none.
            reduction: the fitted parameters of a feature reduced from another one (`Feature.reduction`).

        Raises:
            ValueError: shapes disagree, a present row is not finite, or a reason is missing or superfluous.
        """
        n = len(self._utterances)
        values, present = np.asarray(values, np.float32), np.asarray(present, bool)
        if values.ndim != 2 or len(values) != n or present.shape != (n,) or len(reasons) != n:
            raise ValueError(
                f"{modality}/{name}: {values.shape} values, {present.shape} present, {len(reasons)} reasons for {n}"
            )
        if not np.isfinite(values[present]).all():
            raise ValueError(f"{modality}/{name}: NaN or infinite values in a row that is marked present")
        if any(bool(reason) == bool(p) for reason, p in zip(reasons, present, strict=True)):
            raise ValueError(f"{modality}/{name}: every row needs a reason exactly where it is not present")
        group = self._new_group(modality, name, attrs)
        matrix = MatrixWriter(group, values.shape)
        for first in range(0, n, _ROWS):
            rows = slice(first, first + _ROWS)
            matrix.append(np.where(present[rows, None], values[rows], np.float32(0)))
        matrix.end()
        write(group, "present", present)
        write(group, "reason", texts(reasons))
        if dimension_names:
            write(group, "dimension_names", texts(dimension_names))
        for key, column in (details or {}).items():
            write(group.require_group("details"), key, np.asarray(column))
        for key, numbers in (reduction or {}).items():
            write(group.require_group("reduction"), key, np.asarray(numbers))

    def add_feature_parts(
        self,
        modality: str,
        name: str,
        dim: int,
        parts: Iterable[FeaturePart],
        attrs: Mapping[str, object] | None = None,
        dimension_names: Sequence[str] = (),
        frame_width: int = 0,
        frame_names: Sequence[str] = (),
        files: Iterable[tuple[str, int, str]] = (),
    ) -> None:
        """Writes one feature matrix from parts, with only one part in memory at a time.

        Args:
            modality, name, attrs, dimension_names: as for `add_feature`.
            dim: number of columns of the matrix.
            parts: in row order, without gaps.
            frame_width: size of a frame if the parts have sequences, otherwise 0.
            frame_names: names of a frame's columns, or none.
            files: (identity, size, content) of the files that the rows were made from.

        Raises:
            ValueError: as for `add_feature`, or rows are missing from the parts.
        """
        n = len(self._utterances)
        group = self._new_group(modality, name, attrs)
        values = MatrixWriter(group, (n, dim))
        reasons: list[str] = []
        made_from: list[str] = []
        # An earlier version may have written some of the parts, with fewer columns of details.
        kinds: dict[str, np.dtype] = {}
        details: list[tuple[int, Mapping[str, np.ndarray]]] = []
        sequences = _SequenceWriter(group, frame_width, frame_names) if frame_width else None
        for part in parts:
            if (
                part.first != len(reasons)
                or len(part.values) != len(part.reasons)
                or not np.isfinite(part.values).all()
            ):
                raise ValueError(
                    f"{modality}/{name}: the part at row {part.first} leaves a gap, or has NaN or infinite values"
                )
            present = np.array([not r for r in part.reasons])
            values.append(np.where(present[:, None], part.values, np.float32(0)))
            reasons += part.reasons
            made_from += part.made_from or ()
            details.append((len(part.reasons), part.details))
            kinds = {**{key: np.asarray(column).dtype for key, column in part.details.items()}, **kinds}
            if sequences is not None:
                sequences.append(part)
        if len(reasons) != n:
            raise ValueError(f"{modality}/{name}: parts for {len(reasons)} of {n} rows")
        values.end()
        write(group, "present", np.array([not r for r in reasons]))
        write(group, "reason", texts(reasons))
        if dimension_names:
            write(group, "dimension_names", texts(dimension_names))
        for key, kind in kinds.items():
            columns = [part.get(key, np.zeros(rows, kind)) for rows, part in details]
            write(group.require_group("details"), key, np.concatenate(columns))
        if sequences is not None:
            sequences.end()
        if len(made_from) == n:
            noted = group.create_group(MADE_FROM)
            write(noted, "rows", texts(made_from))
            if files := sorted(files):
                identities, sizes, contents = zip(*files, strict=True)
                write(noted, "file_identities", texts(identities))
                write(noted, "file_sizes", np.array(sizes, np.int64))
                write(noted, "file_contents", texts(contents))

    def copy_feature(self, feature: Feature) -> None:
        """Copies a feature from another store with the same utterances unchanged, after `Feature.check`."""
        modality, name = feature.name.split("/")
        group = self._file.require_group(f"features/{modality}")
        feature.copy_into(group)
        self._seal(group.require_group(name))

    def _new_group(self, modality: str, name: str, attrs: Mapping[str, object] | None) -> h5py.Group:
        group = self._file.create_group(f"features/{modality}/{name.replace('/', '--')}")
        for key, value in (attrs or {}).items():
            group.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
        self._seal(group)
        return group

    def _seal(self, group: h5py.Group) -> None:
        StoreFile(self.path, self._file).seal(group)

    def _write_utterances(self) -> None:
        us = self._utterances
        dialogues = list(dict.fromkeys(u.dialogue for u in us))
        speakers = list(dict.fromkeys(u.speaker for u in us))
        dialogue_index = {name: i for i, name in enumerate(dialogues)}
        speaker_index = {name: i for i, name in enumerate(speakers)}
        index = np.array([dialogue_index[u.dialogue] for u in us], np.int32)
        if len(us) == 0 or (np.diff(index) < 0).any():
            raise ValueError("a store needs at least one utterance, and those of a dialogue must be contiguous")
        group = self._file.create_group("utterances")
        columns = {
            "id": texts([u.id for u in us]),
            "dialogue": index,
            "position": np.array([u.position for u in us], np.int32),
            "speaker": np.array([speaker_index[u.speaker] for u in us], np.int32),
            "label": np.array([-1 if u.label is None else self._labels[u.label] for u in us], np.int32),
            "split": texts([u.split for u in us]),
            "text": texts([u.text for u in us]),
            "start_s": np.array([np.nan if u.start is None else u.start for u in us], np.float64),
            "end_s": np.array([np.nan if u.end is None else u.end for u in us], np.float64),
            "media": texts([u.media or "" for u in us]),
        }
        for name, column in columns.items():
            write(group, name, column)
        group = self._file.create_group("dialogues")
        write(group, "id", texts(dialogues))
        write(group, "offsets", np.concatenate([[0], np.cumsum(np.bincount(index))]).astype(np.int64))
        write(self._file.create_group("speakers"), "name", texts(speakers))
