"""What an overlay says of the speaker's face in one utterance, and what it was found in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...toolkit.base.reading.plain_numbers import finite_number
from ...toolkit.manifest import Utterance
from ...toolkit.manifest.faces import boxes_problem
from ..faces.choice import OFF_SCREEN
from ..run.rows.origins import source_of

NO_FACE = "no speaking face"  # none is seen, or nothing tells which of them speaks
FACE_FLAGS = (OFF_SCREEN, NO_FACE)
_KNOWN = {"media_xxh3", "span", "region", "boxes", "confidence", "score"}


@dataclass(frozen=True)
class Seen:
    """The speaker's face in one utterance.

    Attributes:
        media_xxh3: XXH3 (128 bits) of the file with the video; "" without a file.
        span: where it was looked for in that file, in seconds; None for the file's beginning and end.
        region: the part of the image in which it was looked for, as the manifest gives it; None for the whole image.
        boxes: (time in seconds of the file, left, top, width, height as fractions of the region, or of the image),
            ascending; empty if there is none.
        confidence: from 0 to 1, that this face speaks, if one of those seen does.
        score: LR-ASD's mean score of its lips, positive where it speaks.
    """

    media_xxh3: str
    span: tuple[float | None, float | None]
    region: tuple[float, float, float, float] | None = None
    boxes: tuple[tuple[float, ...], ...] = ()
    confidence: float = 0.0
    score: float = 0.0

    @classmethod
    def basis(cls, utterance: Utterance, content: str) -> Seen:
        """Before it is looked for; `content` is the hash of the file with the video."""
        _, start, end = source_of(utterance, "visual")
        return cls(content, (start, end), utterance.region)

    def matches(self, other: Seen) -> bool:
        """Whether both were looked for in the same file, span and region."""
        return (self.media_xxh3, self.span, self.region) == (other.media_xxh3, other.span, other.region)

    def given(self, flags: dict[str, str]) -> dict[str, Any] | None:
        """The manifest's `speaker_face`, or None if nothing is known; `flags` are those of the line."""
        known = {"confidence": self.confidence, "score": self.score}
        if reason := flags.get(OFF_SCREEN):
            return {"off_screen": f"{reason}, by the overlay", **known}
        return {"boxes": [list(box) for box in self.boxes], **known} if self.boxes else None


def parse_seen(value: object) -> Seen | str:
    """A checked face, or what is wrong with it."""
    if not isinstance(value, dict):
        return "must be an object"
    if unknown := sorted(set(value) - _KNOWN):
        return f"{unknown[0]!r} is unknown"
    if not isinstance(value.get("media_xxh3"), str):
        return "media_xxh3 must be a string"
    span = span_of(value.get("span"))
    if span is None:
        return "span must be two numbers of seconds or null"
    region = None
    if value.get("region") is not None:
        numbers = [finite_number(x) for x in value["region"]] if isinstance(value["region"], list) else []
        region = tuple(x for x in numbers if x is not None)
        if len(numbers) != 4 or len(region) != 4:
            return "region must be four numbers (left, top, right, bottom)"
    boxes = value.get("boxes", [])
    if boxes != [] and (problem := boxes_problem(boxes)):
        return problem
    confidence, score = (finite_number(value.get(name, 0.0)) for name in ("confidence", "score"))
    if confidence is None or not 0 <= confidence <= 1:
        return "confidence must be from 0 to 1"
    if score is None:
        return "score must be a number"
    found = tuple(tuple(map(float, box)) for box in boxes)
    return Seen(value["media_xxh3"], span, region, found, confidence, score)  # pyright: ignore[reportArgumentType]


def span_of(value: object) -> tuple[float | None, float | None] | None:
    """Two numbers of seconds or None; None if the value is not that."""
    if not isinstance(value, list) or len(value) != 2 or any(x is not None and finite_number(x) is None for x in value):
        return None
    first, last = (None if x is None else finite_number(x) for x in value)
    return first, last
