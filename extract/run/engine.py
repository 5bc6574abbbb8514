"""The extraction run: manifest in, feature store out, in parts that are saved as soon as they are done.

Worker processes decode media, compute functionals and crop faces; the text encoder runs in its own thread and the face
encoder in the main thread. Rows are divided into parts. A part is computed as a whole, so that its numbers do not
depend on earlier interruptions, and written when it is done (`extract/run/parts.py`). docs/explanation/architecture.md
follows one utterance through the run.
"""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...toolkit.base.errors import FaultError, Interrupted, UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.processes import preload
from ...toolkit.base.progress import Stages
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, write_manifest
from ...toolkit.store import FeatureStore
from ...toolkit.store.summary import unpacked
from ..encoders.selection import Options
from .assembly import assemble, parts_root
from .extractors import RunExtractor, RunExtractors
from .media_stage import run_media
from .parts import (
    ColumnNames,
    FeaturePlan,
    Job,
    PartsFolder,
    corpus_fingerprint,
    difference,
    divide,
    matrices_of,
    shard_of,
)
from .text_stage import read_texts

# A part of texts is larger than a part of media: texts are cheaper, and batches need texts of similar length.
TEXT_PARTS = 8


@dataclass
class Summary:
    """The result of a run.

    Attributes:
        utterances, dialogues: their numbers in the manifest.
        seconds: total time; `stages` has the time of each stage.
        media_seconds: duration of the audio, or of the video if that is longer.
        features: "modality/name" to (dim, present rows, reason to count).
        store: the store, or None if a shard wrote its parts only.
        notes: a line for each text model that truncated texts.
    """

    utterances: int
    dialogues: int
    seconds: float
    stages: dict[str, float]
    media_seconds: float
    features: dict[str, tuple[int, int, dict[str, int]]]
    store: Path | None
    notes: list[str] = field(default_factory=list)


def extract(
    manifest: Manifest,
    out: Path,
    options: Options,
    *,
    command: str = "",
    shard: tuple[int, int] | None = None,
    notify: Callable[[str], None] = print,
) -> Summary:
    """Extracts a manifest's features into a store at `out`, resuming the work of an earlier run.

    Features that an existing store at `out` already has are kept, and only new ones are computed.

    Args:
        manifest: the corpus.
        out: the store to write; it appears complete or not at all.
        options: what to extract.
        command: the command line, for the record.
        shard: (i, n): process shard i of n (counted from 1) and write its parts only; `merge` joins them.
        notify: called with one line per encoder and per finding about earlier work.

    Raises:
        UserError: a model that cannot be loaded, no folder to write to, unfinished work with other options at `out`, a
            full disk, a modality that no utterance has, or an interruption (the message says how to resume).
        FaultError: a worker failed on some utterances that have no known defect; everything else is done and kept.
    """
    with _room_on(out):
        return _extract(manifest, out, options, command, shard, notify)


def _extract(manifest: Manifest, out: Path, options: Options, command: str, shard, notify) -> Summary:
    began = time.perf_counter()
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if set(options.modalities) & {"audio", "visual"}:
        preload(
            "erc_toolkit.extract.run.worker",
            *(["opensmile"] if "audio" in options.modalities and options.audio_model is None else []),
        )
    extractors = RunExtractors.make(options)
    for line in extractors.lines():
        notify(line)
    stages = {"load": time.perf_counter() - began}
    root = parts_root(out)
    corpus = corpus_fingerprint(manifest)
    jobs = [
        job
        for planned in extractors.all()
        if (job := _job(manifest, out, root, planned, corpus, shard, options, notify))
    ]
    if not jobs:
        notify(f"{out}: all features are already there; nothing to do")
        return _summary(out, began, stages)
    root.mkdir(exist_ok=True)
    write_manifest(manifest, root / "manifest.jsonl")
    done = sum(len(job.parts) - len(job.todo) for job in jobs)
    if done and shard is None:
        notify(f"resuming: {done} of {counted(sum(len(job.parts) for job in jobs), 'part')} done")
    faults: list[str] = []
    with (
        extractors.arithmetic(),
        interruptible() as stop,
        Stages(options.log_json) as progress,
        ThreadPoolExecutor(1) as side,
    ):
        text = next((job for job in jobs if job.modality == "text"), None)
        media = [job for job in jobs if job.modality != "text"]
        reading = side.submit(read_texts, text, manifest, stop, progress, stages) if text else None
        try:
            if media:
                faults = run_media(media, manifest, extractors, options, stop, progress, stages)
        except BaseException:
            stop.set()  # otherwise the text thread would run to its end
            raise
        if reading is not None:
            reading.result()
    if faults:
        raise FaultError(
            f"{counted(len(faults), 'utterance')} failed for no known reason: "
            f"{'; '.join(faults[:3])}{'; …' if len(faults) > 3 else ''}. Everything else is kept in {root}; run the "
            "same command again to retry"
        )
    if stop.is_set():
        raise Interrupted(f"interrupted; finished work is kept in {root}: run the same command again to resume")
    if shard is not None:
        notify(f"shard {shard[0]}/{shard[1]} done: {root}; join the shards with erc-toolkit merge {out}")
        return Summary(
            len(manifest.utterances), _dialogues(manifest), time.perf_counter() - began, stages, 0.0, {}, None
        )
    before = time.perf_counter()
    assemble(out, [root], command)
    stages["store"] = time.perf_counter() - before
    return _summary(out, began, stages)


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def _room_on(out: Path) -> Iterator[None]:
    """Turns a full disk, wherever in the run it shows, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{out}: {error.strerror}: free space or choose another --out, then run the same command again to resume"
        ) from None


def _job(
    manifest: Manifest,
    out: Path,
    root: Path,
    planned: RunExtractor,
    corpus: str,
    shard: tuple[int, int] | None,
    options: Options,
    notify: Callable[[str], None],
) -> Job | None:
    """The work to do for an extractor, or None if the store at `out` already has its features."""
    encoder = planned.extractor
    parts = divide(manifest, options.part_size * (TEXT_PARTS if encoder.modality == "text" else 1))
    name = encoder.name.replace("/", "--")
    plan: FeaturePlan = {
        "modality": encoder.modality,
        "name": encoder.name,
        "dim": encoder.dim,
        "matrices": matrices_of(encoder),
        "corpus": corpus,
        "parts": [[part.start, part.stop] for part in parts],
        "provenance": planned.provenance,
    }
    if out.exists():
        with FeatureStore.open(out) as store:
            if store.attrs.get("corpus_fingerprint") != corpus:
                raise UserError(
                    f"{out}: has different utterances than this manifest; choose another --out or delete it"
                )
            there = [matrix for matrix in plan["matrices"] if f"{encoder.modality}/{matrix}" in store.feature_names()]
            for matrix in there:
                attrs = store.feature(f"{encoder.modality}/{matrix}").attrs
                if attrs.get("fingerprint") != json_sha256(json.loads(json.dumps(plan))):
                    old = {k: unpacked(v) for k, v in attrs.items() if k not in ("fingerprint", "options")}
                    new = json.loads(json.dumps({**plan["provenance"], **plan["matrices"][matrix]}))
                    raise UserError(
                        f"{out}: {encoder.modality}/{matrix} was extracted with {difference(old, new)}; choose another "
                        "--out"
                    )
            if there:  # stores are written as a whole, so if one matrix of an encoder is there, all of them are
                notify(f"{encoder.modality}/{', '.join(there)}: already in {out}")
                return None
    folder = PartsFolder(root / f"{encoder.modality}--{name}", plan)
    names: ColumnNames = {
        "dimension_names": list(encoder.dimension_names),
        "frame_width": encoder.frame_width,
        "frame_names": list(encoder.frame_names),
    }
    write_atomically(folder.folder / "names.json", json.dumps(names).encode())
    # Not part of the fingerprint: a model that was moved to another folder is still the same model.
    write_atomically(folder.folder / "options.json", json.dumps(planned.options).encode())
    mine = range(len(parts)) if shard is None else shard_of(parts, shard)
    return Job(planned, folder, parts, [i for i in mine if not folder.has(i)])


def _dialogues(manifest: Manifest) -> int:
    return sum(1 for _ in manifest.dialogues())


def _summary(out: Path, began: float, stages: dict[str, float]) -> Summary:
    """The summary of a finished store."""
    features, media_seconds, notes = {}, 0.0, {}
    with FeatureStore.open(out) as store:
        for name in store.feature_names():
            feature = store.feature(name)
            reasons = Counter(r.split(":")[0] for r in feature.reasons() if r)
            features[name] = (feature.dim, int(feature.present().sum()), dict(reasons.most_common()))
            details = feature.details()
            parameters: Any = unpacked(feature.attrs.get("parameters", "{}"))
            media_seconds = max(media_seconds, float(details.get("seconds", np.zeros(1)).sum()))
            if "frames" in details:
                media_seconds = max(media_seconds, float(details["frames"].sum()) / parameters["frames_per_second"])
            # The matrices of one encoder share these lines.
            notes |= dict.fromkeys(_cut_texts(feature.attrs.get("model"), parameters, details))
        return Summary(
            len(store),
            len(store.dialogue_ids),
            time.perf_counter() - began,
            stages,
            media_seconds,
            features,
            out,
            list(notes),
        )


def _cut_texts(model: object, parameters: Mapping[str, Any], details: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Notes on how many texts were too long for the model, and how many were read with less context for that reason."""
    cut, less = (int(np.count_nonzero(details.get(name, ()))) for name in ("tokens_cut", "context_cut"))
    if (cut or less) and "max_tokens" in parameters:
        most = parameters["max_tokens"]
        if cut:
            yield f"{model}: {counted(cut, 'transcript')} truncated to {most} tokens"
        if less:
            yield f"{model}: {counted(less, 'utterance')} read with less context than requested, to fit {most} tokens"
