"""The input of a text extractor: transcripts with the turns before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ...toolkit.manifest import Manifest, Utterance
from ..encoders.base import Turn


class Spoken(Protocol):
    """An utterance of a manifest, or a row of a store."""

    @property
    def dialogue(self) -> str: ...
    @property
    def speaker(self) -> str: ...
    @property
    def text(self) -> str: ...


S = TypeVar("S", bound=Spoken)


def turns(manifest: Manifest, rows: Sequence[int], context: int, sentences: Sequence[str] = ()) -> list[Turn]:
    """The turns at `rows`, each with the non-empty ones of the `context` utterances before it in its dialogue.

    A turn in the context is written "speaker: transcript". Text that the manifest masks is empty, and in no context.
    `sentences` describes how each utterance of the manifest is spoken; empty if texts are not described.
    """
    utterances = manifest.utterances
    return [
        Turn(
            unmasked(utterances[row]),
            utterances[row].speaker,
            preceding(utterances, row, context, unmasked),
            sentences[row] if sentences else "",
        )
        for row in rows
    ]


def preceding(rows: Sequence[S], row: int, context: int, text_of: Callable[[S], str]) -> tuple[str, ...]:
    """The non-empty ones of the `context` rows before a row in its dialogue, "speaker: transcript", oldest first."""
    earlier = [(one, text_of(one).strip()) for one in rows[max(0, row - context) : row]]
    return tuple(f"{one.speaker}: {text}" for one, text in earlier if text and one.dialogue == rows[row].dialogue)


def unmasked(utterance: Utterance) -> str:
    """An utterance's transcript, or nothing if the manifest masks it."""
    return "" if "text" in utterance.mask else utterance.text
