"""The page of `erc-toolkit predict`: a recording with its player, a timeline of emotions, its speakers and turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...toolkit.base.words import counted
from ...toolkit.predict.turns import Media, Turn
from ..scores.tables import ReportTable, percent
from .page import Page, PageDialogue, PageUtterance, Section, Timeline, TimelineLane, TimelineTurn, render

_LANES = 12  # people with a lane of their own, and with a row of the table
_NEUTRAL = {"neutral", "neu", "none", "no emotion"}
_GREY = "#9aa7b4"
_COLOURS = (
    *("#e69f00", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8b5a2b", "#7f4fc9", "#b3362b", "#6b8e23"),
    *("#c2185b", "#00838f"),
)


def recording_page(
    media: Media,
    turns: Sequence[Turn],
    edges: dict[str, dict[str, list[list[int]]]],
    facts: list[tuple[str, str]],
    labels: list[str],
    corpus: str,
) -> str:
    """The page as HTML.

    Args:
        media: the recording.
        turns: its turns, at least one.
        edges: of the only dialogue, as in `PageDialogue`.
        facts: name and value of each fact in the header.
        labels: names of the emotions.
        corpus: that the model was trained on.
    """
    modalities, index = list(turns[0].opinions), {label: i for i, label in enumerate(labels)}
    utterances: list[PageUtterance] = [
        {
            "speaker": t.speaker,
            "text": t.text,
            "true": -1,
            "predicted": index[t.emotion],
            "confidence": round(t.probability, 3),
            "own": [-1 if (own := t.opinions[m]) is None else index[own[0]] for m in modalities],
            "at": clock(t.start),
            "start": t.start,
            "end": t.end,
        }
        for t in turns
    ]
    dialogue: PageDialogue = {"name": media.name, "right": 0, "labelled": 0, "utterances": utterances, "edges": edges}
    warning = (
        f"These are predictions of a model that learned from {corpus}. Nothing says how often they are right for this "
        "recording: to measure it, label some of its turns in a manifest and run `erc-toolkit eval`."
    )
    page = Page(
        media.name,
        [*facts, ("absent", _absent(turns) or "nothing")],
        [],
        [warning],
        [Section("Emotions", [_emotions(turns, labels)]), Section("Speakers", [_speakers(turns, labels)])],
        [dialogue],
        labels,
        modalities,
        timeline(media, turns, labels),
    )
    return render(page, "")


def timeline(media: Media, turns: Sequence[Turn], labels: Sequence[str]) -> Timeline:
    """The recording's player, and the turns in a lane for each of the people who speak most."""
    colour = colours(labels)
    frequent = [who for who, _ in Counter(t.speaker for t in turns).most_common(_LANES)]
    names = list(dict.fromkeys(t.speaker for t in turns if t.speaker in frequent))
    lanes = [TimelineLane(name, []) for name in names]
    if len(frequent) < len({t.speaker for t in turns}):
        lanes.append(TimelineLane("others", []))
    place = {name: i for i, name in enumerate(names)}
    for i, t in enumerate(turns):
        said = t.text if len(t.text) <= 200 else f"{t.text[:199]}…"
        title = f"{clock(t.start)} {t.speaker}: {t.emotion}, {round(100 * t.probability)} %. {said}"
        lanes[place.get(t.speaker, -1)].turns.append(
            TimelineTurn(i, t.start, max(t.end - t.start, 0.0), colour[t.emotion], title)
        )
    seconds = max(*(t.end for t in turns), 0.1)
    return Timeline(media, seconds, clock(seconds), lanes, colour)


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each emotion, grey for the absence of one; further ones repeat."""
    others = [label for label in labels if label.lower() not in _NEUTRAL]
    return {label: _GREY if label not in others else _COLOURS[others.index(label) % len(_COLOURS)] for label in labels}


def clock(seconds: float) -> str:
    """A time as minutes and seconds: "0:00.8" below a minute, "59:05", with hours from one on "1:01:05"."""
    if seconds < 59.95:
        return f"0:{seconds:04.1f}"
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def _emotions(turns: Sequence[Turn], labels: Sequence[str]) -> ReportTable:
    counts = Counter(t.emotion for t in turns)
    rows = [
        [label, str(counts[label]), percent(counts[label] / len(turns)), clock(_seconds(turns, label))]
        for label in labels
    ]
    return ReportTable("emotions", "Emotions of the turns", ["emotion", "turns", "percent", "time"], rows)


def _speakers(turns: Sequence[Turn], labels: Sequence[str]) -> ReportTable:
    rows = []
    people = Counter(t.speaker for t in turns)
    for who, count in people.most_common(_LANES):
        own = [t for t in turns if t.speaker == who]
        found = Counter(t.emotion for t in own)
        shares = (percent(found[label] / count) if found[label] else "–" for label in labels)
        rows.append([who, str(count), clock(_seconds(own)), *shares])
    left = len(people) - len(rows)
    note = f"The {_LANES} who speak most; {counted(left, 'other')} not shown." if left > 0 else ""
    head = ["speaker", "turns", "time", *labels]
    return ReportTable("speakers", "Share of each emotion in the turns of a speaker, percent", head, rows, note)


def _seconds(turns: Sequence[Turn], emotion: str | None = None) -> float:
    return sum(max(t.end - t.start, 0.0) for t in turns if emotion in (None, t.emotion))


def _absent(turns: Sequence[Turn]) -> str:
    """What turns lack, with how many and the reason."""
    found = Counter((m, reason.split(":")[0]) for t in turns for m, reason in t.missing.items())
    return "; ".join(f"{m} in {n} of {len(turns)} turns ({reason})" for (m, reason), n in sorted(found.items()))
