"""Who speaks, from the texts of a transcript: which of the marks in it name speakers, and the turns between them.

A mark is evidence only together with others: a name that occurs once in texts without such marks is no speaker. What
the user names, and what a file itself declares (a WebVTT voice, the name of a SubStation event), is taken as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...toolkit.base.words import counted
from .cues import Cue, clean, one_line
from .speaker_marks import BRACKETED, REACH, GivenNames, Mark, find_mark
from .turns import UNKNOWN

_CHANGES = re.compile(r"(?:(?<!\S)|(?<=[.?!…\"”’\])♪]))>>+")
# Where a mark can be inside a line: after the end of a sentence, or at a bracket.
_INNER = re.compile(r"(?<=[.?!…\"”'’)\]♪—]) (?=\S)|(?<=[。？！])(?=[^\s。？！])| (?=[\[(【（])")
_INNER_DASH = re.compile(r"(?<=[.?!…\"”'’)\]♪]) (?=[-–—‐] ?[^\s\d–—-])")
_SPOKEN_DASH = re.compile(r"[-–—‐]{1,2} ?[^\s\d–—-]")
_WIDE = re.compile(r"^(?:≫|＞＞)\s?", re.MULTILINE)  # of Japanese broadcasts
_UNKNOWN = frozenset([UNKNOWN, "unknown speaker", "unidentified speaker", "unidentified", "speaker unknown"])
_FIRST_LETTER = re.compile(r"[^\W\d_]")
_MOST_SHOWN = 12


class Split(NamedTuple):
    """Turns of a transcript; `speaker` is empty where nobody is named.

    Attributes:
        turns: in the order of the cues; each has the times of its cue, and its text in one line.
        counts: the number of turns of each speaker, the unnamed under "".
        notes: what was found, and what was left out of texts, one per line.
    """

    turns: list[Cue]
    counts: Counter[str]
    notes: list[str]


def split_speakers(turns: Sequence[Cue], allowed: Iterable[str] | None = None) -> Split:
    """Splits the cues of one transcript where the speaker changes, and takes the names out of the texts.

    Args:
        turns: of any format, with the speaker if the format declares one, otherwise "".
        allowed: the only names that count as speakers, found literally; None for those that the texts make likely.
    """
    (split,), notes = split_together([turns], allowed)
    return Split(split.turns, split.counts, notes)


def split_together(
    transcripts: Sequence[Sequence[Cue]], allowed: Iterable[str] | None = None
) -> tuple[list[Split], list[str]]:
    """The same for the transcripts of one corpus, in which names may recur; the notes are about all of them."""
    given = None if allowed is None else GivenNames(allowed)
    surveys = [_Survey(cues, given) for cues in transcripts]
    names = _Names(surveys, given)
    splitters = [_Splitter(survey, names) for survey in surveys]
    splits = [Split(one.turns, Counter(turn.speaker for turn in one.turns), []) for one in splitters]
    counts = sum((split.counts for split in splits), Counter())
    forms = sum((one.forms for one in splitters), Counter())
    notes = [summary(counts, forms)]
    if counts[""] and len(counts) > 1:
        notes.append(f"{counted(counts[''], 'turn')} without a speaker's name, recorded as {UNKNOWN!r}")
    if bare := forms["-"] + forms[">>"]:
        notes.append(f"{counted(bare, 'change')} of speaker without a name, at >> or a dash")
    if continued := sum(one.continued for one in splitters):
        notes.append(f"{counted(continued, 'cue')} without a mark between cues with >> continue the speaker before")
    if remarks := sum((one.remarks for one in splitters), Counter()):
        notes.append(f"remarks beside names left out: {_some(remarks)}")
    if wordless := sum((one.wordless for one in splitters), Counter()):
        notes.append(f"{counted(sum(wordless.values()), 'name')} without words left out: {_some(wordless)}")
    return splits, [*notes, *names.notes(counts)]


def summary(counts: Counter[str], forms: Counter[str] | None = None) -> str:
    """One line on who was found: "2 speakers: Ann 12, Bob 9"."""
    named = Counter({name: count for name, count in counts.items() if name})
    if not named:
        return f"no speaker recognised: every turn is recorded as {UNKNOWN!r}, which models treat as one person"
    shown = Counter({form: count for form, count in (forms or Counter()).items() if "Name" in form})
    written = ", ".join(f'"{form}" {count}' for form, count in shown.most_common(6))
    return f"{counted(len(named), 'speaker')}: {_some(named)}" + (f" (written as {written})" if written else "")


def _some(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(_MOST_SHOWN))
    return shown + (", …" if len(counts) > _MOST_SHOWN else "")


class _Survey:
    """The marks of one transcript that may name speakers."""

    def __init__(self, cues: Sequence[Cue], given: GivenNames | None):
        self.given = given
        self.reach = REACH if given is None else given.reach
        # whisper.cpp's diarisation only says that the speaker changes.
        texts = [
            _WIDE.sub(">> ", clean(cue.text.replace("[SPEAKER_TURN]", "\n>> ").replace("\r", "\n"))) for cue in cues
        ]
        self.cues = [
            Cue(cue.start, cue.end, "" if cue.speaker == UNKNOWN else one_line(cue.speaker), text)
            for cue, text in zip(cues, texts, strict=True)
        ]
        self.changes = any(line.startswith(">>") for text in texts for line in text.split("\n"))
        self.changed = self.unchanged = 0  # lines that begin with >>, or with a mark without it
        self.marks: list[tuple[Mark, bool]] = []  # (mark with a name, whether it begins a line)
        self.alone: set[str] = set()  # names that are all of a cue, as sounds are
        self.lower: Counter[str] = Counter()  # marks with lower case after them
        self.speech = self.covered = self.cased = self.capital = self.small = 0
        self.declared = Counter(cue.speaker.casefold() for cue in self.cues if cue.speaker)
        for cue in self.cues:
            self._survey(cue)

    @property
    def coverage(self) -> float:
        """The share of the cues, of those without a declared speaker, that begin with a mark."""
        return self.covered / self.speech if self.speech else 0.0

    @property
    def continues(self) -> bool:
        """Whether speakers change only at >>, so that a cue without it continues the speaker before."""
        return self.changed > self.unchanged

    def find(self, line: str, place: int = 0) -> Mark | None:
        return find_mark(line[place : place + self.reach], len(line) - place <= self.reach, self.given)

    def _survey(self, cue: Cue) -> None:
        first = True
        for line in cue.text.split("\n"):
            for piece, begins in self.pieces(line):
                mark = self.find(piece)
                self.changed += mark is not None and mark.change
                if mark is not None and mark.name:
                    self.unchanged += not mark.change
                    key = mark.name.casefold()
                    self.marks.append((mark, begins))
                    if mark.size >= len(piece) and piece == cue.text:
                        self.alone.add(key)
                    if (letter := _FIRST_LETTER.search(piece, mark.size, mark.size + 20)) and letter[0].islower():
                        self.lower[key] += 1
                elif first and _is_sound_line(piece):
                    continue
                if first and not cue.speaker:
                    self.speech += 1
                    self.covered += mark is not None and bool(mark.name)
                    letter = _FIRST_LETTER.search(piece, mark.size if mark else 0, REACH)
                    if letter and letter[0].lower() != letter[0].upper():
                        self.cased += 1
                        self.capital += letter[0].isupper()
                        self.small += any(c.islower() for c in piece[mark.size if mark else 0 :][:REACH])
                first = False

    def pieces(self, line: str) -> Iterator[tuple[str, bool]]:
        """(piece, whether it begins a line or follows ">>") of a line, cut where a mark could be."""
        cuts = [match.start() for match in _CHANGES.finditer(line) if match.start()] if self.changes else []
        for begin, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
            part = line[begin:end].strip()
            head = self.find(part)
            place, free = 0, head.size if head else 1  # a mark begins only where the one before is complete
            for match in _INNER.finditer(part, 1):
                if match.start() < free:
                    continue
                mark = self.find(part, match.end())
                if mark is not None and mark.name and mark.kind != "lower":
                    yield part[place : match.start()], place == 0
                    place, free = match.end(), match.end() + mark.size
            yield part[place:], place == 0


def _is_sound_line(line: str) -> bool:
    return (line[:1] in "[(（［【*♪♫#" and line[-1:] in "])）］】*♪♫#") or not any(c.isalnum() for c in line)


class _Names:
    """The names that are speakers, by their case-folded form."""

    def __init__(self, surveys: Sequence[_Survey], given: GivenNames | None):
        self._given = given
        self._rejected: Counter[str] = Counter()
        spellings: dict[str, Counter[str]] = {}
        for survey in surveys:
            for cue in survey.cues:
                if cue.speaker:
                    spellings.setdefault(cue.speaker.casefold(), Counter())[cue.speaker] += 1
        declared = set(spellings)
        self.accepted: set[str] = set()
        if given is None:
            self.accepted = _accepted(surveys, declared)
            for survey in surveys:
                for mark, begins in survey.marks:
                    key = mark.name.casefold()
                    if key in self.accepted:
                        spellings.setdefault(key, Counter())[mark.name] += 1
                    elif begins and mark.kind in ("capitals", "name"):
                        self._rejected[f'"{mark.form.replace("Name", mark.name)}"'] += 1
        # The most frequent spelling; of two, the one with small letters.
        self._spelling = {
            key: max(counts, key=lambda one: (counts[one], one != one.upper())) for key, counts in spellings.items()
        }
        self._several = {key: counts for key, counts in spellings.items() if len(counts) > 1}

    def speaker(self, name: str) -> str:
        """The one spelling of a speaker's name."""
        if self._given is not None and (known := self._given.canonical(name)) is not None:
            return known
        if name.casefold() in _UNKNOWN:
            return ""
        return self._spelling.get(name.casefold(), name)

    def is_speaker(self, mark: Mark) -> bool:
        return mark.kind == "given" or (self._given is None and mark.name.casefold() in self.accepted)

    def notes(self, counts: Counter[str]) -> list[str]:
        notes = []
        for key, several in list(self._several.items())[:_MOST_SHOWN]:
            if self._given is None:
                notes.append(f"{_some(several)}: taken for one speaker, {self._spelling[key]}")
        if self._rejected:
            notes.append(
                f"{counted(sum(self._rejected.values()), 'line')} with what may be a name, left in the text because "
                f"nothing confirms it: {_some(self._rejected)}; to decide, name all speakers with --speakers"
            )
        if self._given is not None:
            if missing := [name for name in self._given.names if not counts[name]]:
                notes.append(f"--speakers: never found: {', '.join(sorted(missing))}")
            if others := Counter({n: c for n, c in counts.items() if n and n not in self._given.names}):
                notes.append(f"declared as speakers by the file, though not among --speakers: {_some(others)}")
        return notes


@dataclass
class _Evidence:
    """What speaks for a name."""

    kinds: set[str] = field(default_factory=set)
    forms: Counter[str] = field(default_factory=Counter)  # without >> and dash
    marks: int = 0  # that begin a line, or could not be a sentence
    words: int = 1
    changed: int = 0  # after >>


def _kinds(evidence: _Evidence) -> set[str]:
    return {"name" if kind == "capitals" else kind for kind in evidence.kinds}


def _counts(mark: Mark, begins: bool) -> bool:
    """Whether a mark is evidence: "Then I saw him. Remember: no" is none."""
    return begins or mark.kind in ("program", "capitals") or mark.form.startswith("[")


def _accepted(surveys: Sequence[_Survey], declared: set[str]) -> set[str]:
    evidence: dict[str, _Evidence] = {}
    alone = {key for survey in surveys for key in survey.alone}
    for survey in surveys:
        for mark, begins in survey.marks:
            one = evidence.setdefault(mark.name.casefold(), _Evidence(words=len(mark.name.split(",")[0].split())))
            one.kinds.add(mark.kind)
            if _counts(mark, begins):
                one.marks += 1
                one.forms[mark.form.removeprefix(">> ").removeprefix("- ")] += 1
                one.changed += mark.change
    cased = sum(s.cased for s in surveys)
    mixed = 2 * sum(s.small for s in surveys) > cased  # not all in capitals
    proper = cased >= 5 and sum(s.capital for s in surveys) >= 0.8 * cased
    lower = sum((s.lower for s in surveys), Counter())
    by_form: Counter[str] = sum((one.forms for one in evidence.values()), Counter())
    coverage = dict.fromkeys(evidence, 0.0)
    for survey in surveys:
        for key in {mark.name.casefold() for mark, begins in survey.marks if _counts(mark, begins)}:
            coverage[key] = max(coverage[key], survey.coverage)
    accepted = {key for key, one in evidence.items() if "program" in one.kinds or (key in declared and one.marks)}
    # Sentences with a colon go on in lower case, where turns begin with a capital.
    usable = {
        key
        for key, one in evidence.items()
        if one.marks
        and not (
            proper
            and "capitals" not in one.kinds
            and lower[key] >= one.marks
            and (one.marks == 1 or coverage[key] < 0.9)
        )
    }
    # What also is all of a cue is a sound, unless it has a colon somewhere.
    usable -= {key for key in usable & alone if BRACKETED.issuperset(evidence[key].forms)}
    recurring = {key for key in usable if evidence[key].marks > 1}
    of_kind = Counter(kind for key in usable for kind in _kinds(evidence[key]))
    for key in usable - accepted:
        one = evidence[key]
        capital = one.kinds & {"capitals", "name"}
        if one.marks > 1:
            if capital or set(one.forms) & {"Name|", "[Name]:", "(Name):", "<Name>:"} or coverage[key] >= 0.5:
                accepted.add(key)
            continue
        form = next(iter(one.forms))
        if one.changed or form in ("Name|", "[Name]:", "Name 0:00"):  # forms that sentences do not have, if they recur
            if capital and (by_form[form] > 1 or one.changed):
                accepted.add(key)
            continue
        if not capital and form != "Name:":
            continue
        # Capitals among small letters are a form as well, and so are full names; one word may begin any sentence.
        sure = "capitals" in one.kinds and len(recurring) and by_form[form] > 2 and proper and mixed
        rare = len(recurring) >= 2 and one.words == 1 and not sure  # it does not recur itself
        enough = 0.9 if recurring else 0.5
        alike = max(of_kind[kind] for kind in _kinds(one))
        if sure or (coverage[key] >= enough and not rare and (alike > 1 or form == "Name:" and coverage[key] == 1)):
            accepted.add(key)
    return accepted


class _Splitter:
    """Applies the names to one transcript."""

    def __init__(self, survey: _Survey, names: _Names):
        self._survey, self._names = survey, names
        self.turns: list[Cue] = []
        self.forms: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()
        self.wordless: Counter[str] = Counter()
        self.continued = 0
        self._last = ""
        for cue in survey.cues:
            self._split(cue)

    def _split(self, cue: Cue) -> None:
        lines = cue.text.split("\n")
        dashed = not cue.speaker and _is_dialogue(lines)
        speaker, spoken, begun = self._names.speaker(cue.speaker) if cue.speaker else "", [], False
        pieces = [(piece, change) for line in lines for piece, change in self._pieces(line, dashed)]
        if self._survey.continues and not cue.speaker and self._last and pieces:
            mark = self._survey.find(pieces[0][0])
            if not _is_sound_line(cue.text) and not (
                mark and (mark.change or mark.dash or self._names.is_speaker(mark))
            ):
                speaker, self.continued = self._last, self.continued + 1
        for piece, dash in pieces:
            mark = self._survey.find(piece)
            named = mark is not None and bool(mark.name) and self._names.is_speaker(mark)
            change = mark is not None and mark.change and self._survey.changes and not cue.speaker
            if mark is not None and (named or change or dash):
                who = self._names.speaker(mark.name) if named else ""
                if change or dash or who != speaker:
                    self._close(cue, speaker, spoken, begun and not spoken)
                    speaker, spoken = who, []
                begun = named
                self.forms[mark.form if named else ">>" if change else "-"] += 1
                if named and mark.remark:
                    self.remarks[f"({mark.remark})"] += 1
                piece = piece[mark.size :] if named else _without_lead(piece, change, dash)
            if piece := piece.strip():
                spoken.append(piece)
        self._close(cue, speaker, spoken, begun and not spoken)
        self._last = speaker

    def _pieces(self, line: str, dashed: bool) -> Iterator[tuple[str, bool]]:
        """(piece, whether its dash begins a turn) of a line, cut where speakers change."""
        kept = ""
        for piece, _ in self._survey.pieces(line):
            mark = self._survey.find(piece)
            if kept and not (mark and (mark.change or self._names.is_speaker(mark))):
                kept = f"{kept} {piece}" if not kept.endswith(("。", "？", "！")) else kept + piece
                continue
            if kept:
                yield from _at_dashes(kept, dashed)
            kept = piece
        if kept:
            yield from _at_dashes(kept, dashed)

    def _close(self, cue: Cue, speaker: str, spoken: list[str], wordless: bool) -> None:
        self.wordless[speaker] += wordless
        if text := one_line(" ".join(spoken)):
            self.turns.append(Cue(cue.start, cue.end, speaker, text))


def _is_dialogue(lines: list[str]) -> bool:
    """Whether dashes begin turns: of two lines, or of the second after a complete sentence, or twice in one line."""
    dashed = [i for i, line in enumerate(lines) if _SPOKEN_DASH.match(line)]
    if not dashed:
        return False
    if len(dashed) > 1:
        return True
    if dashed[0] == 0:
        return _INNER_DASH.search(lines[0]) is not None
    return lines[dashed[0]].startswith(("- ", "– ")) and lines[dashed[0] - 1].endswith(tuple('.?!…"”)]'))


def _at_dashes(piece: str, dashed: bool) -> Iterator[tuple[str, bool]]:
    if not dashed or not _SPOKEN_DASH.match(piece):
        yield piece, False
        return
    place = 0
    for match in _INNER_DASH.finditer(piece):
        yield piece[place : match.start()], True
        place = match.end()
    yield piece[place:], True


def _without_lead(piece: str, change: bool, dash: bool) -> str:
    """A piece without its >> or dash."""
    piece = piece.lstrip("> ") if change else piece
    return piece.lstrip("-‐–— ") if dash else piece
