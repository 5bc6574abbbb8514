"""The intermediate form between another project's file and a store: utterances, features, and problems found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ... import manifests
from ..base.disk import disk_faults
from ..base.errors import UserError
from ..base.files import require_space
from ..base.hashes import file_sha256, text_sha256
from ..base.words import counted
from ..manifest import Utterance
from ..store import FeaturePart, FeatureStore, StoreWriter
from ..store.frames import finite_frames, without_padding

LICENCE = "that of the converted file, which it does not state"
NO_FEATURE = "no features in the file"
ZEROS = "all zeros in the file"
_MOST_LINES = 20  # about one reason
_NO_FRAMES = np.zeros((0, 0), np.float32)


@dataclass(slots=True)
class Matrix:
    """One feature of N utterances.

    Attributes:
        values: float32 (N, D), zeros where there is a reason.
        reasons: N strings, why an utterance does not have the feature; empty where it has.
        frames: the utterances' frames, each float32 (T, width), or None if the file has no sequences.
        source: provenance: the field, its dtypes, and how it was pooled.
    """

    values: np.ndarray
    reasons: list[str]
    frames: list[np.ndarray] | None = None
    source: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Pack:
    """The content of another project's file.

    Attributes:
        layout: name of the layout that was recognised.
        corpus: name of the corpus.
        labels: names in index order.
        utterances: in the file's order, those of a dialogue contiguous.
        features: "modality/name" to its matrix.
        problems: one line each, starting with the dialogue or file concerned.
        attrs: what `export` needs to reproduce the file: `dialogue_keys` "int" or "str", `split_order`.
    """

    layout: str
    corpus: str
    labels: list[str]
    utterances: list[Utterance]
    features: dict[str, Matrix] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    attrs: dict[str, object] = field(default_factory=dict)


def known_labels(corpus: str, classes: int) -> list[str]:
    """A corpus's label names in the index order of its published pickles; "label-0", … if they are not known."""
    names = manifests.load("pickles.yaml")["labels"].get(corpus, [])
    return list(names) if classes <= len(names) else [f"label-{i}" for i in range(classes)]


def matrix_of(
    rows: Sequence[object],
    names: Sequence[str],
    dialogues: Sequence[str],
    missing: Mapping[int, str],
    keep_zeros: bool,
    what: str,
    problems: list[str],
) -> Matrix:
    """Checks utterances' vectors and combines them; those that cannot be used are masked with the reason.

    Args:
        rows: N vectors from the file (arrays, or lists of numbers); None for missing ones.
        names: N utterance ids.
        dialogues: N dialogue ids, for `problems`.
        missing: row index to the reason why the file has no vector there.
        keep_zeros: treat a zero vector as a feature, not as the customary marker of a missing modality.
        what: the field of the file, for messages.
        problems: a line is appended for each dialogue and kind of problem.
    """
    vectors: list[np.ndarray | None] = []
    reasons = [missing.get(i, "") for i in range(len(rows))]
    kinds: Counter[str] = Counter()
    for i, row in enumerate(rows):
        vector = None
        if not reasons[i]:
            vector = numeric_vector(row)
            if vector is None:
                reasons[i] = "not a vector of numbers"
            else:
                kinds[vector.dtype.name] += 1
        vectors.append(vector)
    widths = Counter(len(v) for v in vectors if v is not None)
    width = widths.most_common(1)[0][0] if widths else 0
    if width == 0:
        return Matrix(np.zeros((len(rows), 0), np.float32), reasons)
    values = np.zeros((len(rows), width), np.float32)
    rounded: Counter[str] = Counter()
    for i, vector in enumerate(vectors):
        if vector is None:
            continue
        if len(vector) != width:
            reasons[i] = f"wrong width: {len(vector)} instead of {width}"
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            values[i] = vector
        if not np.isfinite(values[i]).all():
            reasons[i] = (
                "NaN or infinity"
                if not np.isfinite(np.asarray(vector, np.float64)).all()
                else "values outside the range of float32"
            )
        elif not keep_zeros and not values[i].any():
            reasons[i] = ZEROS
        elif vector.dtype != np.float32 and (values[i] != vector).any():
            rounded[vector.dtype.name] += 1
    values[[bool(r) for r in reasons]] = 0
    report(problems, what, dialogues, [r if r != ZEROS else "" for r in reasons])
    if zeros := sum(r == ZEROS for r in reasons):
        problems.append(
            f"{what}: {counted(zeros, 'utterance')} with only zeros, the customary marker of a missing modality; masked"
        )
    for name, count in rounded.items():
        problems.append(f"{what}: {counted(count, 'utterance')} rounded from {name} to float32")
    return Matrix(values, reasons, source={"dtypes": dict(kinds)})


def numeric_vector(value: object) -> np.ndarray | None:
    """`value` as a vector (D,) of floats or integers, or None if it is not one."""
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            value = value.tolist()
        elif value.dtype.kind not in "fiu":
            return None
        else:
            value = value.view(np.ndarray)
            return value.reshape(-1) if value.ndim == 1 or (value.ndim == 2 and value.shape[0] == 1) else None
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(type(x) in (int, float) or isinstance(x, np.number) for x in value)
    ):
        return None
    try:
        return np.array([float(x) for x in value])
    except OverflowError:
        return None


@dataclass(slots=True)
class _Pooled:
    """An utterance's vector, as `matrix_of` expects it, and its frames, float32 (T, width), (0, 0) for a plain vector.

    `reason` says why there is no vector; `dropped` counts frames with NaN or infinity, `padding` those of padding.
    """

    vector: object
    frames: np.ndarray
    reason: str = ""
    dropped: int = 0
    padding: int = 0


def _pooled(value: object, length: int | None, padded: bool) -> _Pooled:
    """Averages an utterance's frames; anything but an array (T, width) is passed on.

    Args:
        value: a vector, or an array (T, width) of frames, whose mean is the vector (a single frame is used as is).
        length: number of frames that are not padding; None means all.
        padded: if `length` is None, frames of zeros at both ends are padding.
    """
    if not (isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiu"):
        return _Pooled(value, _NO_FRAMES)
    value = value[:length].view(np.ndarray)
    every = len(value)
    if not value.size:
        return _Pooled(None, _NO_FRAMES, "no frames in the file")
    if padded and length is None:
        value = value[without_padding(value)]
    padding = every - len(value)
    whole = finite_frames(value)
    if not whole.any():
        if len(value) == 1:  # a vector; `matrix_of` finds out what is wrong with it
            return _Pooled(value[0], _NO_FRAMES)
        return _Pooled(None, _NO_FRAMES, "NaN or infinity in every frame")
    dropped = len(value) - int(whole.sum())
    value = value[whole] if dropped else value
    frames = value.astype(np.float32)
    vector = value[0] if len(value) == 1 else value.mean(0, dtype=np.float64).astype(np.float32)
    return _Pooled(vector, frames, dropped=dropped, padding=padding)


def add_rows(
    pack: Pack,
    name: str,
    rows: Sequence[object],
    missing: Mapping[int, str],
    keep_zeros: bool,
    *,
    part: str | None = None,
    lengths: Sequence[int | None] | None = None,
    padded: bool = False,
) -> None:
    """Adds a feature to a pack from what the file has for each utterance: a vector, or an array (T, width) of frames.

    A frame with NaN or infinity is left out, with a note; the utterance is masked if none remains.

    Args:
        pack: a pack with N utterances.
        name: "modality/name" of the feature.
        rows: N vectors or arrays; None for missing ones.
        missing: row index to the reason why the file has nothing there.
        keep_zeros: as for `matrix_of`.
        part: the field of the file, for messages; the feature's name if it has none.
        lengths: for each row the number of frames that are not padding, or None.
        padded: where there is no length, frames of zeros at both ends are padding.
    """
    part = part or name
    found = [_pooled(row, lengths[i] if lengths else None, padded and not keep_zeros) for i, row in enumerate(rows)]
    missing = {i: p.reason for i, p in enumerate(found) if p.reason} | dict(missing)
    ids, dialogues = [u.id for u in pack.utterances], [u.dialogue for u in pack.utterances]
    matrix = matrix_of([p.vector for p in found], ids, dialogues, missing, keep_zeros, part, pack.problems)
    used = [p for i, p in enumerate(found) if not matrix.reasons[i]]
    for count, what in (
        ([p.dropped for p in used], "with NaN or infinity left out; their other frames are used"),
        ([p.padding for p in used], "of zeros at the beginning or end, which is padding, left out"),
    ):
        if frames := sum(count):
            utterances = counted(sum(map(bool, count)), "utterance")
            pack.problems.append(f"{part}: {counted(frames, 'frame')} of {utterances} {what}")
    if matrix.values.shape[1] == 0:
        pack.problems.append(f"{part}: no usable vector; the feature is skipped")
        return
    matrix.source["part"] = part
    _keep_frames(matrix, [p.frames for p in found])
    pack.features[name] = matrix


def _keep_frames(matrix: Matrix, frames: Sequence[np.ndarray]) -> None:
    """Stores utterances' frames in a matrix if any utterance has more than one."""
    if all(len(f) < 2 for f in frames):
        return
    width = matrix.values.shape[1]
    matrix.frames = [
        f if len(f) and not r else np.zeros((0, width), np.float32) if r else v[None]
        for f, r, v in zip(frames, matrix.reasons, matrix.values, strict=True)
    ]
    matrix.source["pooling"] = "mean over the frames"


def entry_length(entry: object) -> int | None:
    """The length of a dialogue's list or array; None if it is neither. Does not look into nested lists."""
    if isinstance(entry, np.ndarray):
        return len(entry) if entry.ndim else None
    return len(entry) if isinstance(entry, (list, tuple)) else None


def report(problems: list[str], what: str, dialogues: Sequence[str], reasons: Sequence[str]) -> None:
    """Appends a line to `problems` for each dialogue and reason, or for a reason alone if it is in many dialogues."""
    counts = Counter((d, r) for d, r in zip(dialogues, reasons, strict=True) if r)
    concerned = Counter(reason for _, reason in counts)
    problems += [
        f"{dialogue}: {what}: {counted(count, 'utterance')}: {reason}; masked"
        for (dialogue, reason), count in counts.items()
        if concerned[reason] <= _MOST_LINES
    ]
    for reason, places in concerned.items():
        if places > _MOST_LINES:
            total = counted(sum(n for (_, r), n in counts.items() if r == reason), "utterance")
            problems.append(f"{what}: {total} in {counted(places, 'dialogue')}: {reason}; masked")


def unique(names: Iterable[Hashable]) -> tuple[list, list]:
    """The distinct names, in order, and those that occur more than once."""
    counts = Counter(names)
    return list(counts), [name for name, n in counts.items() if n > 1]


def write_pack(pack: Pack, out: Path, command: str, files: Sequence[Path]) -> None:
    """Writes a pack as a store.

    Raises:
        UserError: the folder of `out` does not exist, or the disk is full.
    """
    sources = [_source(path) for path in files]
    rows = json.dumps(
        [[u.id, u.dialogue, u.speaker, u.text, u.label, u.split] for u in pack.utterances], ensure_ascii=False
    )
    attrs = {
        "converted_from": json.dumps(sources),
        "layout": pack.layout,
        "notes": json.dumps(pack.problems, ensure_ascii=False),
        "corpus_fingerprint": text_sha256(rows),
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in pack.attrs.items()},
    }
    with disk_faults(out), _writer(pack, out, command, attrs, len(rows)) as writer:
        for name, matrix in pack.features.items():
            modality, _, feature = name.partition("/")
            made = {
                "extractor": "converted",
                "parameters": {"layout": pack.layout, **matrix.source},
                "licence": LICENCE,
                "fingerprint": text_sha256(json.dumps([pack.layout, matrix.source, sources])),
            }
            if matrix.frames is None:
                writer.add_feature(
                    modality, feature, matrix.values, [not r for r in matrix.reasons], matrix.reasons, attrs=made
                )
            else:
                _write_sequences(writer, modality, feature, matrix, made)


def _writer(pack: Pack, out: Path, command: str, attrs: Mapping[str, object], texts: int) -> StoreWriter:
    """The store to write, for which there is space: HDF5 does not survive a failed write."""
    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder does not exist; create it first")
    size = 4 * texts + sum(
        matrix.values.nbytes + sum(frames.nbytes + 16 * len(frames) for frames in matrix.frames or ())
        for matrix in pack.features.values()
    )
    require_space(out, int(1.1 * size) + (1 + len(pack.features) << 20))
    return StoreWriter(
        out, corpus=pack.corpus, labels=pack.labels, utterances=pack.utterances, command=command, attrs=attrs
    )


def is_converted(path: Path) -> bool:
    """Whether a file is a store of `write_pack` to which nothing was added since."""
    try:
        with FeatureStore.open(path) as store:
            command = str(store.attrs.get("command", ""))
            # `reduce` adds its own command line to that of the store.
            return (
                "converted_from" in store.attrs
                and f"{command} ".startswith((" ", "erc-toolkit convert "))
                and (" && " not in command)
            )
    except (UserError, OSError):
        return False


def _write_sequences(
    writer: StoreWriter, modality: str, feature: str, matrix: Matrix, made: Mapping[str, object]
) -> None:
    width = next((f.shape[1] for f in matrix.frames if len(f)), matrix.values.shape[1])

    def parts() -> Iterable[FeaturePart]:
        for i, frames in enumerate(matrix.frames):
            yield FeaturePart(
                i,
                matrix.values[i : i + 1],
                matrix.reasons[i : i + 1],
                {},
                frames.reshape(-1, width),
                np.array([len(frames)], np.int64),
                np.full(len(frames), np.nan),
            )

    writer.add_feature_parts(modality, feature, matrix.values.shape[1], parts(), made, frame_width=width)


def _source(path: Path) -> dict[str, object]:
    """Provenance of a converted file, or of a folder's .npy files."""
    if not path.is_dir():
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
    files = sorted(path.rglob("*.npy"))
    sums = [f"{file.relative_to(path).as_posix()} {file_hash(file)}" for file in files if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    together = text_sha256("\n".join(sums).encode("utf-8", "replace").decode())
    return {"file": path.resolve().name, "files": len(sums), "bytes": size, "sha256": together}


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
