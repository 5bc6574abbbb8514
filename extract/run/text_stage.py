"""The text stage of a run: sends transcripts to the text extractor and rows to disk, in its own thread."""

from __future__ import annotations

import threading
import time

from ...toolkit.base.progress import Stages
from ...toolkit.manifest import Manifest
from ..encoders.base import Texts, Turn
from .parts import Job


def turns(manifest: Manifest, rows: range, context: int) -> list[Turn]:
    """The turns at `rows`, each with the non-empty ones of the `context` utterances before it in its dialogue.

    A turn in the context is written "speaker: transcript". Text that the manifest masks is empty, and in no context.
    """
    utterances = manifest.utterances
    found = []
    for row in rows:
        earlier = utterances[max(0, row - context) : row]
        before = tuple(
            f"{u.speaker}: {u.text.strip()}"
            for u in earlier
            if u.dialogue == utterances[row].dialogue and u.text.strip() and "text" not in u.mask
        )
        text = "" if "text" in utterances[row].mask else utterances[row].text
        found.append(Turn(text, utterances[row].speaker, before))
    return found


def read_texts(job: Job, manifest: Manifest, stop: threading.Event, progress: Stages, stages: dict[str, float]) -> None:
    """Runs the text extractor on the unfinished parts, until `stop` is set; adds its time to `stages`."""
    began = time.perf_counter()
    wants = job.planned.extractor.wants
    assert isinstance(wants, Texts)
    bar = progress.stage("text", sum(len(part) for part in job.parts))
    bar.advance(sum(len(part) for i, part in enumerate(job.parts) if i not in job.todo))
    for index in job.todo:
        if stop.is_set():
            break
        rows = job.begin(index)
        part = [manifest.utterances[row] for row in job.parts[index]]
        given = turns(manifest, job.parts[index], wants.context)
        for row, u, result in zip(job.parts[index], part, job.planned.results(given, bar.advance), strict=True):
            rows.count(row, **result.details)
            reason = u.mask.get("text") or result.reason
            rows.put(row, None if reason else result.values, reason)
        job.folder.write(index, rows.finished())
    stages["text"] = time.perf_counter() - began
