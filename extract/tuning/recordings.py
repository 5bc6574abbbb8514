"""The labelled utterances of a corpus as audio that a speech model is fine-tuned on: decoded once, kept in a file.

They are cut and resampled as `erc-toolkit extract` does, so that the model hears in training what it hears later.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ...toolkit.base.cores import core_count
from ...toolkit.base.errors import UserError
from ...toolkit.base.processes import Failure, run_tasks
from ...toolkit.base.progress import Stages
from ...toolkit.manifest import SPLITS, Manifest, load_manifest
from ..encoders.audio.resampling import resample
from ..encoders.base import AudioSpan, Samples
from ..run.media.requests import MediaRequest, Span, Task
from ..run.media.worker import decoded
from ..run.rows.origins import lasts, mask_of, source_of
from .texts import hold_out

_TIME_LIMIT_S = 1800.0  # for decoding one file
_SHORTEST_S = 0.1
_HEARD = "audio"  # what a file's decoding is asked for: the track's own rate
_REQUEST = MediaRequest({_HEARD: Samples(rate=None)}, "haar", None, 1.0, 0.0, 1, _TIME_LIMIT_S)


@dataclass(frozen=True)
class Clips:
    """The labelled utterances whose audio could be decoded.

    Attributes:
        corpus, labels: of the manifest.
        splits: for "train" and "val", int64 (N,) label indices.
        held_out: the training dialogues that validate, if the corpus has no validation split.
        skipped: number of utterances that were left out, by reason.
        cut: number of utterances that were longer than the model gets.
        sha256: of all samples and labels.
    """

    corpus: str
    labels: list[str]
    splits: dict[str, np.ndarray]
    held_out: list[str]
    skipped: dict[str, int]
    cut: int
    sha256: str
    _places: dict[str, list[tuple[int, int]]] = field(repr=False)
    _samples: np.ndarray = field(repr=False)

    def samples(self, split: str, row: int) -> np.ndarray:
        """An utterance's samples, float32 (n,), mono."""
        start, stop = self._places[split][row]
        return np.array(self._samples[start:stop])


@dataclass(frozen=True)
class _Job:
    """The utterances of one file, and the rate of the samples that are wanted in Hz."""

    task: Task
    rate: int


def read_clips(
    path: Path, rate: int, most_seconds: float, folder: Path | None, progress: Stages, workers: int = 0
) -> Clips:
    """Decodes the labelled utterances of the training and validation split.

    An utterance that cannot be used is left out, and counted with the reason. Without a validation split, training
    dialogues are held out for it as `erc-toolkit train` does.

    Args:
        path: the manifest.
        rate: sampling rate in Hz.
        most_seconds: what is longer is cut.
        folder: where the samples are kept while they are needed, in a file without a name; None for the system's.
        progress: shows how many are done.
        workers: number of processes that decode; 0 for one per core.

    Raises:
        UserError: no manifest, or not enough utterances with label and audio.
    """
    manifest = load_manifest(path)
    split_of, held = _divided(path, manifest)
    rows = [
        (row, split)
        for row, u in enumerate(manifest.utterances)
        if u.label is not None and (split := split_of(u)) != "test"
    ]
    reasons: Counter[str] = Counter()
    places: dict[int, tuple[int, int]] = {}
    longest, cut = round(most_seconds * rate), 0
    digest = hashlib.sha256()
    hashes: dict[int, str] = {}
    jobs = list(_jobs(manifest, [row for row, _ in rows], rate, reasons))
    bar = progress.stage("audio", sum(len(job.task.spans) for job in jobs))
    with tempfile.TemporaryFile(dir=folder) as file:
        length = 0
        for job, found in run_tasks(
            jobs,
            decode,
            workers or core_count(),
            time_limit=_TIME_LIMIT_S + 60,
            weight=lambda one: len(one.task.spans),
            threads=1,
        ):
            if isinstance(found, Failure):
                found = [f"its worker failed: {found.reason}"] * len(job.task.spans)
            for span, one in zip(job.task.spans, found, strict=True):
                if isinstance(one, str):
                    reasons[one.partition(":")[0]] += 1
                    continue
                cut += len(one) > longest
                kept = np.ascontiguousarray(one[:longest])
                file.write(kept.tobytes())
                places[span.row] = length, length + len(kept)
                hashes[span.row] = hashlib.sha256(kept.tobytes()).hexdigest()
                length += len(kept)
            bar.advance(len(job.task.spans))
        samples = _mapped(file, length)
    numbers, splits, where = {label: i for i, label in enumerate(manifest.labels)}, {}, {}
    for split in ("train", "val"):
        own = [row for row, its in rows if its == split and row in places]
        if not own:
            raise UserError(f"{path}: the split {split!r} has no utterance with label and audio{_most_common(reasons)}")
        labels = [numbers[manifest.utterances[row].label or ""] for row in own]
        splits[split], where[split] = np.array(labels, np.int64), [places[row] for row in own]
        digest.update("".join(hashes[row] for row in own).encode() + splits[split].tobytes())
    if len(set(splits["train"].tolist())) < 2:
        raise UserError(f"{path}: all training utterances have the same label; at least two labels are needed")
    skipped = dict(sorted(reasons.items()))
    return Clips(manifest.corpus, manifest.labels, splits, held, skipped, cut, digest.hexdigest(), where, samples)


def _mapped(file: IO[bytes], length: int) -> np.ndarray:
    """The samples of a file, read as they are needed; the map outlives the file's name and handle."""
    if not length:
        return np.zeros(0, np.float32)
    file.flush()
    return np.memmap(file, np.float32, "r", shape=(length,))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _most_common(reasons: Counter[str]) -> str:
    return f" ({reasons.most_common(1)[0][0]})" if reasons else ""


def _divided(path: Path, manifest: Manifest):
    """A function from an utterance to its split, and the held-out dialogues."""
    labelled = [u for u in manifest.utterances if u.label is not None]
    if any(u.split == "val" for u in labelled):
        return (lambda u: u.split), []
    dialogues = list(dict.fromkeys(u.dialogue for u in labelled if u.split == SPLITS[0]))
    held = hold_out(path, dialogues)
    return (lambda u: "val" if u.split == "train" and u.dialogue in held else u.split), held


def _jobs(manifest: Manifest, rows: Sequence[int], rate: int, reasons: Counter[str]) -> Iterator[_Job]:
    """The files of some utterances, each once; the reasons of those without one are counted."""
    found: dict[str, list[Span]] = defaultdict(list)
    for row in rows:
        u = manifest.utterances[row]
        path, start, end = source_of(u, "audio")
        if (reason := mask_of(u, "audio")) or path is None:
            reasons[reason.partition(":")[0]] += 1
        else:
            own = lasts(u) if path == u.audio else None
            found[path].append(Span(row, start, end, None, [_HEARD], channel=u.audio_channel, lasts=own))
    for path, spans in found.items():
        yield _Job(Task(manifest.path(path), spans), rate)


def decode(job: _Job) -> list[np.ndarray | str]:
    """Of each span of a file: its samples, float32 (n,), at the job's rate, or the reason why it has none."""
    found: list[np.ndarray | str] = []
    for one in decoded(job.task, _REQUEST):
        taken = one.taken[_HEARD]
        if not isinstance(taken.given, AudioSpan):
            found.append(taken.reason)
        elif len(taken.given.samples) < _SHORTEST_S * taken.given.rate:
            found.append(f"shorter than {_SHORTEST_S:g} s")
        else:
            found.append(resample(taken.given, job.rate).samples)
    return found
