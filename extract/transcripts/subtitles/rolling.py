"""Rolling captions, in which each cue repeats lines of the one before: each line once, with the times it came up."""

from __future__ import annotations

from dataclasses import replace

from ....toolkit.base.words import counted
from ..cues import Cue, Cues

_TOUCH = 0.1  # seconds between two cues of one display
_STILL = 10.0  # seconds after which a line that is shown again is said again
_MOST_LINES = 8  # of one display


def unroll(found: Cues) -> Cues:
    """The cues without lines that only stay on the display, if the file has rolling captions; otherwise unchanged.

    Recognisers and live captions show the line before together with the new one (YouTube also for 10 ms alone), or let
    a line grow word by word. A file is taken for such if at least half of the neighbouring cues are of that kind, and
    two or more; one is enough if words have times of their own.
    """
    cues = found.cues
    lines = [cue.text.split("\n") for cue in cues]
    touching = rolled = renewed = 0
    for i in range(1, len(cues)):
        if abs(cues[i].start - cues[i - 1].end) > _TOUCH or cues[i].speaker != cues[i - 1].speaker:
            continue
        touching += 1
        carried = _carried(lines[i - 1], lines[i])
        # The same display for longer can be a word said twice.
        again = carried == len(lines[i]) == len(lines[i - 1]) and cues[i].end - cues[i].start > _TOUCH
        grown = _grown(lines[i - 1], lines[i])
        rolled += (carried > 0 and not again) or grown > 0
        renewed += 0 < carried < len(lines[i]) or grown > 0
    if not (renewed and (rolled >= 2 and 2 * rolled >= touching or found.stamped)):
        return found
    kept: list[Cue] = []
    repeated = 0
    for i, cue in enumerate(cues):
        shown = lines[i]
        if i and cue.speaker == cues[i - 1].speaker:
            gap = cue.start - cues[i - 1].end
            carried = _carried(lines[i - 1], shown)
            if carried and (abs(gap) <= _TOUCH or carried < len(shown) and 0 < gap <= _STILL):
                repeated += carried
                shown = shown[carried:]
            elif kept and abs(gap) <= _TOUCH and (grown := _grown(lines[i - 1], shown)):
                repeated += grown
                text = "\n".join([*kept[-1].text.split("\n")[:-1], shown[grown - 1]])
                kept[-1] = replace(kept[-1], end=cue.end, text=text)
                shown = shown[grown:]
        if shown:
            kept.append(replace(cue, text="\n".join(shown)))
    note = f"rolling captions: {counted(repeated, 'repeated line')} left out"
    return Cues(kept, [*found.notes, note], found.stamped)


def _carried(before: list[str], now: list[str]) -> int:
    """The number of last lines of one display that are the first lines of the next."""
    most = min(len(before), len(now), _MOST_LINES)
    return next((count for count in range(most, 0, -1) if before[-count:] == now[:count]), 0)


def _grown(before: list[str], now: list[str]) -> int:
    """The number of first lines of a display that are the last ones of the one before, the last of them longer."""
    for count in range(min(len(before), len(now), _MOST_LINES), 0, -1):
        if before[len(before) - count : -1] == now[: count - 1] and now[count - 1].startswith(before[-1] + " "):
            return count
    return 0
