"""The speaker's face of an utterance, as a manifest or an overlay gives it: boxes over time, or that it is not seen."""

from __future__ import annotations

from itertools import pairwise

from ..base.reading.plain_numbers import MOST_SECONDS, finite_number

# More than a turn of an hour has at two boxes per second.
_MOST_BOXES = 10_000
# Boxes may extend beyond the image, but not far.
_FURTHEST = 4.0
_KEYS = {"boxes", "off_screen", "confidence", "score"}


def face_problem(value: object) -> str:
    """What is wrong with a `speaker_face`, or "".

    A right one is an object with either `boxes`, a list of `[time, left, top, width, height]` with ascending times in
    seconds of the file and fractions of the image (or of the utterance's region), or `off_screen`, the reason why the
    speaker is not in the picture; and with `confidence`, from 0 to 1, and `score`, any number, if they are known.
    """
    if not isinstance(value, dict):
        return "must be an object"
    if unknown := sorted(map(str, set(value) - _KEYS)):
        return f"{unknown[0]!r} is unknown"
    if ("boxes" in value) == ("off_screen" in value):
        return "must have either boxes or off_screen"
    if "off_screen" in value and (not isinstance(value["off_screen"], str) or not value["off_screen"]):
        return "off_screen must be a reason"
    confidence = finite_number(value.get("confidence", 0.0))
    if confidence is None or not 0 <= confidence <= 1:
        return "confidence must be from 0 to 1"
    if finite_number(value.get("score", 0.0)) is None:
        return "score must be a number"
    return boxes_problem(value["boxes"]) if "boxes" in value else ""


def boxes_problem(boxes: object) -> str:
    """What is wrong with the `boxes` of a `speaker_face`, or ""."""
    if not isinstance(boxes, (list, tuple)) or not 0 < len(boxes) <= _MOST_BOXES:
        return f"boxes must be a list of 1 to {_MOST_BOXES} boxes"
    times = []
    for box in boxes:
        numbers = [finite_number(x) for x in box] if isinstance(box, (list, tuple)) and len(box) == 5 else [None]
        if None in numbers:
            return "a box must be five numbers (time, left, top, width, height)"
        time, *sides = (x for x in numbers if x is not None)
        if not 0 <= time <= MOST_SECONDS:
            return "the time of a box must be in seconds, from 0"
        if not all(abs(x) <= _FURTHEST for x in sides) or sides[2] <= 0 or sides[3] <= 0:
            return "a box must be fractions of the image, with width and height above 0"
        times.append(time)
    return "" if all(a < b for a, b in pairwise(times)) else "the times of boxes must ascend"
