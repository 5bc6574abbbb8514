"""Corrections by hand: a changed JSON, SubRip, WebVTT or RTTM file against the turns that it was written from.

What is unchanged keeps words, probabilities and marks; only spans that have lost their words are recognised again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.texts import read_text
from ..transcripts.subtitles.files import parse_cues
from ..transcripts.tables import read_rttm
from ..transcripts.turns import UNKNOWN
from .document import clean_name, read_document
from .formats import SPOKEN, rttm_name, subrip, webvtt
from .recognition import Word, joined_text
from .turns import (
    LOW_PROBABILITY,
    NO_SPEAKER,
    NO_WORDS,
    SHORT_VOICE,
    UNSURE_SPEAKER,
    VoiceTurn,
    marked_overlaps,
    with_marks,
    word_marks,
)

CORRECTABLE = (".json", *SPOKEN, ".rttm")
_AGAIN = {"", "?", "[?]"}  # texts that ask for recognition
_SAME_S = 0.0015  # formats write milliseconds
_NEAR_S = 0.3  # beyond a changed turn, within which words may be its own
_LONGEST_NAME = 60  # characters before a colon that are a speaker, in SubRip


@dataclass(frozen=True)
class Given:
    """A turn of a corrected file.

    Attributes:
        start, end: in seconds.
        speaker: None if the file says nothing.
        text: None if the format has no texts; empty to have it recognised again.
        earlier: index of the turn that it was, where the file says so by an id.
    """

    start: float
    end: float
    speaker: str | None
    text: str | None
    earlier: int | None = None


@dataclass(frozen=True)
class Corrected:
    """Turns after corrections.

    Attributes:
        turns: in order of time.
        again: indices of turns whose span is to be recognised again.
        changes: what has changed, in words, such as "2 texts".
    """

    turns: list[VoiceTurn]
    again: list[int]
    changes: list[str]


def read_given(path: Path, earlier: Sequence[VoiceTurn], ids: Sequence[str] = ()) -> list[Given]:
    """The turns of a corrected file.

    Args:
        path: .json of `transcribe`, .srt, .vtt or .rttm.
        earlier: the turns that it was written from.
        ids: of these in the JSON.

    Raises:
        UserError: another format, or something in it is wrong; names file and line.
    """
    ending = path.suffix.lower()
    if ending not in CORRECTABLE:
        raise UserError(f"{path}: corrections are read from {', '.join(CORRECTABLE)}")
    if ending == ".json":
        rows = read_document(path).given
        numbers = {number: i for i, number in enumerate(ids)}
        return [
            Given(start, end, _name(speaker, f"{path}, turn {i}"), text, numbers.get(number))
            for i, (number, start, end, speaker, text) in enumerate(rows, 1)
        ]
    text, _ = read_text(path, "corrections")
    if ending == ".rttm":
        names = {rttm_name(turn.speaker): turn.speaker for turn in earlier}
        return [
            Given(t["start"], t["end"], names.get(t["speaker"], _name(t["speaker"], f"{path}, turn {i}")), None)
            for i, t in enumerate(read_rttm(text, path).turns, 1)
        ]
    known = {turn.speaker for turn in earlier}
    seen = {(round(t.start, 3), round(t.end, 3)): t.text for t in earlier}
    found = []
    for i, cue in enumerate(parse_cues(text, path).cues, 1):
        speaker, spoken = cue.speaker or None, " ".join(cue.text.split())
        before, colon, after = spoken.partition(":")
        if (
            ending == ".srt"
            and colon
            and not speaker
            and (before in known or (len(before) <= _LONGEST_NAME and not _begins(seen, cue.start, cue.end, spoken)))
        ):
            speaker, spoken = before.strip() or None, after.strip()
        found.append(Given(cue.start, cue.end, _name(speaker, f"{path}, cue {i}"), spoken))
    return found


def _begins(seen: dict[tuple[float, float], str], start: float, end: float, text: str) -> bool:
    """Whether a cue's text is the turn's own: then the colon is part of it, and the name was removed."""
    own = seen.get((round(start, 3), round(end, 3)))
    return own is not None and own[:8] == text[:8]


def _name(name: str | None, where: str) -> str | None:
    return clean_name(name, where) if name and name.strip() else None


def as_read(turns: Sequence[VoiceTurn], ending: str) -> list[str | None]:
    """The text of each turn as it is read from an unchanged file of a format; None for what the format cannot show."""
    if ending not in SPOKEN:
        return [turn.text if ending == ".json" else None for turn in turns]
    render = subrip if ending == ".srt" else webvtt
    found: list[str | None] = []
    for turn in turns:
        cues = parse_cues(render([turn])).cues if turn.text else []
        text = " ".join(cues[0].text.split()) if len(cues) == 1 else None
        if text is not None and ending == ".srt":
            text = text.removeprefix(f"{turn.speaker}:").strip()
        found.append(text)
    return found


def apply_corrections(earlier: Sequence[VoiceTurn], given: Sequence[Given], ending: str, where: object) -> Corrected:
    """The earlier turns with what a person has changed.

    Args:
        earlier: the turns that the file was written from.
        given: from `read_given`.
        ending: of the file, such as ".srt".
        where: the file, for messages.

    Raises:
        UserError: a turn that does not end after it starts.
    """
    for i, one in enumerate(given, 1):
        if one.end <= one.start:
            raise UserError(f"{where}, turn {i}: ends at {one.end:.3f} s, not after its start at {one.start:.3f} s")
    shown = as_read(earlier, ending)
    matched = _matched(earlier, given, shown)
    renamed = _renamed(earlier, given, matched)
    counts: dict[str, int] = defaultdict(int)
    made: list[tuple[VoiceTurn, bool]] = []
    for one, place in zip(given, matched, strict=True):
        old = None if place is None else earlier[place]
        if old is not None and abs(old.start - one.start) <= _SAME_S and abs(old.end - one.end) <= _SAME_S:
            turn, again = _same_span(old, one, None if place is None else shown[place], counts)
        else:
            turn, again = _other_span(old, one, earlier, counts)
        made.append((_spoken_by(turn, old, one, renamed, counts), again))
    kept = {place for place in matched if place is not None}
    for i, old in enumerate(earlier):
        if i not in kept and shown[i] is None and ending in SPOKEN:
            made.append(
                (replace(old, speaker=renamed.get(old.speaker, old.speaker)), False)
            )  # the file could not show it
        elif i not in kept:
            counts["deleted turn"] += 1
    if renamed:
        counts["renamed speaker"] = len(renamed)
    again = {id(turn) for turn, wanted in made if wanted}
    ordered = sorted((turn for turn, _ in made), key=lambda turn: (turn.start, turn.end))
    numbers = [i for i, turn in enumerate(ordered) if id(turn) in again]
    changes = [f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items() if n]
    return Corrected(marked_overlaps(ordered), numbers, changes)


def _matched(earlier: Sequence[VoiceTurn], given: Sequence[Given], shown: Sequence[str | None]) -> list[int | None]:
    """For each given turn, the earlier one that it is: by its id, the same times, or the same text nearby."""
    found: list[int | None] = [None] * len(given)
    free = set(range(len(earlier)))

    def take(i: int, place: int | None) -> None:
        if place is not None and place in free:
            found[i] = place
            free.discard(place)

    for i, one in enumerate(given):
        take(i, one.earlier)
    by_times: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, old in enumerate(earlier):
        by_times[round(1000 * old.start), round(1000 * old.end)].append(place)
    for by_name in (True, False):
        for i, one in enumerate(given):
            places = by_times[round(1000 * one.start), round(1000 * one.end)] if found[i] is None else []
            wanted = [p for p in places if p in free and (not by_name or earlier[p].speaker == one.speaker)]
            take(i, next(iter(wanted), None))
    for i, one in enumerate(given):
        if found[i] is None:
            over = [p for p in free if _shared(earlier[p], one) > 0]
            same = [p for p in over if one.text and shown[p] == one.text] if one.text is not None else over
            take(i, max(same, key=lambda p, one=one: _shared(earlier[p], one), default=None))
    return found


def _shared(old: VoiceTurn, one: Given) -> float:
    return min(old.end, one.end) - max(old.start, one.start)


def _renamed(earlier: Sequence[VoiceTurn], given: Sequence[Given], matched: Sequence[int | None]) -> dict[str, str]:
    """Speakers of whom all turns have the same new name, which nobody had: people who got a name."""
    names: dict[str, set[str]] = defaultdict(set)
    for one, place in zip(given, matched, strict=True):
        if place is not None and one.speaker is not None:
            names[earlier[place].speaker].add(one.speaker)
    before = {turn.speaker for turn in earlier}
    new = {old: next(iter(found)) for old, found in names.items() if len(found) == 1}
    taken = list(new.values())
    return {old: name for old, name in new.items() if name != old and name not in before and taken.count(name) == 1}


def _same_span(old: VoiceTurn, one: Given, shown: str | None, counts: dict[str, int]) -> tuple[VoiceTurn, bool]:
    if one.text is None or one.text == shown:
        return old, False
    if one.text in _AGAIN:
        if not old.text:
            return old, one.text != ""  # it never had words, unless they are asked for
        counts["turn to recognise again"] += 1
        return replace(old, text="", words=(), edited=_without(old.edited, "text")), True
    counts["text"] += 1
    return _with_text(old, one.text, old.words), False


def _other_span(
    old: VoiceTurn | None, one: Given, earlier: Sequence[VoiceTurn], counts: dict[str, int]
) -> tuple[VoiceTurn, bool]:
    start, end = round(one.start, 3), round(one.end, 3)
    speaker = UNKNOWN if old is None else old.speaker
    edited = tuple(dict.fromkeys([*(() if old is None else old.edited), "times"]))
    if old is None:
        over = [turn for turn in earlier if _shared(turn, one) > 0]
        speaker = max(over, key=lambda turn: _shared(turn, one)).speaker if over else UNKNOWN
    turn = VoiceTurn(start, end, speaker, "", (), None if old is None else old.speaker_confidence, edited=edited)
    if old is not None:
        turn = replace(turn, marks=old.marks, face=old.face, face_confidence=old.face_confidence)
    counts["turn with other times" if old is not None else "new turn"] += 1
    if one.text is None or one.text in _AGAIN:
        counts["turn to recognise again"] += 1
        return replace(turn, edited=_without(edited, "text")), True
    if old is not None and (one.text == old.text or joined_text(old.words) == one.text):
        return replace(turn, text=old.text, words=old.words), False
    near = [
        word
        for other in earlier
        for word in other.words
        if word.start is not None
        and word.end is not None
        and start - _NEAR_S <= (word.start + word.end) / 2 <= end + _NEAR_S
    ]
    turn = _with_text(turn, one.text, near)
    if all(word.start is not None for word in turn.words):  # every word was recognised: a turn was split or joined
        turn = replace(turn, edited=_without(turn.edited, "text"))
    return turn, False


def _with_text(turn: VoiceTurn, text: str, words: Sequence[Word]) -> VoiceTurn:
    """A person's text; words that are unchanged keep their times and probabilities, in order."""
    tokens = text.split()
    before = [word.text for word in words]
    found: list[Word] = [Word(None, None, token, None) for token in tokens]
    if any(word.joined for word in words[1:]):  # a language without spaces: character by character is not worth it
        pieces, place = [], 0
        for word in words:
            if text.startswith(word.text, place):
                pieces.append(word)
                place += len(word.text)
        if place == len(text):
            found = pieces
    else:
        for a, b, size in SequenceMatcher(None, before, tokens, autojunk=False).get_matching_blocks():
            for k in range(size):
                found[b + k] = replace(words[a + k], joined=False)
    edited = tuple(dict.fromkeys([*turn.edited, "text"]))
    turn = replace(turn, text=joined_text(found), words=tuple(found), edited=edited)
    return with_marks(turn, drop=(LOW_PROBABILITY, NO_WORDS))


def _spoken_by(
    turn: VoiceTurn, old: VoiceTurn | None, one: Given, renamed: dict[str, str], counts: dict[str, int]
) -> VoiceTurn:
    name = one.speaker or renamed.get(turn.speaker, turn.speaker)
    if old is not None and renamed.get(old.speaker) == name:
        return replace(turn, speaker=name)  # the person has a name now; the link is as sure as before
    if name == turn.speaker:
        return with_marks(turn, [NO_SPEAKER] if name == UNKNOWN else [])
    counts["speaker"] += old is not None
    edited = tuple(dict.fromkeys([*turn.edited, "speaker"]))
    turn = replace(turn, speaker=name, speaker_confidence=None, edited=edited)
    return with_marks(turn, drop=(UNSURE_SPEAKER, SHORT_VOICE, NO_SPEAKER))


def _without(edited: Sequence[str], what: str) -> tuple[str, ...]:
    return tuple(one for one in edited if one != what)


def recognised_again(turn: VoiceTurn, words: Sequence[Word]) -> VoiceTurn:
    """A turn with the words that were found in its span."""
    turn = replace(turn, text=joined_text(words), words=tuple(words))
    return with_marks(turn, word_marks(turn), drop=(LOW_PROBABILITY, NO_WORDS))
