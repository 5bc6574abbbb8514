"""The media stage of a run: sends files to workers, their results to the encoders, and rows to disk.

Worker processes decode, compute functionals and crop faces; encoders that batch over utterances (face crops, speech
models) run in this process on a whole part at a time, while the workers continue with the next parts.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...toolkit.base.cores import core_count
from ...toolkit.base.files import write_atomically
from ...toolkit.base.processes import Failure, run_tasks
from ...toolkit.base.progress import Stages
from ...toolkit.base.shared_cores import Share
from ...toolkit.manifest import Manifest
from ..encoders.base import Crops, FrameSeries
from ..encoders.selection import Options
from ..faces.given import GivenFace
from .budget import MEDIA
from .costs import Costs
from .extractors import RunExtractors
from .jobs import Corpus, Job
from .media.requests import MediaRequest, Span, Task
from .media.worker import UtteranceMedia, failed, process, set_up
from .rows.origins import UNKNOWN, FileFacts, lasts, mask_of, media_key, source_of
from .rows.parts import Rows

FAILED = "its worker failed"


def run_media(
    jobs: list[Job],
    corpus: Corpus,
    extractors: RunExtractors,
    options: Options,
    stop: threading.Event,
    progress: Stages,
    costs: Costs,
    strict: bool,
    own: Share,
) -> list[str]:
    """Runs the jobs that need media, until all parts are done or `stop` is set.

    Workers have the cores that this stage's networks leave them, which use the share `own` and come first, so that
    finished files do not pile up.

    Utterances that failed for no known reason are masked, and computed again by the next run; if `strict`, the parts
    that contain them are not written.

    Returns:
        These utterances, and what happened. The stage's time, and that of each part of the work, are added to `costs`.
    """
    began = time.perf_counter()
    manifest, files_known = corpus.manifest, corpus.files
    parts = jobs[0].parts
    todo = sorted({index for job in jobs for index in job.todo})
    bar = progress.stage("media", sum(len(part) for part in parts))
    bar.resume(sum(len(part) for i, part in enumerate(parts) if i not in set(todo)))
    open_parts: dict[int, _Part] = {}
    faults: list[str] = []

    def tasks() -> Iterator[tuple[int, Task | None, MediaRequest]]:
        for index in todo:
            if stop.is_set():
                return
            here = [job for job in jobs if index in job.todo]
            part = _Part({job.key: (job, job.begin(index)) for job in here})
            planned = list(_plan(manifest, parts[index], part.rows))
            part.waiting = len(planned)
            open_parts[index] = part
            request = replace(extractors.request(part.rows.keys()), decoding_threads=threads)
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
        cores=(own.cores, MEDIA),
    ):
        part = open_parts[index]
        if isinstance(found, Failure):
            part.faulty = True
            faults += [f"{manifest.utterances[span.row].id}: {found.reason}" for span in task.spans]
            part.found += [(failed(span, f"{FAILED}: {found.reason}"), None) for span in task.spans]
        else:
            part.found += [(one, found.file) for one in found.utterances]
            for name, seconds in found.seconds.items():
                costs.add(name, seconds)
        part.waiting -= 1
        if part.waiting <= 0:
            with own.used():
                _fill_rows(part, manifest, options, costs)
            files = {file for _, file in part.found if file is not None}
            files_known.learn(files)
            if not (strict and part.faulty):
                for job, rows in part.rows.values():
                    job.write(index, rows, sorted(files, key=lambda file: file.content))
            del open_parts[index]
            bar.advance(len(parts[index]))
    costs.stages["media"] = time.perf_counter() - began
    return faults


def _utterances(job: tuple[int, Task | None, MediaRequest]) -> int:
    return 1 if job[1] is None else len(job[1].spans)


@dataclass
class _Part:
    """A part in progress: the job and the rows of each feature, and the results of its files so far."""

    rows: dict[str, tuple[Job, Rows]]
    waiting: int = 0
    found: list[tuple[UtteranceMedia, FileFacts | None]] = field(default_factory=list)
    faulty: bool = False


def _plan(manifest: Manifest, part: range, jobs: Mapping[str, tuple[Job, Rows]]) -> Iterator[Task]:
    """Groups a part's utterances by file; masks those that cannot be extracted, with the reason."""
    spans: dict[str, dict[tuple, Span]] = defaultdict(dict)
    for row in part:
        u = manifest.utterances[row]
        for name, (job, rows) in jobs.items():
            if row not in rows.todo:
                continue
            path, start, end = source_of(u, job.modality)
            reason = mask_of(u, job.modality)
            if reason or path is None:
                rows.put(row, None, reason)
                rows.note_origin(row, media_key(u, job.modality, UNKNOWN))
                continue
            old = spans[path].get((row, start, end))
            spans[path][row, start, end] = Span(
                row,
                start,
                end,
                u.region,
                [*(old.features if old is not None else ()), name],
                channel=u.audio_channel,
                lasts=lasts(u) if path == u.audio else None,
                face=GivenFace.of(u.speaker_face),
            )
    for path, group in spans.items():
        yield Task(manifest.path(path), list(group.values()))


def _fill_rows(part: _Part, manifest: Manifest, options: Options, costs: Costs) -> None:
    """Puts a part's results into rows. An extractor gets all utterances of the part at once, in the order of rows."""
    found = sorted(part.found, key=lambda one: one[0].row)
    several = sum(isinstance(job.planned.extractor.wants, Crops) for job, _ in part.rows.values()) > 1
    for name, (job, rows) in part.rows.items():
        own = [(one.row, one.taken[name], file) for one, file in found if name in one.taken]
        given = []
        for row, taken, file in own:
            rows.count(row, **taken.details)
            if taken.result is not None:
                rows.put_result(row, job.planned.checked(taken.result))
            elif taken.given is None:
                rows.put(row, None, taken.reason)
            else:
                given.append((row, taken.given))
            content = file.content if file is not None else UNKNOWN
            rows.note_origin(row, media_key(manifest.utterances[row], job.modality, content))
        if not given:
            continue
        with costs.spent(name):
            for (row, _), result in zip(given, job.planned.results([one for _, one in given]), strict=True):
                rows.put_result(row, result)
        if options.save_crops is not None and isinstance(job.planned.extractor.wants, Crops):
            ending = f"--{job.planned.extractor.name}" if several else ""
            for row, series in given:
                assert isinstance(series, FrameSeries)
                _save_crops(options.save_crops, manifest.utterances[row].id + ending, series.images)


def _save_crops(folder: Path, utterance: str, crops: np.ndarray) -> None:
    """Writes an utterance's crops side by side into a PNG file named after it, and the feature if there are several."""
    import cv2

    sheet = np.concatenate(list(crops[:: max(1, len(crops) // 12)][:12]), axis=1)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance).lstrip(".")
    _, png = cv2.imencode(".png", sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_atomically(folder / f"{name}.png", png.tobytes())
