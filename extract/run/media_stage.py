"""The media stage of a run: sends files to workers, their results to the encoders, and rows to disk.

Worker processes decode, compute functionals and crop faces; encoders that batch over utterances (face crops, speech
models) run in this process on a whole part at a time, while the workers continue with the next parts.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...toolkit.base.cores import core_count
from ...toolkit.base.files import write_atomically
from ...toolkit.base.processes import Failure, run_tasks
from ...toolkit.base.progress import Stages
from ...toolkit.manifest import Manifest
from ..encoders.base import Samples
from ..encoders.selection import Options
from ..faces.given import GivenFace
from .extractors import RunExtractors
from .jobs import Corpus, Job
from .origins import UNKNOWN, lasts, mask_of, media_key, source_of
from .parts import Rows
from .requests import MediaRequest, Span, Task
from .worker import UtteranceMedia, process, set_up

FAILED = "its worker failed"


def run_media(
    jobs: list[Job],
    corpus: Corpus,
    extractors: RunExtractors,
    options: Options,
    stop: threading.Event,
    progress: Stages,
    stages: dict[str, float],
    strict: bool,
) -> list[str]:
    """Runs the jobs that need media, until all parts are done or `stop` is set.

    Utterances that failed for no known reason are masked, and computed again by the next run; if `strict`, the parts
    that contain them are not written.

    Returns:
        These utterances, and what happened. The stage's time, and that of the encoders in this process, are added to
        `stages`.
    """
    began = time.perf_counter()
    manifest, files_known = corpus.manifest, corpus.files
    audio = next((job for job in jobs if job.modality == "audio"), None)
    visual = next((job for job in jobs if job.modality == "visual"), None)
    parts = jobs[0].parts
    todo = sorted({index for job in jobs for index in job.todo})
    bar = progress.stage("media", sum(len(part) for part in parts))
    bar.resume(sum(len(part) for i, part in enumerate(parts) if i not in set(todo)))
    open_parts: dict[int, _Part] = {}
    faults: list[str] = []
    encoding = 0.0

    def tasks() -> Iterator[tuple[int, Task | None, MediaRequest]]:
        for index in todo:
            if stop.is_set():
                return
            here = [job for job in (audio, visual) if job is not None and index in job.todo]
            part = _Part({job.modality: job.begin(index) for job in here})
            planned = list(_plan(manifest, parts[index], part.rows))
            part.waiting = len(planned)
            open_parts[index] = part
            request = replace(extractors.request(audio in here, visual in here), decoding_threads=threads)
            yield from ((index, task, request) for task in planned)
            if not planned:
                yield index, None, request

    workers = options.workers or core_count()
    # One worker per core, unless there are fewer files than cores, as in `predict`.
    threads = max(1, workers // max(1, len({u.media or u.audio for u in manifest.utterances})))
    limit = options.time_limit + 60  # decoding stops itself first, as a defect of the input; this stops a hang
    for (index, task, _), found in run_tasks(
        tasks(),
        process,
        workers,
        set_up=set_up,
        time_limit=limit,
        weight=_utterances,
        most_weight=2 * options.part_size,
    ):
        part = open_parts[index]
        if isinstance(found, Failure):
            part.faulty = True
            faults += [f"{manifest.utterances[span.row].id}: {found.reason}" for span in task.spans]
            part.found += [_failed(span, found.reason) for span in task.spans]
        else:
            part.found += found
        part.waiting -= 1
        if part.waiting <= 0:
            before = time.perf_counter()
            _fill_rows(part, audio, visual, manifest, options)
            encoding += time.perf_counter() - before
            files = {one.file for one in part.found if one.file is not None}
            files_known.learn(files)
            if not (strict and part.faulty):
                for job in (audio, visual):
                    if job is not None and job.modality in part.rows:
                        job.write(index, part.rows[job.modality], sorted(files, key=lambda file: file.content))
            del open_parts[index]
            bar.advance(len(parts[index]))
    stages["media"] = time.perf_counter() - began
    wants = audio.planned.extractor.wants if audio is not None else None
    if visual is not None or (isinstance(wants, Samples) and wants.in_workers is None):
        stages["encoders"] = encoding
    return faults


def _utterances(job: tuple[int, Task | None, MediaRequest]) -> int:
    return 1 if job[1] is None else len(job[1].spans)


@dataclass
class _Part:
    """A part in progress: the rows of each modality, and the results of its files so far."""

    rows: dict[str, Rows]
    waiting: int = 0
    found: list[UtteranceMedia] = field(default_factory=list)
    faulty: bool = False


def _plan(manifest: Manifest, part: range, rows: dict[str, Rows]) -> Iterator[Task]:
    """Groups a part's utterances by file; masks those that cannot be extracted, with the reason."""
    spans: dict[str, dict[tuple, Span]] = defaultdict(dict)
    for row in part:
        u = manifest.utterances[row]
        for modality in ("audio", "visual"):
            if modality not in rows or row not in rows[modality].todo:
                continue
            path, start, end = source_of(u, modality)
            reason = mask_of(u, modality)
            if reason or path is None:
                rows[modality].put(row, None, reason)
                rows[modality].note_origin(row, media_key(u, modality, UNKNOWN))
                continue
            old = spans[path].get((row, start, end))
            spans[path][row, start, end] = Span(
                row,
                start,
                end,
                u.region,
                audio=modality == "audio" or (old is not None and old.audio),
                visual=modality == "visual",
                channel=u.audio_channel,
                lasts=lasts(u) if path == u.audio else None,
                face=GivenFace.of(u.speaker_face),
            )
    for path, group in spans.items():
        yield Task(manifest.path(path), list(group.values()))


def _failed(span: Span, reason: str) -> UtteranceMedia:
    why = f"{FAILED}: {reason}"
    return UtteranceMedia(span.row, audio_reason=why if span.audio else "", visual_reason=why if span.visual else "")


def _fill_rows(part: _Part, audio: Job | None, visual: Job | None, manifest: Manifest, options: Options) -> None:
    """Puts a part's results into rows. An extractor gets all utterances of the part at once, in the order of rows."""
    found = sorted(part.found, key=lambda one: one.row)
    if audio is not None and "audio" in part.rows:
        given = [one for one in found if one.audio is not None or one.audio_reason or one.span is not None]
        _put_audio(part.rows["audio"], given, audio)
        _note_origins(part.rows["audio"], given, manifest, "audio")
    if visual is not None and "visual" in part.rows:
        given = [one for one in found if one.series is not None or one.visual_reason]
        _put_visual(part.rows["visual"], given, visual)
        _note_origins(part.rows["visual"], given, manifest, "visual")
        if options.save_crops is not None:
            for one in given:
                if one.series is not None:
                    _save_crops(options.save_crops, manifest.utterances[one.row].id, one.series.images)


def _note_origins(rows: Rows, found: list[UtteranceMedia], manifest: Manifest, modality: str) -> None:
    for one in found:
        content = one.file.content if one.file is not None else UNKNOWN
        rows.note_origin(one.row, media_key(manifest.utterances[one.row], modality, content))


def _put_audio(rows: Rows, found: list[UtteranceMedia], job: Job) -> None:
    for one in found:
        rows.count(one.row, seconds=one.audio_seconds)
        if one.audio is not None:
            rows.put_result(one.row, job.planned.checked(one.audio))
        elif one.audio_reason:
            rows.put(one.row, None, one.audio_reason)
    given = [(one.row, one.span) for one in found if one.span is not None]
    if given:
        for (row, _), result in zip(given, job.planned.results([span for _, span in given]), strict=True):
            rows.put_result(row, result)


def _put_visual(rows: Rows, found: list[UtteranceMedia], job: Job) -> None:
    counted = job.planned.extractor.wants.details
    for one in found:
        rows.count(one.row, **{name: getattr(one, name) for name in counted})
        if one.series is None:
            rows.put(one.row, None, one.visual_reason)
    given = [(one.row, one.series) for one in found if one.series is not None]
    if given:
        for (row, _), result in zip(given, job.planned.results([series for _, series in given]), strict=True):
            rows.put_result(row, result)


def _save_crops(folder: Path, utterance: str, crops: np.ndarray) -> None:
    """Writes an utterance's crops side by side into a PNG file named after the utterance."""
    import cv2

    sheet = np.concatenate(list(crops[:: max(1, len(crops) // 12)][:12]), axis=1)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance).lstrip(".")
    _, png = cv2.imencode(".png", sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_atomically(folder / f"{name}.png", png.tobytes())
