"""The text stage of a run: sends transcripts to the text extractor and rows to disk, in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...toolkit.base.progress import Stages
from ...toolkit.manifest import Manifest
from ..encoders.base import Texts, Turn

if TYPE_CHECKING:
    from .jobs import Job


def turns(manifest: Manifest, rows: Sequence[int], context: int) -> list[Turn]:
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
