"""The text stage of a run: sends transcripts to the text extractors and rows to disk, in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ...toolkit.base.progress import Stages
from ...toolkit.base.shared_cores import Share
from ...toolkit.manifest import Manifest
from ..encoders.base import Texts
from .context import turns
from .costs import Costs
from .jobs import Job


def read_texts(
    jobs: Sequence[Job], manifest: Manifest, stop: threading.Event, progress: Stages, costs: Costs, own: Share
) -> None:
    """Runs text extractors, one after the other, on the unfinished parts, until `stop` is set.

    Their networks have the cores of the share `own`. Their time is added to `costs`.
    """
    began = time.perf_counter()
    for job in jobs:
        with own.used(), costs.spent(job.key):
            _read(job, manifest, stop, progress, "text" if len(jobs) == 1 else job.key)
    costs.stages["text"] = costs.stages.get("text", 0.0) + time.perf_counter() - began


def _read(job: Job, manifest: Manifest, stop: threading.Event, progress: Stages, name: str) -> None:
    wants = job.planned.extractor.wants
    assert isinstance(wants, Texts)
    bar = progress.stage(name, sum(len(part) for part in job.parts))
    bar.resume(sum(len(part) for i, part in enumerate(job.parts) if i not in job.todo))
    for index in job.todo:
        if stop.is_set():
            break
        rows, todo = job.begin(index), job.rows_todo(index)
        given = turns(manifest, todo, wants.context, job.sentences)
        bar.advance(len(job.parts[index]) - len(todo))
        for row, result in zip(todo, job.planned.results(given, bar.advance), strict=True):
            rows.count(row, **result.details)
            reason = manifest.utterances[row].mask.get("text") or result.reason
            rows.put(row, None if reason else result.values, reason)
            rows.note_origin(row, job.keys[row])
        job.write(index, rows)
