"""The line formats of IEMOCAP's transcriptions and evaluations. Lines of any other form are counted, never an error."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from ...toolkit.base.reading.foreign_text import repaired

# Ses05M_script01_1 is a prefix of Ses05M_script01_1b, so names are always matched in full.
DIALOGUE = re.compile(r"Ses0(?P<session>[1-5])(?P<markers>[FM])_(?:impro|script)\d\d(?:_\d)?[ab]?")
_TURN_ID = r"(?P<id>(?P<dialogue>Ses0[1-5][FM]_\w+)_(?P<speaker>[FM])(?P<number>\d{3}|XX\d+))"
_TURN = re.compile(_TURN_ID + r"\s+\[(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)\]:\s*(?P<text>.*)", re.ASCII)
_UNTIMED = re.compile(_TURN_ID + r"\s*:.*", re.ASCII)
_BARE = re.compile(r"[MF]\s*:.*")
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_HEAD = re.compile(
    rf"\[{_NUMBER} - {_NUMBER}\]\s+{_TURN_ID}\s+(?P<code>\w{{3}})\s+\[{_NUMBER}, {_NUMBER}, {_NUMBER}\]", re.ASCII
)
_VOTE = re.compile(r"(?P<who>C-[EFM]\d*):\s*(?P<names>[^()]*)(?:\((?P<comment>.*)\))?", re.ASCII)
_RATING = re.compile(r"(?P<who>A-[EFM]\d*):\s*(?P<values>[^()]*)(?:\((?P<comment>.*)\))?", re.ASCII)


@dataclass(frozen=True)
class Turn:
    """A transcription line: who says what, from when to when, in seconds."""

    id: str
    speaker: str
    start: float
    end: float
    text: str


@dataclass
class Evaluation:
    """The emotion annotations of a turn.

    Attributes:
        id: id of the turn.
        code: the release's label, three letters.
        ratings: valence, activation, dominance, means over evaluators, 1 to 5.
        votes: for each evaluator the categories that they named; includes the actors' self-evaluations.
        rated: for each evaluator their line of ratings, as written.
    """

    id: str
    code: str
    ratings: tuple[float, float, float]
    votes: dict[str, list[str]] = field(default_factory=dict)
    rated: dict[str, str] = field(default_factory=dict)

    def most_named(self) -> str | None:
        """The category named most often by evaluators who named only one; None if there is a tie or no such vote."""
        named = Counter(names[0] for names in self.votes.values() if len(names) == 1).most_common(2)
        if not named or (len(named) == 2 and named[0][1] == named[1][1]):
            return None
        return named[0][0]


def parse_transcription(text: str, dialogue: str) -> tuple[list[Turn], Counter[tuple[str, str]]]:
    """The turns of one dialogue in the file's order, and the number of lines left out by (noun, reason)."""
    turns: dict[str, Turn] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    for line in _lines(text):
        match = _TURN.fullmatch(line)
        if match is None:
            if _BARE.fullmatch(line):
                left_out["line", "with M: or F: instead of a turn id"] += 1
            elif _UNTIMED.fullmatch(line):
                left_out["line", "without a time stamp"] += 1
            else:
                left_out["transcription line", "in no known format"] += 1
        elif match["number"].startswith("XX"):
            left_out["XX turn", "(never evaluated)"] += 1
        elif match["dialogue"] != dialogue:
            left_out["turn", "of another dialogue"] += 1
        elif match["id"] in turns:
            left_out["duplicate turn", "left out"] += 1
        else:
            text = repaired(match["text"]).replace("\0", "").strip()
            turns[match["id"]] = Turn(match["id"], match["speaker"], float(match["start"]), float(match["end"]), text)
    return list(turns.values()), left_out


def parse_evaluation(text: str, dialogue: str) -> tuple[dict[str, Evaluation], Counter[tuple[str, str]]]:
    """Evaluations of one dialogue by turn, and the number of lines left out by (noun, reason)."""
    found: dict[str, Evaluation] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    current: Evaluation | None = None
    for line in _lines(text):
        if line.startswith("%"):
            continue
        if head := _HEAD.fullmatch(line):
            # Groups 1 and 2 are the times; the last three groups are the ratings.
            ratings = tuple(map(float, head.groups()[-3:]))
            current = Evaluation(head["id"], head["code"], ratings)
            if head["dialogue"] != dialogue:
                left_out["evaluation", "of another dialogue"] += 1
            elif head["id"] in found:
                left_out["duplicate evaluation", "left out"] += 1
            else:
                found[head["id"]] = current
        elif current is not None and (vote := _VOTE.fullmatch(line)):
            current.votes[vote["who"]] = [name.strip() for name in vote["names"].split(";") if name.strip()]
        elif current is not None and (rating := _RATING.fullmatch(line)):
            current.rated[rating["who"]] = rating["values"].strip(" ;\t")
        else:
            left_out["evaluation line", "in no known format"] += 1
    return found, left_out


def _lines(text: str) -> list[str]:
    """The non-blank lines. Splits at CR LF, CR and LF only, not at the other separators of `str.splitlines`."""

    return [line for line in (part.strip() for part in re.split(r"\r\n|\r|\n", text)) if line]
