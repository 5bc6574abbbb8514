"""What the forms of JSON share: fields of objects, and words joined to turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.base.reading.tables import column_key
from .turns import NAMES, UNKNOWN, Turn, Unit, role, seconds, text_of

_PAUSE_S = 1.0  # words further apart are two turns


@dataclass
class Context:
    """What the forms need: the file for messages, the user's unit, and notes to add to."""

    source: Path
    unit: Unit | None
    notes: list[str]
    duration: float | None
    assumed: bool = False

    def at(self, number: int) -> str:
        return f"{self.source}, turn {number}"

    def written_by(self, program: str, unit: Unit = "s") -> Unit:
        """The unit to read, with a note on the program that was recognised."""
        used = self.unit or unit
        times = {"s": "seconds", "ms": "milliseconds"}[used]
        why = "--time-unit says" if self.unit else f"{program} writes them"
        self.notes.append(f"{self.source.name}: in the form of {program}; times read as {times}, as {why}")
        return used


@dataclass(frozen=True)
class Word:
    """A word, or a punctuation mark without times, which continues the word before it."""

    start: float | None
    end: float | None
    speaker: str
    text: str


def list_of(content: object, name: str) -> list[dict] | None:
    """The list of objects under a name, or None."""
    found = content.get(name) if isinstance(content, dict) else None
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else None


def object_of(content: object) -> dict:
    return content if isinstance(content, dict) else {}


def whole_times(one: Mapping[str, object]) -> bool:
    return all(type(one.get(name)) is int for name in ("start", "end"))


def given_of(one: Mapping[str, object], what: str) -> object:
    """The value of the preferred key that means this field of a turn, or None."""
    names = [key for key, value in one.items() if value is not None and (found := role(key)) and found[0] == what]
    order = NAMES[what]
    names.sort(key=lambda name: order.index(key) if (key := column_key(name)) in order else len(order))
    return one[names[0]] if names else None


def word_text(word: Mapping[str, object]) -> str:
    names = ("punctuated_word", "word", "text", "content", "value")
    return text_of(next((word[name] for name in names if word.get(name)), ""))


def turn_of(times: Mapping[str, object], where: str, unit: Unit, speaker: object, text: object) -> Turn:
    start, end = (seconds(given_of(times, what), f"{where}, {what}", unit) for what in ("start", "end"))
    return made(start, end, text_of(speaker), text)


def made(start: float, end: float, speaker: str, text: object) -> Turn:
    return {"start": start, "end": end, "speaker": speaker or UNKNOWN, "text": text_of(text)}


def plain_words(words: list[dict], context: Context, unit: Unit, speaker: str = "") -> Iterator[Word]:
    for i, word in enumerate(words, 1):
        start, end = (
            seconds(given_of(word, what), f"{context.source}, word {i}, {what}", unit) for what in ("start", "end")
        )
        yield Word(start, end, text_of(given_of(word, "speaker")) or speaker, word_text(word))


def items_of(items: list[dict], context: Context, unit: Unit, speakers: Mapping[str, str]) -> Iterator[Word]:
    """Words of Amazon Transcribe and Speechmatics, whose punctuation marks are items of their own."""
    for i, item in enumerate(items, 1):
        best = next(iter(list_of(item, "alternatives") or ()), {})
        text = text_of(best.get("content"))
        if item.get("type") == "punctuation":
            yield Word(None, None, "", text)
            continue
        start, end = (
            seconds(item.get(f"{what}_time"), f"{context.source}, item {i}, {what}_time", unit)
            for what in ("start", "end")
        )
        speaker = text_of(item.get("speaker_label")) or text_of(best.get("speaker"))
        yield Word(start, end, speaker or speakers.get(text_of(item.get("start_time")), ""), text)


def grouped(words: Iterator[Word], context: Context) -> list[Turn]:
    """Turns of words: a new one where the speaker changes, or after a pause."""
    turns: list[Turn] = []
    spoken: list[list[str]] = []
    for word in words:
        if word.start is None or word.end is None:
            if spoken:
                spoken[-1][-1] += word.text
            continue
        speaker, last = word.speaker or UNKNOWN, turns[-1] if turns else None
        if last is not None and last["speaker"] == speaker and word.start - last["end"] <= _PAUSE_S:
            last["end"] = max(last["end"], word.end)
            spoken[-1].append(word.text)
        else:
            turns.append(made(word.start, word.end, speaker, ""))
            spoken.append([word.text])
    for turn, texts in zip(turns, spoken, strict=True):
        turn["text"] = " ".join(text for text in texts if text)
    note = f"{context.source.name}: words joined to turns, up to a change of speaker or a pause of {_PAUSE_S:g} s"
    if turns and note not in context.notes:
        context.notes.append(note)
    return turns
