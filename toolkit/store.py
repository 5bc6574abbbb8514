"""The feature store: one HDF5 file with utterances, dialogues and feature matrices (docs/store.md has the schema).

`FeatureStore` reads, `StoreWriter` writes. Reading admits plain, internal, fully written datasets behind hard links and
nothing else: HDF5's external, virtual and never-written datasets and its soft and external links let a small foreign
file return other files' bytes or terabytes of zeros.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

import toolkit
from toolkit.errors import UserError
from toolkit.files import atomic_path
from toolkit.manifest import Utterance
from toolkit.store_format import (
    CHUNK_BYTES, COLUMNS, FORMAT, SCHEMA, check_store, content_hash, first_line, labels_of, plain, read, texts, write,
)  # fmt: skip

@dataclass(frozen=True)
class Feature:
    """One feature matrix of an open store.

    Attributes:
        name: "modality/name".
        dim: width of the matrix.
        attrs: extractor, versions, parameters, model, weights_sha256, … as recorded.
    """

    name: str
    dim: int
    attrs: dict[str, object]
    _group: h5py.Group

    def values(self, rows: slice = slice(None)) -> np.ndarray:
        """The matrix, or the rows of a slice: float32 (n, dim). Rows that are not present hold zeros.

        Raises:
            UserError: the bytes on disk do not match their checksum.
        """
        return read(self._group["values"], rows)

    def present(self, rows: slice = slice(None)) -> np.ndarray:
        """bool (n,): which utterances have this feature."""
        return read(self._group["present"], rows).astype(bool)

    def reasons(self, rows: slice = slice(None)) -> np.ndarray:
        """str objects (n,): why an utterance lacks the feature; empty where it is present."""
        return read(self._group["reason"], rows)

    def dimension_names(self) -> list[str]:
        """The extractor's names of the matrix's columns, where it has any; else an empty list."""
        return read(self._group["dimension_names"]).tolist() if "dimension_names" in self._group else []

    def details(self) -> dict[str, np.ndarray]:
        """Further columns of the extractor, each (N,): frames looked at, seconds heard, tokens cut off."""
        return {name: read(item) for name, item in self._group.get("details", {}).items()}

    def reduction(self) -> dict[str, np.ndarray]:
        """The fitted numbers of a feature that was reduced from another (`erc-toolkit reduce`); else an empty dict.

        Either `columns` int64 (dim,) of the source and their `f_values` float64 (dim,), or `mean` and `scale` float64
        (S,) and `components` float64 (S, dim): the feature is (source - mean) / scale @ components.
        """
        return {name: read(item) for name, item in self._group.get("reduction", {}).items()}

    @property
    def has_sequences(self) -> bool:
        """Whether the frames behind each utterance's vector are kept as well (`erc-toolkit extract --sequences`)."""
        return "frames" in self._group

    def sequence(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one utterance.

        Returns:
            float32 (T, width) and the time of each frame in seconds from the start of the utterance, float64 (T,). T is
            0 where the feature is not present. `width` is that of a frame, which may differ from `dim`.

        Raises:
            UserError: the feature was extracted without sequences.
        """
        if not self.has_sequences:
            raise UserError(f"{self.name}: holds no sequences; extract it with --sequences")
        frames = self._group["frames"]
        n = frames["offsets"].shape[0] - 1
        row = range(n)[row]
        first, last = (int(i) for i in read(frames["offsets"], slice(row, row + 2)))
        return read(frames["values"], slice(first, last)), read(frames["time_s"], slice(first, last))

    def frame_names(self) -> list[str]:
        """The extractor's names of a frame's columns, where it has any; else an empty list."""
        frames = self._group.get("frames", {})
        return read(frames["dimension_names"]).tolist() if "dimension_names" in frames else []


class FeatureStore:
    """A complete feature store, open for reading. Use `FeatureStore.open(path)`, best in a `with` statement."""

    def __init__(self, path: Path, file: h5py.File):
        self.path = path
        self._file = file
        self.attrs: dict[str, object] = {k: plain(v) for k, v in file.attrs.items() if k != "labels"}
        self.corpus = str(self.attrs["corpus"])
        self.labels: list[str] = labels_of(file)
        self.content_hash = str(self.attrs["content_sha256"])
        self.dialogue_ids: list[str] = read(file["dialogues/id"]).tolist()
        self.offsets: np.ndarray = read(file["dialogues/offsets"]).astype(np.int64)
        self.speaker_names: list[str] = read(file["speakers/name"]).tolist()

    @classmethod
    def open(cls, path: str | os.PathLike) -> FeatureStore:
        """Opens a store and checks its form (not its checksums: those are checked as data is read; see `verify`).

        Raises:
            UserError: no such file, not HDF5, another format or schema, truncated, or a construction that is refused.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such store; make one with `erc-toolkit extract`")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"{path}: not a readable HDF5 file, or truncated ({first_line(error)})") from None
        try:
            check_store(path, file)
            return cls(path, file)
        except UserError:
            file.close()
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            file.close()
            raise UserError(f"{path}: damaged feature store ({first_line(error)}); extract it again") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of utterances."""
        return int(self.offsets[-1])

    def column(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """One column of /utterances: str objects, int32 or float64, (n,).

        Raises:
            UserError: there is no such column.
        """
        if name not in COLUMNS:
            raise UserError(f"{self.path}: no utterance column {name!r}; there are {', '.join(COLUMNS)}")
        return read(self._file["utterances"][name], rows)

    def feature_names(self) -> list[str]:
        """Sorted "modality/name" of every feature matrix."""
        features = self._file.get("features", {})
        return sorted(f"{modality}/{name}" for modality in features for name in features[modality])

    def feature(self, name: str) -> Feature:
        """The feature matrix "modality/name".

        Raises:
            UserError: the store has none of that name; the message lists those it has.
        """
        if name not in self.feature_names():
            raise UserError(f"{self.path}: no feature {name!r}; it has {', '.join(self.feature_names()) or 'none'}")
        group = self._file["features"][name]
        return Feature(name, group["values"].shape[1], {k: plain(v) for k, v in group.attrs.items()}, group)

    def rows(self, dialogue: int | str) -> slice:
        """The rows of one dialogue, by index or id.

        Raises:
            UserError: there is no such dialogue.
        """
        try:
            i = self.dialogue_ids.index(dialogue) if isinstance(dialogue, str) else range(len(self.dialogue_ids))[dialogue]
        except (ValueError, IndexError):
            raise UserError(f"{self.path}: no dialogue {dialogue!r}") from None
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def dialogues(self) -> Iterator[tuple[str, slice]]:
        """Yields (dialogue id, its rows) in order."""
        for i, name in enumerate(self.dialogue_ids):
            yield name, slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def verify(self) -> None:
        """Reads every dataset and compares the content hash.

        Raises:
            UserError: a checksum or the hash does not match.
        """
        if (found := content_hash(self._file)) != self.content_hash:
            raise UserError(f"{self.path}: content hash {found[:12]}… is not the recorded {self.content_hash[:12]}…")


@dataclass(frozen=True)
class FeaturePart:
    """Some rows of a feature.

    Attributes:
        first: the first row.
        values: float32 (n, dim).
        reasons: n texts, empty where the row is present.
        details: further columns, each (n,).
        frames, counts, times: the utterances' frames one after another, float32 (T, width); how many each utterance has,
            int64 (n,); and their times in seconds from its start, float64 (T,). None where no sequences are kept.
    """

    first: int
    values: np.ndarray
    reasons: Sequence[str]
    details: Mapping[str, np.ndarray]
    frames: np.ndarray | None = None
    counts: np.ndarray | None = None
    times: np.ndarray | None = None


class _SequenceWriter:
    """Appends utterances' frames to a feature, so that memory holds one part at a time."""

    def __init__(self, group: h5py.Group, width: int, names: Sequence[str]):
        self._group = group.create_group("frames")
        rows = max(1, CHUNK_BYTES // (4 * width))
        self._values, self._times = (
            self._group.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunk, fletcher32=True)
            for name, shape, dtype, chunk in (
                ("values", (0, width), np.float32, (rows, width)), ("time_s", (0,), np.float64, (rows,)),
            )
        )  # fmt: skip
        self._counts = [np.zeros(1, np.int64)]
        if names:
            write(self._group, "dimension_names", texts(names))

    def append(self, part: FeaturePart) -> None:
        if part.counts.sum() != len(part.frames) or len(part.frames) != len(part.times) or not np.isfinite(part.frames).all():
            raise ValueError(f"{self._group.name}: the part at row {part.first} miscounts its frames, or holds NaN or infinity")
        start = self._values.shape[0]
        for dataset, new in ((self._values, part.frames), (self._times, part.times)):
            dataset.resize(start + len(new), axis=0)
            dataset[start:] = new
        self._counts.append(part.counts)

    def end(self) -> None:
        write(self._group, "offsets", np.cumsum(np.concatenate(self._counts)).astype(np.int64))


class StoreWriter:
    """Writes a store; on a clean exit it takes its name, on an error nothing is left under that name.

    Args:
        path: the store to make; an existing one is replaced.
        corpus: name of the corpus.
        labels: names of the emotions in index order.
        utterances: in dialogue order, those of a dialogue together.
        command: the command line, for the record.
        attrs: further root attributes (text or numbers).
    """

    def __init__(
        self, path: str | os.PathLike, *, corpus: str, labels: Sequence[str], utterances: Sequence[Utterance],
        command: str = "", attrs: Mapping[str, object] | None = None,
    ):  # fmt: skip
        self.path = Path(path)
        self._atomic = atomic_path(self.path)
        self._utterances = utterances
        self._head = {
            "format": FORMAT, "schema": SCHEMA, "corpus": corpus,
            "labels": np.array(list(labels), h5py.string_dtype()), "toolkit_version": toolkit.__version__, "command": command, **(attrs or {}),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip
        self._labels = {label: i for i, label in enumerate(labels)}

    def __enter__(self) -> StoreWriter:
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path}: its folder does not exist; make it first")
        temporary = self._atomic.__enter__()
        self._file = h5py.File(temporary, "w")
        try:
            self._file.attrs.update(self._head)
            self._write_utterances()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            try:
                self._file.attrs["content_sha256"] = content_hash(self._file)
            except BaseException as error:
                self._file.close()
                self._atomic.__exit__(type(error), error, error.__traceback__)
                raise
        self._file.close()
        self._atomic.__exit__(*exc)

    def add_feature(
        self, modality: str, name: str, values: np.ndarray, present: np.ndarray, reasons: Sequence[str],
        attrs: Mapping[str, object] | None = None, details: Mapping[str, np.ndarray] | None = None,
        dimension_names: Sequence[str] = (), reduction: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """Writes one feature matrix.

        Args:
            modality: "text", "audio" or "visual".
            name: what made it, e.g. "ComParE_2016"; a slash becomes "--".
            values: float32 (N, dim); rows that are not present are written as zeros.
            present: bool (N,).
            reasons: N texts, non-empty exactly where not present.
            attrs: provenance; values other than text and numbers are written as JSON.
            details: further columns, each (N,).
            dimension_names: dim names, or none.
            reduction: the fitted numbers of a feature that was reduced from another (`Feature.reduction`).

        Raises:
            ValueError: shapes disagree, a present row holds NaN or infinity, or a reason is missing or too many.
        """
        n = len(self._utterances)
        values, present = np.asarray(values, np.float32), np.asarray(present, bool)
        if values.ndim != 2 or len(values) != n or present.shape != (n,) or len(reasons) != n:
            raise ValueError(f"{modality}/{name}: {values.shape} values, {present.shape} present, {len(reasons)} reasons for {n}")
        if not np.isfinite(values[present]).all():
            raise ValueError(f"{modality}/{name}: NaN or infinite values in a row that is marked present")
        if any(bool(reason) == bool(p) for reason, p in zip(reasons, present)):
            raise ValueError(f"{modality}/{name}: every absent row needs a reason, and no present row has one")
        group = self._new_group(modality, name, attrs)
        write(group, "values", np.where(present[:, None], values, np.float32(0)))
        write(group, "present", present)
        write(group, "reason", texts(reasons))
        if dimension_names:
            write(group, "dimension_names", texts(dimension_names))
        for key, column in (details or {}).items():
            write(group.require_group("details"), key, np.asarray(column))
        for key, numbers in (reduction or {}).items():
            write(group.require_group("reduction"), key, np.asarray(numbers))

    def add_feature_parts(
        self, modality: str, name: str, dim: int, parts: Iterable[FeaturePart],
        attrs: Mapping[str, object] | None = None, dimension_names: Sequence[str] = (), frame_width: int = 0,
        frame_names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Writes one feature matrix from parts, so that memory holds one part at a time.

        Args:
            modality, name, attrs, dimension_names: as for `add_feature`.
            dim: width of the matrix.
            parts: in the order of the rows, without a gap.
            frame_width: columns of a frame, where the parts carry sequences; `frame_names` their names.

        Raises:
            ValueError: as for `add_feature`; or the parts leave rows out.
        """
        n = len(self._utterances)
        group = self._new_group(modality, name, attrs)
        rows = min(max(1, CHUNK_BYTES // max(4 * dim, 1)), n)
        values = group.create_dataset("values", (n, dim), np.float32, chunks=(rows, dim), fletcher32=True)
        reasons: list[str] = []
        details: dict[str, list[np.ndarray]] = {}
        sequences = _SequenceWriter(group, frame_width, frame_names) if frame_width else None
        for part in parts:
            if part.first != len(reasons) or len(part.values) != len(part.reasons) or not np.isfinite(part.values).all():
                raise ValueError(f"{modality}/{name}: the part at row {part.first} leaves a gap, or holds NaN or infinity")
            there = np.array([not r for r in part.reasons])
            values[part.first : part.first + len(there)] = np.where(there[:, None], part.values, np.float32(0))
            reasons += part.reasons
            for key, column in part.details.items():
                details.setdefault(key, []).append(column)
            if sequences is not None:
                sequences.append(part)
        if len(reasons) != n:
            raise ValueError(f"{modality}/{name}: parts for {len(reasons)} of {n} rows")
        write(group, "present", np.array([not r for r in reasons]))
        write(group, "reason", texts(reasons))
        if dimension_names:
            write(group, "dimension_names", texts(dimension_names))
        for key, columns in details.items():
            write(group.require_group("details"), key, np.concatenate(columns))
        if sequences is not None:
            sequences.end()

    def copy_feature(self, feature: Feature) -> None:
        """Copies a feature of another store with the same utterances, as it is."""
        feature._group.file.copy(feature._group, self._file.require_group(f"features/{feature.name.split('/')[0]}"))

    def _new_group(self, modality: str, name: str, attrs: Mapping[str, object] | None) -> h5py.Group:
        group = self._file.create_group(f"features/{modality}/{name.replace('/', '--')}")
        for key, value in (attrs or {}).items():
            group.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
        return group

    def _write_utterances(self) -> None:
        us = self._utterances
        dialogues = list(dict.fromkeys(u.dialogue for u in us))
        speakers = list(dict.fromkeys(u.speaker for u in us))
        dialogue_index = {name: i for i, name in enumerate(dialogues)}
        speaker_index = {name: i for i, name in enumerate(speakers)}
        index = np.array([dialogue_index[u.dialogue] for u in us], np.int32)
        if len(us) == 0 or (np.diff(index) < 0).any():
            raise ValueError("a store needs at least one utterance, and those of a dialogue must stand together")
        group = self._file.create_group("utterances")
        columns = {
            "id": texts([u.id for u in us]), "dialogue": index,
            "position": np.array([u.position for u in us], np.int32),
            "speaker": np.array([speaker_index[u.speaker] for u in us], np.int32),
            "label": np.array([-1 if u.label is None else self._labels[u.label] for u in us], np.int32),
            "split": texts([u.split for u in us]), "text": texts([u.text for u in us]),
            "start_s": np.array([np.nan if u.start is None else u.start for u in us], np.float64),
            "end_s": np.array([np.nan if u.end is None else u.end for u in us], np.float64),
            "media": texts([u.media or "" for u in us]),
        }  # fmt: skip
        for name, column in columns.items():
            write(group, name, column)
        group = self._file.create_group("dialogues")
        write(group, "id", texts(dialogues))
        write(group, "offsets", np.concatenate([[0], np.cumsum(np.bincount(index))]).astype(np.int64))
        write(self._file.create_group("speakers"), "name", texts(speakers))
