"""The extraction run: manifest in, feature store out, in parts that are kept as they are done.

Worker processes decode media, compute functionals and cut out faces; the text encoder runs in a thread of its own and
the face encoder in the main thread. Rows are divided into parts; a part is computed as a whole, so that its numbers do
not depend on what was interrupted before, and written when it is done (`extract/parts.py`). docs/architecture.md
follows one utterance through.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extract.assembly import assemble, parts_root
from extract.encoders import Encoders, Options
from extract.interrupt import interruptible
from extract.parts import (
    PartsFolder, Rows, corpus_fingerprint, difference, divide, empty_rows, fingerprint, matrices_of, shard_of,
)  # fmt: skip
from extract.pool import Fault, core_count, run_tasks
from extract.worker import Found, Span, Task, Wanted, process, set_up
from toolkit.errors import FaultError, UserError
from toolkit.files import write_atomically
from toolkit.manifest import Manifest, write_manifest
from toolkit.progress import Stages
from toolkit.store import FeatureStore

# A part of texts is larger than a part of media: texts of like length must meet to be batched, and cost less.
TEXT_PARTS = 8


@dataclass
class Summary:
    """What a run gave.

    Attributes:
        utterances, dialogues: of the manifest.
        seconds: in all; `stages` where they went.
        media_seconds: of sound that was heard.
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


@dataclass
class Job:
    """One feature of a run: its encoder, its parts on disk, and which of them are to be done."""

    encoder: object
    folder: PartsFolder
    parts: list[range]
    todo: list[int]
    details: dict[str, type]

    @property
    def modality(self) -> str:
        return self.encoder.modality

    def begin(self, index: int) -> Rows:
        part = self.parts[index]
        return empty_rows(part.start, len(part), self.encoder.dim * len(matrices_of(self.encoder)), self.details)


DETAILS = {
    "audio": {"seconds": np.float64},
    "visual": {"frames": np.int32, "faces": np.int32},
    "text": {"tokens": np.int32, "tokens_cut": np.int32},
}


def extract(
    manifest: Manifest, out: Path, options: Options, *, command: str = "", shard: tuple[int, int] | None = None,
    notify: Callable[[str], None] = print,
) -> Summary:  # fmt: skip
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
    began = time.perf_counter()
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    encoders = Encoders.make(options)
    for line in encoders.lines():
        notify(line)
    stages = {"load": time.perf_counter() - began}
    root = parts_root(out)
    corpus = corpus_fingerprint(manifest)
    jobs = [job for encoder in encoders.all() if (job := _job(manifest, out, root, encoder, corpus, shard, options, notify))]
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
        reading = side.submit(_read_texts, text, manifest, stop, progress, stages) if text else None
        try:
            if media:
                faults = _watch(media, manifest, encoders, options, stop, progress, stages)
        except OSError as error:
            stop.set()
            raise UserError(f"{root}: cannot be written ({error.strerror or error}); free space or choose another --out, "
                            "then run the same command again to resume") from None  # fmt: skip
        except BaseException:
            stop.set()  # the text thread would otherwise read on to its end
            raise
        if reading is not None:
            try:
                reading.result()
            except OSError as error:
                raise UserError(f"{root}: cannot be written ({error.strerror or error}); free space or choose another "
                                "--out, then run the same command again to resume") from None  # fmt: skip
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
        return Summary(len(manifest.utterances), _dialogues(manifest), time.perf_counter() - began, stages, 0.0, {}, None)
    before = time.perf_counter()
    assemble(out, [root], command)
    stages["store"] = time.perf_counter() - before
    return _summary(out, began, stages)


def _job(manifest, out: Path, root: Path, encoder, corpus: str, shard, options: Options, notify) -> Job | None:
    """What is to be done for an encoder, or None where the store at `out` has it."""
    parts = divide(manifest, options.part_size * (TEXT_PARTS if encoder.modality == "text" else 1))
    name = encoder.name.replace("/", "--")
    made = {
        "modality": encoder.modality, "name": encoder.name, "dim": encoder.dim, "matrices": matrices_of(encoder), "corpus": corpus,
        "parts": [[part.start, part.stop] for part in parts], "provenance": encoder.provenance(),
    }  # fmt: skip
    if out.exists():
        with FeatureStore.open(out) as store:
            if store.attrs.get("corpus_fingerprint") != corpus:
                raise UserError(f"{out}: holds other utterances than this manifest; choose another --out or delete it")
            there = [matrix for matrix in made["matrices"] if f"{encoder.modality}/{matrix}" in store.feature_names()]
            for matrix in there:
                had = store.feature(f"{encoder.modality}/{matrix}").attrs
                if had.get("fingerprint") != fingerprint(json.loads(json.dumps(made))):
                    old = {k: _unpacked(v) for k, v in had.items() if k != "fingerprint"}
                    new = json.loads(json.dumps({**made["provenance"], **made["matrices"][matrix]}))
                    raise UserError(f"{out}: has {encoder.modality}/{matrix} made with {difference(old, new)}; choose another --out")
            if there:  # a store is written whole: one matrix of an encoder is there with all the others
                notify(f"{encoder.modality}/{', '.join(there)}: is in {out} already")
                return None
    folder = PartsFolder(root / f"{encoder.modality}--{name}", made)
    write_atomically(folder.folder / "names.json", json.dumps(list(getattr(encoder, "dimension_names", ()))).encode())
    mine = range(len(parts)) if shard is None else shard_of(parts, shard)
    return Job(encoder, folder, parts, [i for i in mine if not folder.has(i)], DETAILS[encoder.modality])


def _unpacked(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def _read_texts(job: Job, manifest: Manifest, stop: threading.Event, progress: Stages, stages: dict[str, float]) -> None:
    from extract.text import turns

    began = time.perf_counter()
    bar = progress.stage("text", sum(len(part) for part in job.parts))
    bar.advance(sum(len(part) for i, part in enumerate(job.parts) if i not in job.todo))
    for index in job.todo:
        if stop.is_set():
            break
        rows = job.begin(index)
        part = [manifest.utterances[row] for row in job.parts[index]]
        said = turns(manifest, job.parts[index], job.encoder.context)
        values, reasons, rows.details = job.encoder(said, bar.advance)
        for row, u, vector, reason in zip(job.parts[index], part, values, reasons):
            reason = u.mask.get("text", reason)
            rows.put(row, None if reason else vector, reason)
        job.folder.write(index, rows)
    stages["text"] = time.perf_counter() - began


def _watch(jobs: list[Job], manifest, encoders, options: Options, stop, progress: Stages, stages) -> list[str]:
    """Runs the jobs that need media; returns the faults."""
    began = time.perf_counter()
    audio = next((job for job in jobs if job.modality == "audio"), None)
    visual = next((job for job in jobs if job.modality == "visual"), None)
    parts = jobs[0].parts
    todo = sorted({index for job in jobs for index in job.todo})
    bar = progress.stage("media", sum(len(part) for part in parts))
    bar.advance(sum(len(part) for i, part in enumerate(parts) if i not in set(todo)))
    open_parts: dict[int, _Part] = {}
    faults: list[str] = []
    encoding = 0.0

    def tasks() -> Iterator[tuple[int, Task, Wanted]]:
        for index in todo:
            if stop.is_set():
                return
            here = [job for job in (audio, visual) if job is not None and index in job.todo]
            part = _Part({job.modality: job.begin(index) for job in here})
            planned = list(_plan(manifest, parts[index], part.rows))
            part.waiting = len(planned)
            open_parts[index] = part
            wanted = encoders.wanted(options, audio in here, visual in here)
            yield from ((index, task, wanted) for task in planned)
            if not planned:
                yield index, None, wanted

    workers = options.workers or core_count()
    limit = options.time_limit + 60  # ffmpeg is stopped first, which is an input's defect; this stops a hanging library
    for (index, task, _), found in run_tasks(
        tasks(), process, workers, preload="extract.worker", set_up=set_up, time_limit=limit, weight=_utterances,
        most_weight=2 * options.part_size,
    ):  # fmt: skip
        part = open_parts[index]
        if isinstance(found, Fault):
            ids = [manifest.utterances[span.row].id for span in task.spans]
            part.faulty = True
            faults += [f"{i}: {found.what}" for i in ids]
        else:
            part.found += found
        part.waiting -= 1
        if part.waiting <= 0:
            before = time.perf_counter()
            _finish(part, visual, manifest, options)
            encoding += time.perf_counter() - before
            if not part.faulty:
                for job in (audio, visual):
                    if job is not None and job.modality in part.rows:
                        job.folder.write(index, part.rows[job.modality])
            del open_parts[index]
            bar.advance(len(parts[index]))
    stages["media"] = time.perf_counter() - began
    if visual is not None:
        stages["face encoder"] = encoding
    return faults


def _utterances(job: tuple[int, Task | None, Wanted]) -> int:
    return 1 if job[1] is None else len(job[1].spans)


@dataclass
class _Part:
    """A part under way: rows of each modality, and what its files gave so far."""

    rows: dict[str, Rows]
    waiting: int = 0
    found: list[Found] = field(default_factory=list)
    faulty: bool = False


def _plan(manifest: Manifest, part: range, rows: dict[str, Rows]) -> Iterator[Task]:
    """Groups a part's utterances by the files that hold them; gives those that cannot be done their reason."""
    spans: dict[str, dict[tuple, Span]] = defaultdict(dict)
    for row in part:
        u = manifest.utterances[row]
        sources = {
            "audio": (u.audio, u.audio_start, u.audio_end) if u.audio else (u.media, u.start, u.end),
            "visual": (u.media, u.start, u.end),
        }
        for modality in ("audio", "visual"):
            if modality not in rows:
                continue
            path, start, end = sources[modality]
            reason = u.mask.get(modality) or ("no media file in the manifest" if path is None else "")
            if not reason and ((start or 0) < 0 or (end is not None and end <= (start or 0))):
                reason = f"time stamps that make no span: {start} to {end} s"
            if reason:
                rows[modality].put(row, None, reason)
                continue
            old = spans[path].get((row, start, end))
            spans[path][row, start, end] = Span(
                row, start, end, u.region, modality == "audio" or (old is not None and old.audio), modality == "visual"
            )
    for path, group in spans.items():
        yield Task(manifest.path(path), list(group.values()))


def _finish(part: _Part, visual: Job | None, manifest: Manifest, options: Options) -> None:
    """Puts a part's findings into rows. Faces of all its utterances go through the encoder together, in row order."""
    for one in part.found:
        if one.audio is not None or one.audio_reason:
            rows = part.rows["audio"]
            rows.put(one.row, one.audio, one.audio_reason)
            rows.details["seconds"][one.row - rows.first] = one.audio_seconds
    seen = sorted((one for one in part.found if one.crops is not None or one.visual_reason), key=lambda one: one.row)
    for one in seen:
        rows = part.rows["visual"]
        rows.details["frames"][one.row - rows.first] = one.frames
        rows.details["faces"][one.row - rows.first] = one.faces
        if one.crops is None:
            rows.put(one.row, None, one.visual_reason)
    shown = [one for one in seen if one.crops is not None]
    if shown:
        for one, vector in zip(shown, visual.encoder.utterances([one.crops for one in shown])):
            part.rows["visual"].put(one.row, vector, "")
            if options.save_crops is not None:
                _save_crops(options.save_crops, manifest.utterances[one.row].id, one.crops)


def _save_crops(folder: Path, utterance: str, crops: np.ndarray) -> None:
    """Writes an utterance's crops side by side into one PNG named after it."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate(list(crops[:: max(1, len(crops) // 12)][:12]), axis=1)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance).lstrip(".")
    cv2.imwrite(str(folder / f"{name}.png"), sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def _dialogues(manifest: Manifest) -> int:
    return sum(1 for _ in manifest.dialogues())


def _summary(out: Path, began: float, stages: dict[str, float]) -> Summary:
    """Counts what the finished store holds."""
    features, heard, notes = {}, 0.0, {}
    with FeatureStore.open(out) as store:
        for name in store.feature_names():
            feature = store.feature(name)
            reasons = Counter(r.split(":")[0] for r in feature.reasons() if r)
            features[name] = (feature.dim, int(feature.present().sum()), dict(reasons.most_common()))
            details = feature.details()
            heard = max(heard, float(details.get("seconds", np.zeros(1)).sum()))
            notes |= dict.fromkeys(_cut_texts(feature.attrs, details))  # matrices of one run say the same
        return Summary(len(store), len(store.dialogue_ids), time.perf_counter() - began, stages, heard, features, out, list(notes))


def _cut_texts(attrs: dict[str, object], details: dict[str, np.ndarray]) -> Iterator[str]:
    """Says how many texts were too long for the model, and how many lost context for that."""
    cut, less = (np.count_nonzero(details.get(name, ())) for name in ("tokens_cut", "context_cut"))
    if cut or less:
        most = _unpacked(attrs["parameters"])["max_tokens"]
        if cut:
            yield f"{attrs['model']}: {cut} transcripts cut, they exceed {most} tokens"
        if less:
            yield f"{attrs['model']}: {less} utterances read with less context than asked for, it exceeds {most} tokens"
