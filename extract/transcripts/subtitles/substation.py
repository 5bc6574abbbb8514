"""SubStation Alpha (.ass, .ssa): events with a field for the name of the speaker.

An own reader, since pysubs2 ignores the order of fields that a file declares, fails at styles that do not matter here,
and has patterns that take quadratic time for long lines.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ..cues import Cue, Cues, clean, one_line
from .timed_lines import split_lines

_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_CLOCK = re.compile(r"(\d{1,3}):(\d{1,2}):(\d{1,2})(?:[.:,](\d{1,3}))?", re.ASCII)
_DRAWING = re.compile(r"\\p(\d)")
_NOBODY = {"", "ntp", "default"}  # what editors write into the field when it is not used


def read_substation(text: str, source: str | Path) -> Cues:
    """The cues of SubStation Alpha; comments and drawings are left out.

    Raises:
        UserError: an event that cannot be read, or no event; names source and line.
    """
    fields, cues, seen = _FIELDS, [], set()
    comments = repeated = events = 0
    in_events = False
    for number, line in enumerate(split_lines(text), 1):
        kind, _, rest = line.strip().partition(":")
        kind = kind.lower()
        if line.lstrip().startswith("["):
            in_events = line.strip().lower().startswith("[events")
        elif in_events and kind == "format":
            fields = [field.strip().lower().replace("actor", "name") for field in rest[:1000].split(",")]
            if not {"start", "end", "text"} <= set(fields):
                raise UserError(f"{source}, line {number}: a format of events without Start, End and Text")
        elif kind == "comment":
            events, comments = events + 1, comments + 1
        elif kind == "dialogue":
            events += 1
            parts = rest.strip().split(",", len(fields) - 1)
            if len(parts) < len(fields):
                raise UserError(
                    f"{source}, line {number}: an event with {counted(len(parts), 'field')} of {len(fields)}"
                )
            values = dict(zip(fields, parts, strict=True))
            start, end = (_seconds(values[which], f"{source}, line {number}") for which in ("start", "end"))
            name = one_line(values.get("name", ""))
            spoken = clean(_spoken(values["text"]))
            event = (start, end, name, spoken)
            if event in seen:
                repeated += 1
            elif spoken:
                seen.add(event)
                cues.append(Cue(start, end, "" if name.lower() in _NOBODY else name, spoken))
    if not events:
        raise UserError(f"{source}: has no events; a SubStation file has lines that begin with 'Dialogue:'")
    notes = []
    if comments:
        notes.append(f"{counted(comments, 'comment line')} left out")
    if repeated:
        notes.append(f"{counted(repeated, 'event')} with the same times and text as another left out")
    return Cues(cues, notes)


def _seconds(stamp: str, where: str) -> float:
    match = _CLOCK.fullmatch(stamp.strip())
    if match is None or int(match[2]) > 59 or int(match[3]) > 59:
        raise UserError(f"{where}: {stamp.strip()[:40]!r} is not a time; write it like 0:01:02.50")
    hours, minutes, seconds = (int(match[i]) for i in (1, 2, 3))
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + int((match[4] or "0").ljust(3, "0"))) / 1000


def _spoken(text: str) -> str:
    """The text without what stands in braces, and without drawings, which braces switch on and off."""
    pieces, place, drawing = [], 0, False
    while (opened := text.find("{", place)) >= 0 and (closed := text.find("}", opened)) >= 0:
        if not drawing:
            pieces.append(text[place:opened])
        for match in _DRAWING.finditer(text, opened, closed):
            drawing = match[1] != "0"
        place = closed + 1
    if not drawing:
        pieces.append(text[place:])
    return "".join(pieces).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
