"""The text stage of a run: sends transcripts to the text extractor and rows to disk, in its own thread."""

from __future__ import annotations

import threading
import time

from ...toolkit.base.progress import Stages
from ...toolkit.manifest import Manifest
from ..encoders.base import Texts
from .context import turns
from .jobs import Job


def read_texts(job: Job, manifest: Manifest, stop: threading.Event, progress: Stages, stages: dict[str, float]) -> None:
    """Runs the text extractor on the unfinished parts, until `stop` is set; adds its time to `stages`."""
    began = time.perf_counter()
    wants = job.planned.extractor.wants
    assert isinstance(wants, Texts)
    bar = progress.stage("text", sum(len(part) for part in job.parts))
    bar.resume(sum(len(part) for i, part in enumerate(job.parts) if i not in job.todo))
    for index in job.todo:
        if stop.is_set():
            break
        rows, todo = job.begin(index), job.rows_todo(index)
        given = turns(manifest, todo, wants.context)
        bar.advance(len(job.parts[index]) - len(todo))
        for row, result in zip(todo, job.planned.results(given, bar.advance), strict=True):
            rows.count(row, **result.details)
            reason = manifest.utterances[row].mask.get("text") or result.reason
            rows.put(row, None if reason else result.values, reason)
            rows.note_origin(row, job.keys[row])
        job.write(index, rows)
    stages["text"] = time.perf_counter() - began
