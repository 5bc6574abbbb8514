"""The input of a text extractor: transcripts with the turns before them."""

from __future__ import annotations

from collections.abc import Sequence

from ...toolkit.manifest import Manifest
from ..encoders.base import Turn


def turns(manifest: Manifest, rows: Sequence[int], context: int, sentences: Sequence[str] = ()) -> list[Turn]:
    """The turns at `rows`, each with the non-empty ones of the `context` utterances before it in its dialogue.

    A turn in the context is written "speaker: transcript". Text that the manifest masks is empty, and in no context.
    `sentences` describes how each utterance of the manifest is spoken; empty if texts are not described.
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
        found.append(Turn(text, utterances[row].speaker, before, sentences[row] if sentences else ""))
    return found
