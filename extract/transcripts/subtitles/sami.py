"""SAMI (.smi, .sami): each <SYNC> replaces what is shown, for each class of paragraphs, usually a language.

An own reader, since pysubs2 mixes the languages of a file and guesses where cues end.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ..cues import Cue, Cues, clean, one_line, unescape

_TAG = re.compile(r"<[^<>]*>")  # linear: no tag can begin inside another
_ATTRIBUTE = re.compile(
    r"""([A-Za-z]{1,20})\s{0,20}=\s{0,20}(?:"([^"<>]{0,200})"|'([^'<>]{0,200})'|([^\s"'<>]{1,200}))"""
)


def read_sami(text: str, source: str | Path) -> Cues:
    """The cues of SAMI, of the class that has the most.

    Raises:
        UserError: no <SYNC>, or one without a time; names source and line.
    """
    reader = _Reader(text, source)
    reader.read()
    return reader.found()


class _Reader:
    def __init__(self, text: str, source: str | Path):
        self._text, self._source = text, source
        self._shown: dict[str, list[tuple[float, float | None, str, str]]] = {}  # class: (start, end, speaker, text)
        self._start: float | None = None
        self._end: float | None = None
        self._class, self._shows = "", False  # whether the last <SYNC> has a paragraph
        self._speakers: dict[str, str] = {}
        self._source_paragraph = False
        self._pieces: list[str] = []

    def read(self) -> None:
        text, place = _without_comments(self._text), 0
        lines = counted_to = 0
        for match in _TAG.finditer(text):
            self._pieces.append(text[place : match.start()])
            place = match.end()
            lines += text.count("\n", counted_to, place)
            counted_to = place
            self._tag(match[0][1:-1], f"{self._source}, line {lines + 1}")
        self._pieces.append(text[place:])
        self._finish(last=True)
        if self._start is None:
            raise UserError(f"{self._source}: has no <SYNC Start=...>, which a SAMI file has for each cue")

    def _tag(self, tag: str, where: str) -> None:
        name = (tag.split(None, 1) or [""])[0].lower()
        if name == "sync":
            self._finish(last=True)
            values = _attributes(tag)
            self._start, self._end = _milliseconds(values.get("start", ""), where), None
            if values.get("end"):
                self._end = _milliseconds(values["end"], where)
            self._class, self._shows = "", False
        elif name == "p":
            self._finish()
            values = _attributes(tag)
            self._class = values.get("class", "").lower()
            self._source_paragraph = values.get("id", "").lower() == "source"
        elif name.rstrip("/") == "br":
            self._pieces.append("\n")
        elif name in ("/body", "/sami"):
            self._finish(last=True)

    def _finish(self, last: bool = False) -> None:
        """Ends the paragraph: its text is the speaker's name, or is shown from the last <SYNC>."""
        spoken, self._pieces = clean(unescape("".join(self._pieces).replace("\r", "\n"))), []
        if self._start is None:
            return
        if self._source_paragraph:
            self._speakers[self._class] = one_line(spoken)
        elif spoken or self._class:
            self._shows = True
            shown = self._shown.setdefault(self._class, [])
            shown.append((self._start, self._end, self._speakers.get(self._class, ""), spoken))
        elif last and not self._shows:  # an empty <SYNC> clears the display
            self._shows = True
            for shown in self._shown.values():
                shown.append((self._start, None, "", ""))
        self._source_paragraph = False

    def found(self) -> Cues:
        counts = Counter({name: sum(bool(row[3]) for row in shown) for name, shown in self._shown.items()})
        if not counts:
            return Cues([])
        notes = []
        (chosen, count), *others = counts.most_common()
        if others := [f"{name.upper() or 'no class'} {many}" for name, many in others if many]:
            which = chosen.upper() or "(none)"
            notes.append(f"the {counted(count, 'cue')} of class {which} are read; left out: {', '.join(others)}")
        shown = sorted(self._shown[chosen], key=lambda row: row[0])
        cues, guessed = [], 0
        following: float | None = None  # the first later start
        for i, (start, end, speaker, spoken) in reversed(list(enumerate(shown))):
            if i + 1 < len(shown) and shown[i + 1][0] > start:
                following = shown[i + 1][0]
            if not spoken:
                continue
            if end is None:
                end = following
            if end is None:
                guessed += 1
                end = start + 0.5 + len(spoken) / 15
            cues.append(Cue(start, end, speaker, spoken))
        cues.reverse()
        if guessed:
            notes.append("the last cue has no end, taken from the length of its text (15 characters per second)")
        return Cues(cues, notes)


def _without_comments(text: str) -> str:
    """The text without <!-- comments -->, with as many lines."""
    pieces, place = [], 0
    while (opened := text.find("<!--", place)) >= 0 and (closed := text.find("-->", opened)) >= 0:
        pieces += [text[place:opened], "\n" * text.count("\n", opened, closed)]
        place = closed + 3
    return "".join([*pieces, text[place:]])


def _attributes(tag: str) -> dict[str, str]:
    return {m[1].lower(): (m[2] or m[3] or m[4] or "").strip() for m in _ATTRIBUTE.finditer(tag[:1000])}


def _milliseconds(value: str, where: str) -> float:
    digits = value.lower().removesuffix("ms").strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise UserError(f"{where}: a SYNC whose start is {value[:40]!r}; write milliseconds, like <SYNC Start=1500>")
    return int(digits) / 1000
