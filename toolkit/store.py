"""The feature store: one HDF5 file with utterances, dialogues and feature matrices (docs/store.md has the schema).

`FeatureStore` reads, `StoreWriter` writes. Reading admits plain, internal, fully written datasets behind hard links and
nothing else: HDF5's external, virtual and never-written datasets and its soft and external links let a small foreign
file return other files' bytes or terabytes of zeros.
"""

from __future__ import annotations

import datetime
import hashlib
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
from toolkit.manifest import SPLITS, Utterance

FORMAT = "erc-feature-store"
SCHEMA = 1
# Column name -> dtype kinds it may have ("O" stands for variable-length UTF-8 text).
COLUMNS = {
    "id": "O", "dialogue": "i", "position": "i", "speaker": "i", "label": "i", "split": "O", "text": "O",
    "start_s": "f", "end_s": "f", "media": "O",
}  # fmt: skip
_CHUNK_BYTES = 1 << 18  # small enough that one dialogue reads little more than its own rows
_MOST_INFLATION = 1100  # deflate cannot expand by more than about 1032


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
        return _read(self._group["values"], rows)

    def present(self, rows: slice = slice(None)) -> np.ndarray:
        """bool (n,): which utterances have this feature."""
        return _read(self._group["present"], rows).astype(bool)

    def reasons(self, rows: slice = slice(None)) -> np.ndarray:
        """str objects (n,): why an utterance lacks the feature; empty where it is present."""
        return _read(self._group["reason"], rows)

    def dimension_names(self) -> list[str]:
        """The extractor's names of the matrix's columns, where it has any; else an empty list."""
        return _read(self._group["dimension_names"]).tolist() if "dimension_names" in self._group else []

    def details(self) -> dict[str, np.ndarray]:
        """Further columns of the extractor, each (N,): frames looked at, seconds heard, tokens cut off."""
        return {name: _read(item) for name, item in self._group.get("details", {}).items()}


class FeatureStore:
    """A complete feature store, open for reading. Use `FeatureStore.open(path)`, best in a `with` statement."""

    def __init__(self, path: Path, file: h5py.File):
        self.path = path
        self._file = file
        self.attrs: dict[str, object] = {k: _plain(v) for k, v in file.attrs.items() if k != "labels"}
        self.corpus = str(self.attrs["corpus"])
        self.labels: list[str] = _labels(file)
        self.content_hash = str(self.attrs["content_sha256"])
        self.dialogue_ids: list[str] = _read(file["dialogues/id"]).tolist()
        self.offsets: np.ndarray = _read(file["dialogues/offsets"]).astype(np.int64)
        self.speaker_names: list[str] = _read(file["speakers/name"]).tolist()

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
            raise UserError(f"{path}: not a readable HDF5 file, or truncated ({_first_line(error)})") from None
        try:
            _check(path, file)
            return cls(path, file)
        except UserError:
            file.close()
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            file.close()
            raise UserError(f"{path}: damaged feature store ({_first_line(error)}); extract it again") from None

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
        return _read(self._file["utterances"][name], rows)

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
        return Feature(name, group["values"].shape[1], {k: _plain(v) for k, v in group.attrs.items()}, group)

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
        dimension_names: Sequence[str] = (),
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
        _write(group, "values", np.where(present[:, None], values, np.float32(0)))
        _write(group, "present", present)
        _write(group, "reason", _texts(reasons))
        if dimension_names:
            _write(group, "dimension_names", _texts(dimension_names))
        for key, column in (details or {}).items():
            _write(group.require_group("details"), key, np.asarray(column))

    def add_feature_parts(
        self, modality: str, name: str, dim: int, parts: Iterable[tuple[int, np.ndarray, Sequence[str], Mapping[str, np.ndarray]]],
        attrs: Mapping[str, object] | None = None, dimension_names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Writes one feature matrix from parts, so that memory holds one part at a time.

        Args:
            modality, name, attrs, dimension_names: as for `add_feature`.
            dim: width of the matrix.
            parts: (first row, values float32 (n, dim), n reasons, details) in the order of the rows, without a gap.

        Raises:
            ValueError: as for `add_feature`; or the parts leave rows out.
        """
        n = len(self._utterances)
        group = self._new_group(modality, name, attrs)
        rows = min(max(1, _CHUNK_BYTES // max(4 * dim, 1)), n)
        values = group.create_dataset("values", (n, dim), np.float32, chunks=(rows, dim), fletcher32=True)
        reasons: list[str] = []
        details: dict[str, list[np.ndarray]] = {}
        for first, part, why, columns in parts:
            if first != len(reasons) or len(part) != len(why) or not np.isfinite(part).all():
                raise ValueError(f"{modality}/{name}: the part at row {first} leaves a gap, or holds NaN or infinity")
            values[first : first + len(part)] = np.where(np.array([not r for r in why])[:, None], part, np.float32(0))
            reasons += why
            for key, column in columns.items():
                details.setdefault(key, []).append(column)
        if len(reasons) != n:
            raise ValueError(f"{modality}/{name}: parts for {len(reasons)} of {n} rows")
        _write(group, "present", np.array([not r for r in reasons]))
        _write(group, "reason", _texts(reasons))
        if dimension_names:
            _write(group, "dimension_names", _texts(dimension_names))
        for key, columns in details.items():
            _write(group.require_group("details"), key, np.concatenate(columns))

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
            "id": _texts([u.id for u in us]), "dialogue": index,
            "position": np.array([u.position for u in us], np.int32),
            "speaker": np.array([speaker_index[u.speaker] for u in us], np.int32),
            "label": np.array([-1 if u.label is None else self._labels[u.label] for u in us], np.int32),
            "split": _texts([u.split for u in us]), "text": _texts([u.text for u in us]),
            "start_s": np.array([np.nan if u.start is None else u.start for u in us], np.float64),
            "end_s": np.array([np.nan if u.end is None else u.end for u in us], np.float64),
            "media": _texts([u.media or "" for u in us]),
        }  # fmt: skip
        for name, column in columns.items():
            _write(group, name, column)
        group = self._file.create_group("dialogues")
        _write(group, "id", _texts(dialogues))
        _write(group, "offsets", np.concatenate([[0], np.cumsum(np.bincount(index))]).astype(np.int64))
        _write(self._file.create_group("speakers"), "name", _texts(speakers))


def content_hash(file: h5py.File) -> str:
    """SHA-256 over every dataset in the order of its path: path, shape, dtype and bytes; attributes are left out."""
    digest = hashlib.sha256()
    for name, dataset in sorted(_datasets(file)):
        text = h5py.check_string_dtype(dataset.dtype) is not None
        digest.update(f"{name}\0{dataset.shape}\0{'text' if text else dataset.dtype.str}\0".encode())
        if text:
            digest.update(_text_hash(_read(dataset)).encode())
            continue
        step = max(1, (1 << 24) // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
        for start in range(0, dataset.shape[0], step):
            digest.update(np.ascontiguousarray(_read(dataset, slice(start, start + step))).data)
    return digest.hexdigest()


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def _write(group: h5py.Group, name: str, data: np.ndarray) -> None:
    if data.dtype == object:  # HDF5 has no checksum filter for text of variable length
        dataset = group.create_dataset(name, data=data, dtype=h5py.string_dtype())
        dataset.attrs["sha256"] = _text_hash(data)
        return
    row = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    rows = min(max(1, _CHUNK_BYTES // max(row, 1)), max(len(data), 1))
    group.create_dataset(name, data=data, chunks=(rows, *data.shape[1:]), fletcher32=True)


def _text_hash(texts: np.ndarray) -> str:
    return hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()


def _texts(texts: Sequence[str]) -> np.ndarray:
    return np.array(list(texts), dtype=object)


def _read(dataset: h5py.Dataset, rows: slice = slice(None)) -> np.ndarray:
    try:
        if not h5py.check_string_dtype(dataset.dtype):
            return dataset[rows]
        texts = dataset.asstr()[:]
        if _plain(dataset.attrs.get("sha256", "")) not in ("", _text_hash(texts)):
            raise OSError("its text does not match its sha256")
        return texts[rows]
    except (OSError, UnicodeDecodeError) as error:
        place = f"{dataset.file.filename}: {dataset.name}"
        raise UserError(f"{place} is damaged on disk ({_first_line(error)}); extract it again") from None


def _labels(file: h5py.File) -> list[str]:
    return [str(_plain(label)) for label in np.atleast_1d(file.attrs["labels"])]


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _check(path: Path, file: h5py.File) -> None:
    if _plain(file.attrs.get("format")) != FORMAT:
        raise UserError(f"{path}: an HDF5 file, but not a feature store of erc-toolkit")
    if _plain(file.attrs.get("schema")) != SCHEMA:
        raise UserError(f"{path}: store schema {file.attrs.get('schema')}; this version reads schema {SCHEMA}")
    _check_links(path, file, seen=set(), depth=0)
    n = file["utterances/id"].shape[0]
    for name, kind in COLUMNS.items():
        _check_dataset(path, file[f"utterances/{name}"], kind, n)
    dialogues = file["dialogues/id"].shape[0]
    _check_dataset(path, file["dialogues/id"], "O", dialogues)
    _check_dataset(path, file["dialogues/offsets"], "i", dialogues + 1)
    _check_dataset(path, file["speakers/name"], "O", file["speakers/name"].shape[0])
    for modality in file.get("features", {}):
        for name in file["features"][modality]:
            group = file["features"][modality][name]
            _check_dataset(path, group["values"], "f", n, ndim=2)
            _check_dataset(path, group["present"], "b", n)
            _check_dataset(path, group["reason"], "O", n)
            if "dimension_names" in group:
                _check_dataset(path, group["dimension_names"], "O", group["values"].shape[1])
            for detail in group.get("details", {}):
                _check_dataset(path, group["details"][detail], "fiubO", n)
    offsets = _read(file["dialogues/offsets"])
    if offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) <= 0).any():
        raise UserError(f"{path}: /dialogues/offsets does not divide the {n} utterances")
    if (_read(file["utterances/dialogue"]) != np.repeat(np.arange(dialogues), np.diff(offsets))).any():
        raise UserError(f"{path}: /utterances/dialogue disagrees with /dialogues/offsets")
    labels = _labels(file)
    label = _read(file["utterances/label"])
    if label.min() < -1 or label.max() >= len(labels):
        raise UserError(f"{path}: labels out of range of the {len(labels)} label names")
    speaker = _read(file["utterances/speaker"])
    if speaker.min() < 0 or speaker.max() >= file["speakers/name"].shape[0]:
        raise UserError(f"{path}: a speaker index has no name in /speakers")
    if unknown := set(_read(file["utterances/split"])) - set(SPLITS):
        raise UserError(f"{path}: unknown split {sorted(unknown)[0]!r}")
    if not isinstance(_plain(file.attrs.get("content_sha256")), str):
        raise UserError(f"{path}: incomplete store (no content hash); extract it again")


def _check_links(path: Path, group: h5py.Group, seen: set[object], depth: int) -> None:
    """Refuses every link that is not hard and every object that is not a plain group or dataset."""
    if depth > 8 or group.id in seen:
        raise UserError(f"{path}: {group.name} is nested too deep or in itself; refused")
    seen.add(group.id)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {group.name}/{name} is a soft or external link; refused")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_links(path, item, seen, depth + 1)
        elif not isinstance(item, h5py.Dataset):
            raise UserError(f"{path}: {item.name} is neither group nor dataset; refused")
        elif item.external is not None or item.is_virtual:
            raise UserError(f"{path}: {item.name} keeps its data in other files; refused")


def _check_dataset(path: Path, dataset: h5py.Dataset, kinds: str, length: int, ndim: int = 1) -> None:
    kind = "O" if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.kind
    if kind not in kinds or dataset.ndim != ndim or dataset.shape[0] != length:
        raise UserError(f"{path}: {dataset.name} has shape {dataset.shape} and type {dataset.dtype}, which schema {SCHEMA} does not allow")
    if dataset.nbytes > _MOST_INFLATION * dataset.id.get_storage_size() + 4096:
        raise UserError(f"{path}: {dataset.name} claims {dataset.nbytes:,} bytes but holds {dataset.id.get_storage_size():,}; refused")
