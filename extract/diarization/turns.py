"""The turns of a recording: cut from the runs of its people and its words, and marked where a link is unsure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .clustering import Run
from .recognition import Word, joined_text

PAUSE_S = 1.0  # a longer pause of the same person cuts a turn
LOW_PROBABILITY = "low word probability"
OVERLAP = "overlap"
SHORT_VOICE = "short voice"
UNSURE_SPEAKER = "unsure speaker"
NO_WORDS = "no words"
NO_SPEAKER = "no speaker"
_LEAST_PROBABILITY = 0.5  # of the words of a turn, on average
_LEAST_CONFIDENCE = 0.15
_LEAST_BETWEEN_S = 0.75  # of windows that lie between two people
_LEAST_EMPTY_S = 0.5  # a shorter voice without words is a breath or a click
_EARLY_S = 0.5  # by which a first word may precede the voice
_NEAR_CHANGE_S = 0.75  # within which a change of the speaker moves to the next gap between words


@dataclass(frozen=True)
class VoiceTurn:
    """A turn of a recording.

    Attributes:
        start, end: in seconds, to the millisecond.
        speaker: name of the person.
        text: what is said, in one line; empty for a voice without words.
        words: of the text, in order.
        speaker_confidence: 0 to 1, see `Run`; None where a person named the speaker, or nothing did.
        marks: reasons why something about the turn is unsure, without repetition.
        edited: what a person has changed: "text", "speaker", "times".
        face: number of the face track that speaks; None if there is none, or nobody has looked.
        face_confidence: 0 to 1; None where nobody has looked.
    """

    start: float
    end: float
    speaker: str
    text: str
    words: tuple[Word, ...] = ()
    speaker_confidence: float | None = None
    marks: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    face: int | None = None
    face_confidence: float | None = None

    @property
    def probability(self) -> float | None:
        """The mean probability of the words; None if none has one."""
        known = [word.probability for word in self.words if word.probability is not None]
        return sum(known) / len(known) if known else None


@dataclass
class _Draft:
    start: float
    end: float
    speaker: int
    runs: list[Run]
    words: list[Word] = field(default_factory=list)


def speaker_name(number: int, names: Sequence[str] = ()) -> str:
    """The name of a person, counted from 0 in order of appearance."""
    return names[number] if number < len(names) else f"speaker_{number + 1}"


def cut_turns(
    runs: Sequence[Run],
    words: Sequence[Word],
    names: Sequence[str] = (),
    pause: float = PAUSE_S,
    renumber: bool = True,
) -> list[VoiceTurn]:
    """Turns: a new one where the speaker changes, or after a pause.

    A change of the speaker within voice is moved to the nearest gap between words. Words belong to the run in which
    their middle lies, else to the nearest one.

    Args:
        runs: in order of time.
        words: in order of time.
        names: of the people, in order of appearance; the others are called speaker_N.
        pause: in seconds.
        renumber: number the people by their appearance in what is kept, instead of as the runs do.
    """
    drafts: list[_Draft] = []
    for run in _at_words(runs, words):
        last = drafts[-1] if drafts else None
        if last is not None and last.speaker == run.speaker and run.start - last.end <= pause:
            last.end = max(last.end, run.end)
            last.runs.append(run)
        else:
            drafts.append(_Draft(run.start, run.end, run.speaker, [run]))
    if drafts:
        at = 0
        for word in words:
            middle = ((word.start or 0.0) + (word.end or 0.0)) / 2
            while at + 1 < len(drafts) and drafts[at + 1].start <= middle:
                at += 1
            after = drafts[at + 1] if at + 1 < len(drafts) else None
            late = after is not None and middle - drafts[at].end > after.start - middle
            (after if late and after is not None else drafts[at]).words.append(word)
    kept = [draft for draft in drafts if draft.words or draft.end - draft.start >= _LEAST_EMPTY_S]
    order: dict[int, int] = {}  # somebody may have been heard only in what is left out
    for draft in kept:
        order.setdefault(draft.speaker, len(order) if renumber else draft.speaker)
    return marked_overlaps([_turn(draft, speaker_name(order[draft.speaker], names)) for draft in kept])


def _turn(draft: _Draft, speaker: str) -> VoiceTurn:
    # A word may begin before voice activity is found.
    first = min([draft.start, *(word.start for word in draft.words if word.start is not None)])
    start = first if draft.start - first < _EARLY_S else draft.start
    voiced = [run for run in draft.runs if run.voiced]
    seconds = sum(run.end - run.start for run in voiced)
    confidence = sum(run.confidence * (run.end - run.start) for run in voiced) / seconds if seconds else 0.0
    turn = VoiceTurn(
        round(start, 3),
        round(draft.end, 3),
        speaker,
        joined_text(draft.words),
        tuple(draft.words),
        round(confidence, 3),
    )
    marks = list(word_marks(turn))
    if not seconds:
        marks.append(SHORT_VOICE)
    elif confidence < _LEAST_CONFIDENCE:
        marks.append(UNSURE_SPEAKER)
    if sum(run.between for run in draft.runs) >= _LEAST_BETWEEN_S:
        marks.append(OVERLAP)
    return replace(turn, marks=tuple(marks))


def word_marks(turn: VoiceTurn) -> Iterable[str]:
    """The marks that a turn's words give."""
    if not turn.text:
        yield NO_WORDS
    elif turn.probability is not None and turn.probability < _LEAST_PROBABILITY:
        yield LOW_PROBABILITY


def with_marks(turn: VoiceTurn, add: Iterable[str] = (), drop: Iterable[str] = ()) -> VoiceTurn:
    """The turn with some marks added or dropped."""
    kept = [mark for mark in turn.marks if mark not in set(drop)]
    return replace(turn, marks=tuple(dict.fromkeys([*kept, *add])))


def marked_overlaps(turns: Sequence[VoiceTurn]) -> list[VoiceTurn]:
    """Turns in order of time, where those of different people that lie over each other are marked."""
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.end))
    over: set[int] = set()
    open_turns: list[int] = []
    for i, turn in enumerate(ordered):
        open_turns = [j for j in open_turns if ordered[j].end - turn.start > 0.05]
        over.update(k for j in open_turns if ordered[j].speaker != turn.speaker for k in (i, j))
        open_turns.append(i)
    return [with_marks(turn, [OVERLAP]) if i in over else turn for i, turn in enumerate(ordered)]


def _at_words(runs: Sequence[Run], words: Sequence[Word]) -> list[Run]:
    """The runs, with changes of the speaker inside of voice moved to the nearest gap between words."""
    found = list(runs)
    gaps = [
        (a.end, b.start)
        for a, b in zip(words, words[1:], strict=False)
        if a.end is not None and b.start is not None and b.start >= a.end
    ]
    at = 0
    for i, (one, two) in enumerate(zip(found, found[1:], strict=False)):
        if one.speaker == two.speaker or two.start - one.end > 0.01:
            continue
        while at < len(gaps) and gaps[at][1] < one.end - _NEAR_CHANGE_S:
            at += 1
        near = []
        for a, b in gaps[at:]:
            if a > one.end + _NEAR_CHANGE_S:
                break
            moved = min(max(one.end, a), b)
            if found[i].start < moved < two.end and abs(moved - one.end) <= _NEAR_CHANGE_S:
                near.append((abs(moved - one.end), moved))
        if near:
            moved = min(near)[1]
            found[i] = replace(found[i], end=moved)
            found[i + 1] = replace(two, start=moved)
    return found
