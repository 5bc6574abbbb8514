"""The extraction run: manifest in, feature store out, in parts that are kept as they are done.

Worker processes decode media, compute functionals and cut out faces; the text encoder runs in a thread of its own and
the face encoder in the main thread. Rows are divided into parts; a part is computed as a whole, so that its numbers do
not depend on what was interrupted before, and written when it is done (`extract/run/parts.py`). docs/explanation/architecture.md
follows one utterance through.
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

from ...toolkit.base.errors import FaultError, UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.processes import preload
from ...toolkit.base.progress import Stages
from ...toolkit.manifest import Manifest, write_manifest
from ...toolkit.store import FeatureStore
from ...toolkit.store.summary import unpacked
from ..encoders.selection import Options
from .assembly import assemble, parts_root
from .extractors import RunExtractor, RunExtractors
from .media_stage import watch
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

# A part of texts is larger than a part of media: texts of like length must meet to be batched, and cost less.
TEXT_PARTS = 8


@dataclass
class Summary:
    """What a run gave.

    Attributes:
        utterances, dialogues: of the manifest.
        seconds: in all; `stages` where they went.
        media_seconds: of audio, or of video where that is more.
        features: "modality/name" to (dim, present, reason to count).
        store: the store, or None where a shard wrote parts alone.
        notes: what was cut from texts, a line for each way in which they were read.
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
    """Extracts a manifest's features into a store at `out`, resuming what an earlier run has done.

    Features that an existing store at `out` already has are kept, and only what is new is computed.

    Args:
        manifest: the corpus.
        out: the store to write; it appears complete or not at all.
        options: what to extract.
        command: the command line, for the record.
        shard: (i, n): do the i-th of n shares (from 1) and write parts alone; `merge` joins them.
        notify: told a line about each encoder that is used and about what was found done.

    Raises:
        UserError: a model that cannot be had, no folder to write to, work of other options in the way, a full disk, a
            modality that no utterance has, or an interruption (the message says how to resume).
        FaultError: a worker failed on some utterances through no known defect of theirs; all else is done and kept.
    """
    with _room_on(out):
        return _extract(manifest, out, options, command, shard, notify)


def _extract(manifest: Manifest, out: Path, options: Options, command: str, shard, notify) -> Summary:
    began = time.perf_counter()
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it first")
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
        notify(f"{out}: has all of it already; nothing to do")
        return _summary(out, began, stages)
    root.mkdir(exist_ok=True)
    write_manifest(manifest, root / "manifest.jsonl")
    done = sum(len(job.parts) - len(job.todo) for job in jobs)
    if done and shard is None:
        notify(f"resuming: {done} of {sum(len(job.parts) for job in jobs)} parts are done")
    faults: list[str] = []
    with interruptible() as stop, Stages(options.log_json) as progress, ThreadPoolExecutor(1) as side:
        text = next((job for job in jobs if job.modality == "text"), None)
        media = [job for job in jobs if job.modality != "text"]
        reading = side.submit(read_texts, text, manifest, stop, progress, stages) if text else None
        try:
            if media:
                faults = watch(media, manifest, extractors, options, stop, progress, stages)
        except BaseException:
            stop.set()  # the text thread would otherwise read on to its end
            raise
        if reading is not None:
            reading.result()
    if faults:
        raise FaultError(
            f"{len(faults)} utterances could not be done, though nothing is known to be wrong with them: "
            f"{'; '.join(faults[:3])}{'; …' if len(faults) > 3 else ''}. All else is kept in {root}; run the same command "
            "again to try them again"
        )
    if stop.is_set():
        raise UserError(f"interrupted; what is done is kept in {root}: run the same command again to go on")
    if shard is not None:
        notify(f"shard {shard[0]}/{shard[1]} is done: {root}; join the shards with erc-toolkit merge {out}")
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
    """Says a full disk in one line, wherever in the run it shows."""
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
    """What is to be done for an extractor, or None where the store at `out` has it."""
    encoder = planned.extractor
    parts = divide(manifest, options.part_size * (TEXT_PARTS if encoder.modality == "text" else 1))
    name = encoder.name.replace("/", "--")
    made: FeaturePlan = {
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
                raise UserError(f"{out}: holds other utterances than this manifest; choose another --out or delete it")
            there = [matrix for matrix in made["matrices"] if f"{encoder.modality}/{matrix}" in store.feature_names()]
            for matrix in there:
                had = store.feature(f"{encoder.modality}/{matrix}").attrs
                if had.get("fingerprint") != json_sha256(json.loads(json.dumps(made))):
                    old = {k: unpacked(v) for k, v in had.items() if k not in ("fingerprint", "options")}
                    new = json.loads(json.dumps({**made["provenance"], **made["matrices"][matrix]}))
                    raise UserError(
                        f"{out}: has {encoder.modality}/{matrix} made with {difference(old, new)}; choose another --out"
                    )
            if there:  # a store is written whole: one matrix of an encoder is there with all the others
                notify(f"{encoder.modality}/{', '.join(there)}: is in {out} already")
                return None
    folder = PartsFolder(root / f"{encoder.modality}--{name}", made)
    names: ColumnNames = {
        "dimension_names": list(encoder.dimension_names),
        "frame_width": encoder.frame_width,
        "frame_names": list(encoder.frame_names),
    }
    write_atomically(folder.folder / "names.json", json.dumps(names).encode())
    # Apart from what makes the fingerprint: a model that was moved to another folder is the same model.
    write_atomically(folder.folder / "options.json", json.dumps(planned.options).encode())
    mine = range(len(parts)) if shard is None else shard_of(parts, shard)
    return Job(planned, folder, parts, [i for i in mine if not folder.has(i)])


def _dialogues(manifest: Manifest) -> int:
    return sum(1 for _ in manifest.dialogues())


def _summary(out: Path, began: float, stages: dict[str, float]) -> Summary:
    """Counts what the finished store holds."""
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
            notes |= dict.fromkeys(
                _cut_texts(feature.attrs.get("model"), parameters, details)
            )  # matrices of one run say the same
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
    """Says how many texts were too long for the model, and how many lost context for that."""
    cut, less = (np.count_nonzero(details.get(name, ())) for name in ("tokens_cut", "context_cut"))
    if (cut or less) and "max_tokens" in parameters:
        most = parameters["max_tokens"]
        if cut:
            yield f"{model}: {cut} transcripts cut, they exceed {most} tokens"
        if less:
            yield f"{model}: {less} utterances read with less context than asked for, it exceeds {most} tokens"
