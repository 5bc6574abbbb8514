"""Finished work on disk: each part of a feature is one file, which is either complete or absent.

An open HDF5 file does not survive a killed process; part files that are written under a temporary name, flushed and
renamed do. `STORE.parts/` contains a folder for each feature; in it `feature.json` is everything that the feature
depends on besides its utterances (its fingerprint), and `00000-HASH.npz`, `00001-HASH.npz`, … contain the rows of the
finished parts. HASH stands for the utterances' transcripts or spans and media files, so a part of other utterances has
another name; its rows are still found by what they were made from (`extract/run/rows/kept.py`). The store is assembled
from the parts at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from ....toolkit.base.errors import UserError
from ....toolkit.base.files import write_atomically
from ....toolkit.base.hashes import json_sha256
from ....toolkit.base.reading.plain_json import parse_json
from ....toolkit.manifest import Manifest
from ....toolkit.manifest.utterances import FIELDS
from ....toolkit.store import FeaturePart
from ....toolkit.store.frames import finite_frames
from ...encoders.base import Extracted, Extractor, Provenance
from .kept import Row
from .origins import UNKNOWN, FileFacts


class FeaturePlan(TypedDict):
    """Everything that a feature's values depend on besides its utterances."""

    modality: str
    name: str
    dim: int
    frame_width: int
    matrices: dict[str, dict[str, Any]]
    provenance: Provenance


class ColumnNames(TypedDict):
    """Names of a matrix's columns, and number and names of its frames' columns."""

    dimension_names: list[str]
    frame_width: int
    frame_names: list[str]


@dataclass
class Rows:
    """One part of one feature in progress: rows `first` to `first + n` (exclusive).

    Attributes:
        first: row of the first utterance.
        values: float32 (n, matrices * dim), an extractor's matrices side by side; zeros in masked rows.
        reasons: n strings, empty where the row is present.
        details: further columns, each (n,).
        made_from: n keys (`extract.run.rows.origins`) of what the rows were made from; `UNKNOWN` if they must be
            computed again.
        todo: the rows that are to be computed; the others are kept.
        frame_width: columns of a frame if the feature keeps its sequences, else 0.
        frames: for each row its frames float32 (T, frame_width) and their times in seconds (T,).
    """

    first: int
    values: np.ndarray
    reasons: list[str]
    made_from: list[str]
    todo: frozenset[int]
    details: dict[str, np.ndarray] = field(default_factory=dict)
    frame_width: int = 0
    frames: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def put(
        self,
        row: int,
        values: np.ndarray | None,
        reason: str,
        frames: np.ndarray | None = None,
        times: np.ndarray | None = None,
    ) -> None:
        """Sets a row (its number in the whole corpus) to values and frames, or to the reason why there are none.

        A frame with NaN or infinity is left out; the row is masked if none remains.
        """
        whole = None if frames is None else finite_frames(frames)
        if values is not None and not (np.isfinite(values).all() and (whole is None or whole.any() or not len(whole))):
            values, reason = None, "the encoder returned NaN or infinity"
        self.reasons[row - self.first] = "" if values is not None else reason
        if values is not None:
            self.values[row - self.first] = values
            if frames is not None and times is not None:
                self.frames[row] = (frames, times) if whole is None or whole.all() else (frames[whole], times[whole])

    def put_result(self, row: int, result: Extracted) -> None:
        """Sets a row to an extractor's result."""
        self.count(row, **result.details)
        self.put(row, result.values, result.reason, result.frames, result.times)

    def count(self, row: int, **details: float) -> None:
        """Sets a row of the details."""
        for name, value in details.items():
            self.details[name][row - self.first] = value

    def note_origin(self, row: int, key: str) -> None:
        """Sets what a row was made from."""
        self.made_from[row - self.first] = key

    def keep(self, row: int, kept: Row, key: str) -> None:
        """Sets a row to one that an earlier run has computed."""
        self.count(row, **{name: value for name, value in kept.details.items() if name in self.details})
        self.put(row, kept.values, kept.reason, kept.frames, kept.times)
        self.note_origin(row, key)

    def finished(self) -> FeaturePart:
        """The part as it is written to disk."""
        if not self.frame_width:
            return FeaturePart(self.first, self.values, self.reasons, self.details, made_from=self.made_from)
        none = np.zeros((0, self.frame_width), np.float32), np.zeros(0)
        kept = [self.frames.get(self.first + i, none) for i in range(len(self.reasons))]
        return FeaturePart(
            self.first,
            self.values,
            self.reasons,
            self.details,
            np.concatenate([frames for frames, _ in kept]),
            np.array([len(frames) for frames, _ in kept], np.int64),
            np.concatenate([times for _, times in kept]),
            self.made_from,
        )


UNDONE = "not processed"
# The first part has this fraction of the others' rows, and each has twice as many as the one before until it has them
# all: something is on disk, and a fault is known, after seconds.
_FIRST = 8


def matrices_of(extractor: Extractor) -> dict[str, dict[str, Any]]:
    """The names, in the store, of the matrices that an extractor returns, each with its own attributes."""
    return {name.replace("/", "--"): dict(attributes) for name, attributes in extractor.matrices.items()}


def empty_rows(part: range, todo: Iterable[int], extractor: Extractor) -> Rows:
    """Rows for an extractor, none of which is processed yet, and `todo` of which are to be computed."""
    n = len(part)
    values = np.zeros((n, extractor.dim * len(extractor.matrices)), np.float32)
    kinds = {**extractor.wants.details, **extractor.details}
    details = {name: np.zeros(n, kind) for name, kind in kinds.items()}
    return Rows(
        part.start, values, [UNDONE] * n, [UNKNOWN] * n, frozenset(todo), details, frame_width=extractor.frame_width
    )


def corpus_fingerprint(manifest: Manifest) -> str:
    """SHA-256 of everything in the manifest that extraction or the store uses."""
    digest = hashlib.sha256(json.dumps([manifest.corpus, manifest.labels]).encode())
    for utterance in manifest.utterances:
        fields = {name: getattr(utterance, name) for name in FIELDS}
        for name in ("audio_channel", "speaker_face"):
            if fields[name] is None:  # stores of earlier versions, which had no such field, stay the same
                del fields[name]
        digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.hexdigest()


class PartsFolder:
    """The parts of one feature.

    Args:
        folder: STORE.parts/modality--name.
        plan: everything that the feature's values depend on.

    Raises:
        UserError: the folder contains parts of a different plan; the message names the difference.
    """

    def __init__(self, folder: Path, plan: FeaturePlan):
        self.folder = folder
        self.plan: FeaturePlan = json.loads(json.dumps(plan))
        self.fingerprint = json_sha256(self.plan)
        folder.mkdir(parents=True, exist_ok=True)
        marker = folder / "feature.json"
        if marker.exists():
            try:
                found = parse_json(marker.read_text(encoding="utf-8"))
            except ValueError:
                found = {}
            if json_sha256(found) != self.fingerprint:
                raise UserError(
                    f"{folder}: contains unfinished work with {difference(found, self.plan)}; use those options again "
                    "to resume it, or delete the folder to start over"
                )
        else:
            write_atomically(marker, json.dumps(self.plan, indent=1).encode())

    def has(self, name: str) -> bool:
        """Whether the part with this file name is finished."""
        return (self.folder / name).exists()

    def names(self) -> list[str]:
        """The file names of all finished parts, of these utterances or others."""
        return sorted(path.name for path in self.folder.glob("*.npz") if not path.name.startswith("."))

    def write(self, name: str, rows: FeaturePart, files: Iterable[FileFacts] = ()) -> None:
        """Writes a part durably: it is complete on disk when this returns.

        Args:
            name: its file name.
            rows: its rows.
            files: the media files that were read for it.
        """
        data: dict[str, Any] = {f"detail_{name}": column for name, column in rows.details.items()}
        if rows.frames is not None:
            data |= {"frames": rows.frames, "counts": rows.counts, "times": rows.times}
        noted = [[file.identity, file.size, file.content] for file in files]
        buffer = io.BytesIO()
        np.savez(
            buffer,
            first=rows.first,
            values=rows.values,
            reasons=_bytes("\0".join(rows.reasons)),
            made_from=_bytes("\0".join(rows.made_from or [])),
            files=_bytes(json.dumps(noted)),
            fingerprint=_bytes(self.fingerprint),
            **data,
        )
        write_atomically(self.folder / name, buffer.getvalue())

    def read(self, name: str) -> FeaturePart:
        """Reads a part.

        Raises:
            UserError: the file is damaged, or was written with different options.
        """
        with self._opened(name) as data:
            n = len(data["values"])
            frames, counts, times = (data[name] if name in data else None for name in ("frames", "counts", "times"))
            return FeaturePart(
                int(data["first"]),
                data["values"],
                data["reasons"].tobytes().decode().split("\0") if n else [],
                {name[7:]: data[name] for name in data.files if name.startswith("detail_")},
                frames,
                counts,
                times,
                data["made_from"].tobytes().decode().split("\0") if n else [],
            )

    def read_origins(self, name: str) -> tuple[list[str], list[FileFacts]]:
        """What the rows of a part were made from, and the media files that were read for it.

        Raises:
            UserError: as for `read`.
        """
        with self._opened(name) as data:
            files = [FileFacts(*file) for file in json.loads(data["files"].tobytes())]
            return data["made_from"].tobytes().decode().split("\0"), files

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        path = self.folder / name
        try:
            with np.load(path, allow_pickle=False) as data:
                if data["fingerprint"].tobytes().decode() != self.fingerprint:
                    raise UserError(
                        f"{path}: extracted with different options than the parts next to it; delete it and run the "
                        "same command again"
                    )
                yield data
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path}: damaged ({error}); delete it and run the same command again") from None


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)  # numpy's own string type drops trailing zeros


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "", word: str = "now") -> str:
    """The first difference between two nested mappings as text: "key OLD, now NEW"."""
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if a != b:
                return difference(a, b, f"{prefix}{key}.", word)
        elif a != b:
            return f"{prefix}{key} {_short(a)}, {word} {_short(b)}"
    return "no difference"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:28] + "…" + text[-28:]


def divide(manifest: Manifest, size: int) -> list[range]:
    """Divides the rows into parts of about `size` rows, of which the first are smaller.

    Consecutive utterances of one file stay together unless there are 4 * `size` of them.
    """
    parts: list[range] = []
    first, wanted = 0, size // _FIRST or size
    for row in range(1, len(manifest.utterances) + 1):
        if row == len(manifest.utterances):
            parts.append(range(first, row))
        elif row - first >= wanted:
            before, after = manifest.utterances[row - 1], manifest.utterances[row]
            same_file = before.media is not None and before.media == after.media
            if not same_file or row - first >= 4 * size:
                parts.append(range(first, row))
                first, wanted = row, min(size, 2 * wanted)
    return parts


def shard_of(parts: Sequence[range], shard: tuple[int, int]) -> list[int]:
    """Indices of the parts of shard i of n (counted from 1): shards do not overlap, and differ by at most one part."""
    number, of = shard
    return list(range(len(parts)))[number - 1 :: of]
