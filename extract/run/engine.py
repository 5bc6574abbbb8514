"""The extraction run: manifest in, feature store out, in parts that are saved as soon as they are done.

Worker processes decode media, compute functionals and crop faces; the text encoder runs in its own thread and the face
encoder in the main thread. Rows are divided into parts. A part is computed as a whole, so that its numbers do not
depend on earlier interruptions, and written when it is done (`extract/run/rows/parts.py`).
docs/explanation/architecture.md follows one utterance through the run.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...toolkit.base.cluster import Cluster
from ...toolkit.base.disk import disk_faults
from ...toolkit.base.errors import FaultError, Interrupted, UserError
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.lock import locked
from ...toolkit.base.processes import preload
from ...toolkit.base.progress import Stages
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, write_manifest
from ...toolkit.store import FeatureStore
from ...toolkit.store.summary import unpacked
from ..encoders.kinds import requests_of
from ..encoders.selection import WITHOUT_NETWORK, Options, built_in_extractor
from .assembly import assemble, finished_job, parts_root
from .budget import budget, cores_of_run
from .carried import Carried, carry
from .costs import Costs
from .described import SOURCE, check_shard, has_any, implicit, is_described, sentences_of
from .extractors import RunExtractor, RunExtractors
from .jobs import Corpus, Job, make_job, matrices_there, plan_of, record_job
from .media_stage import run_media
from .remote.compute import RemoteParts
from .rows.earlier import check_crops, earlier_store, make_crops
from .text_stage import read_texts


@dataclass
class Summary:
    """The result of a run.

    Attributes:
        utterances, dialogues: their numbers in the manifest.
        seconds: total time.
        costs: the time of each stage, and of each part of the work.
        media_seconds: duration of the audio, or of the video if that is longer.
        features: "modality/name" to (dim, present rows, reason to count).
        store: the store, or None if a shard wrote its parts only.
        notes: a line for each text model that truncated texts, and on utterances whose worker failed.
    """

    utterances: int
    dialogues: int
    seconds: float
    costs: Costs
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
    strict: bool = False,
    overwrite: bool = False,
    other_corpus: bool = False,
    alone: bool = False,
    notify: Callable[[str], None] = print,
    built: Callable[[Sequence[RunExtractor]], object] = lambda extractors: None,
    cluster: Cluster | None = None,
) -> Summary:
    """Extracts a manifest's features into a store at `out`, continuing the work of earlier runs.

    Rows of an existing store at `out`, and of unfinished work, are kept if what they were made from is still the same;
    new and changed ones are computed, and those of utterances that went away are left out. Features of the store that
    are not asked for are kept as far as they still belong to the utterances.

    Args:
        manifest: the corpus.
        out: the store to write; it appears complete or not at all.
        options: what to extract.
        command: the command line, for the record.
        shard: (i, n): process shard i of n (counted from 1) and write its parts only; `merge` joins them.
        strict: fail if a worker failed on an utterance, instead of masking it.
        overwrite: ignore what is at `out`, and replace it.
        other_corpus: the store may be of a corpus that has no utterance in common with this one.
        alone: extract each utterance by itself, so that no other affects the last bits of its features, which are those
            of a stream; slower.
        notify: called with one line per encoder and per finding about earlier work.
        built: called with the extractors once they are loaded.
        cluster: whose nodes compute the parts; None for this machine.

    Raises:
        UserError: a model that cannot be loaded, no folder to write to, unfinished work with other options at `out`, a
            full disk, a modality that no utterance has, or an interruption (the message says how to resume).
        FaultError: with `strict`, a worker failed on some utterances; everything else is done and kept.
    """
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    # Shards may work side by side, also in the same folder of parts.
    held = out if shard is None else out.with_name(f"{out.name}.shard-{shard[0]}-of-{shard[1]}")
    with disk_faults(out), locked(held, "extract"), ExitStack() as stack:
        if options.save_crops is not None:
            check_crops(options.save_crops, [manifest.root], overwrite)
        if overwrite and parts_root(out).exists():
            shutil.rmtree(parts_root(out))
        old = None if overwrite else stack.enter_context(earlier_store(out, manifest, other_corpus, shard))
        remote = None
        if cluster is not None:
            remote = stack.enter_context(RemoteParts(cluster, options, alone, notify))
        return _extract(manifest, out, old, options, command, shard, strict, alone, notify, built, remote)


def _extract(
    manifest: Manifest,
    out: Path,
    old: FeatureStore | None,
    options: Options,
    command: str,
    shard: tuple[int, int] | None,
    strict: bool,
    alone: bool,
    notify: Callable[[str], None],
    built: Callable[[Sequence[RunExtractor]], object],
    remote: RemoteParts | None,
) -> Summary:
    began = time.perf_counter()
    requests = requests_of(options)
    if remote is None and any(request.modality != "text" for request in requests):
        smile = any(built_in_extractor(one.options, one.modality) in WITHOUT_NETWORK for one in requests)
        preload("erc_toolkit.extract.run.media.worker", *(["opensmile"] if smile else []))
    extractors = RunExtractors.make(options, alone) if remote is None else remote.loaded()
    built(extractors.extractors)
    for line in extractors.lines():
        notify(line)
    costs = Costs({"load": time.perf_counter() - began})
    root, corpus = parts_root(out), Corpus.of(manifest, options.check_content)
    described = [one for one in extractors.all() if is_described(one)]
    plain = [one for one in extractors.all() if not is_described(one)]
    there = set(root.iterdir()) if root.is_dir() else set()

    def describe() -> list[Job]:
        """The jobs of the texts that are read with a sentence about the voice."""
        assert prosody is not None
        sentences = sentences_of(prosody, manifest)
        return [make_job(corpus, old, root, one, options.part_size, shard, sentences) for one in described]

    try:
        jobs = [make_job(corpus, old, root, one, options.part_size, shard) for one in plain]
        prosody = next((job for job in jobs if job.key == SOURCE), None)
        if described and prosody is not None:
            check_shard(prosody, shard)
            if prosody.complete:
                jobs, described = jobs + describe(), []
        carried, as_it_is = _compare(jobs, described, corpus, old, notify)
    except UserError:
        if shard is None:  # other shards may be about to write there
            _remove_new(root, there)
        raise
    if as_it_is and shard is None:
        notify(f"{out}: all features are already there; nothing to do")
        _remove_empty(root)
        return _summary(out, began, costs)
    if options.save_crops is not None:
        make_crops(options.save_crops)
    root.mkdir(exist_ok=True)
    write_manifest(manifest, root / "manifest.jsonl")
    for job in jobs:
        record_job(job, corpus, shard)
    parts = sum(len(job.parts) for job in jobs)
    if shard is None and (done := sum(job.folder.has(name) for job in jobs for name in job.names)):
        notify(f"resuming: {done} of {counted(parts, 'part')} done")
    faults: list[str] = []
    with (
        extractors.arithmetic(),
        budget(cores_of_run(extractors, options.workers)) as cores,
        interruptible() as stop,
        Stages(options.log_json) as progress,
        ThreadPoolExecutor(1) as side,
    ):
        texts = [job for job in jobs if job.modality == "text" and job.todo]
        media = [job for job in jobs if job.modality != "text" and job.todo]
        reading = None
        if texts and remote is None:
            reading = side.submit(read_texts, texts, manifest, stop, progress, costs, cores.texts)
        try:
            if remote is not None and (texts or media):
                faults = remote.compute([*media, *texts], extractors, corpus, stop, progress, costs, strict)
            elif media:
                faults = run_media(media, corpus, extractors, options, stop, progress, costs, strict, cores.media)
        except BaseException:
            stop.set()  # otherwise the text thread would run to its end
            raise
        if reading is not None:
            reading.result()
        if described and not stop.is_set():
            late = describe()
            for job in late:
                record_job(job, corpus, shard)
                if job.unchanged and old is not None:  # the audio was read again, and is spoken as before
                    carried += [Carried(old.feature(name)) for name in matrices_there(old, job.folder.plan)]
            todo = [job for job in late if job.todo]
            if remote is None:
                read_texts(todo, manifest, stop, progress, costs, cores.texts)
            elif todo:
                remote.compute(todo, extractors, corpus, stop, progress, costs, strict)
            jobs += late
    failed = ""
    if faults:
        some = f"{'; '.join(faults[:3])}{'; …' if len(faults) > 3 else ''}"
        failed = f"{counted(len(faults), 'utterance')} failed for no known reason: {some}"
    if failed and strict:
        raise FaultError(f"--strict: {failed}. Everything else is kept in {root}; run the same command again to retry")
    if stop.is_set():
        raise Interrupted(f"interrupted; finished work is kept in {root}: run the same command again to resume")
    if shard is not None:
        notify(f"shard {shard[0]}/{shard[1]} done: {root}; join the shards with erc-toolkit merge {out}")
        return Summary(
            len(manifest.utterances), _dialogues(manifest), time.perf_counter() - began, costs, 0.0, {}, None
        )
    before = time.perf_counter()
    if (extra := implicit(jobs)) is not None and not has_any(extra):
        notify(f"{SOURCE}: no utterance has audio, so that no text is described")
        jobs.remove(extra)
    assemble(out, manifest, [finished_job(job, corpus) for job in jobs if not job.unchanged], carried, old, command)
    shutil.rmtree(root)
    costs.stages["store"] = time.perf_counter() - before
    summary = _summary(out, began, costs)
    if failed:
        summary.notes.append(f"{failed}; masked. The same command tries them again; --strict makes this an error")
    return summary


def _compare(
    jobs: list[Job],
    described: list[RunExtractor],
    corpus: Corpus,
    old: FeatureStore | None,
    notify: Callable[[str], None],
) -> tuple[list[Carried], bool]:
    """What is kept of an earlier store, with a line on each feature, and whether nothing at all has to be written.

    Args:
        jobs: the features of the run.
        described: those of which it is not known yet what their rows are made from.
        corpus, old: of the run.
        notify: called with the lines.
    """
    if old is None:
        return [], False
    ids, old_ids = [u.id for u in corpus.manifest.utterances], frozenset(old.column("id").tolist())
    extracted: dict[str, bool] = {}
    carried: list[Carried] = []
    for one in described:
        extracted |= dict.fromkeys(matrices_there(old, plan_of(one), one.request.named), False)
    for job in jobs:
        there = matrices_there(old, job.folder.plan)
        extracted |= dict.fromkeys(there, job.unchanged)
        if job.unchanged:
            notify(f"{', '.join(there)}: already in {old.path}")
            carried += [Carried(old.feature(name)) for name in there]
        elif there:
            notify(job.describe(old_ids, ids))
            if old.feature(there[0]).made_from() is None:
                notify("  note: an earlier version did not record what its rows were made from")
    others, as_they_are = carry(old, corpus, extracted, notify)
    same_rows = old.attrs.get("corpus_fingerprint") == corpus.fingerprint
    nothing_new = not described and all(job.unchanged for job in jobs)
    return carried + others, same_rows and as_they_are and nothing_new


def _remove_empty(root: Path) -> None:
    """Removes the folder of parts if no part is in it."""
    if root.is_dir() and not any(root.glob("*/*.npz")):
        shutil.rmtree(root)


def _remove_new(root: Path, there: Collection[Path]) -> None:
    """Removes what a refused run has put into the folder of parts, so that the next one may have other options."""
    for folder in set(root.iterdir()) - set(there) if root.is_dir() else ():
        shutil.rmtree(folder)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def _dialogues(manifest: Manifest) -> int:
    return sum(1 for _ in manifest.dialogues())


def _summary(out: Path, began: float, costs: Costs) -> Summary:
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
            costs,
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
