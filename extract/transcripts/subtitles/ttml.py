"""TTML (.ttml, .dfxp, .itt, .xml): the XML of broadcasters and of streaming services, with agents as speakers.

An own reader on the parser of the standard library, since pysubs2's knows neither agents, nor the times in ticks and
frames and the older namespaces that most files have. Names are compared without their namespace. Entities are refused,
so that no file can grow in memory or name another file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from xml.parsers import expat

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ..cues import Cue, Cues, clean, one_line

_CLOCK = re.compile(r"(\d{1,4}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,9})|[:;](\d{1,4})(?:\.\d{1,4})?)?", re.ASCII)
_OFFSET = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(h|ms|m|s|f|t)", re.ASCII)
_TIMED = ("body", "div", "p", "span")


@dataclass
class _Element:
    name: str
    start: Fraction
    end: Fraction | None
    agent: str
    timed: bool  # has times of its own
    sequential: bool
    cursor: Fraction  # where the next child of a sequence starts
    pieces: list[tuple[str, str]] = field(default_factory=list)  # (agent, text), of a p or of a timed span
    children: list[Cue] = field(default_factory=list)


def read_ttml(text: str, source: str | Path) -> Cues:
    """The cues of TTML: one for each paragraph, or for each of its spans if only these have times.

    Raises:
        UserError: not XML, not TTML, a declared entity, or a time that cannot be read; names source and line.
    """
    reader = _Reader(source)
    parser = expat.ParserCreate("utf-8")  # the text is decoded already, whatever it declares
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = reader.entity
    parser.buffer_text = True
    reader.parser = parser
    try:
        parser.Parse(text.removeprefix("\ufeff").lstrip().encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise UserError(f"{source}, line {error.lineno}: not XML ({expat.ErrorString(error.code)})") from None
    return reader.found()


class _Reader:
    def __init__(self, source: str | Path):
        self.source = source
        self.parser: expat.XMLParserType | None = None
        self._names: dict[str, str] = {}  # id of an agent: its name
        self._agents: list[str] = []  # ids of the open elements ttm:agent
        self._path: list[str] = []
        self._open: list[_Element] = []
        self._skipped = 0  # depth inside elements whose text is not spoken
        self._cues: list[tuple[Fraction, Fraction | None, list[tuple[str, str]]]] = []
        self._frames, self._ticks = Fraction(30), Fraction(1)

    @property
    def _where(self) -> str:
        assert self.parser is not None
        return f"{self.source}, line {self.parser.CurrentLineNumber}"

    def entity(self, name: str, *_: object) -> None:
        raise UserError(f"{self._where}: declares the entity {name[:40]!r}; remove the DOCTYPE")

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        name = _local(qualified)
        values = {_local(key): value for key, value in attributes.items()}
        if not self._path:
            if name != "tt":
                raise UserError(f"{self._where}: XML of another kind, <{name[:40]}>; TTML begins with <tt>")
            self._rates(values)
        if len(self._path) > 100:
            raise UserError(f"{self._where}: more than 100 elements inside one another")
        self._path.append(name)
        if name == "agent":
            self._agents.append(values.get("id", ""))
        if self._skipped or "body" not in self._path:
            self._skipped += bool(self._skipped)
        elif name in _TIMED:
            self._begin(name, values)
        elif name == "br":
            self._text("\n")
        else:
            self._skipped = 1  # metadata, descriptions, images

    def characters(self, text: str) -> None:
        if self._agents and self._path[-1] == "name":
            who = self._agents[-1]
            self._names[who] = f"{self._names.get(who, '')} {text}"[:500]
        elif not self._skipped:
            self._text(" ".join(("x" + text + "x").split())[1:-1])  # line breaks of the XML are spaces

    def end(self, qualified: str) -> None:
        name = self._path.pop()
        if name == "agent":
            self._agents.pop()
        if self._skipped:
            self._skipped -= 1
        elif name in _TIMED and self._open:
            self._finish(self._open.pop())

    def _rates(self, values: dict[str, str]) -> None:
        def positive(text: str, default: int) -> int:
            return (
                int(text) if text.isascii() and text.isdecimal() and 0 < int(text[:12]) and len(text) < 12 else default
            )

        self._frames = Fraction(positive(values.get("frameRate", ""), 30))
        parts = values.get("frameRateMultiplier", "").replace(":", " ").split()
        if len(parts) == 2:
            self._frames *= Fraction(positive(parts[0], 1), positive(parts[1], 1))
        ticks = self._frames if "frameRate" in values else 1
        self._ticks = Fraction(positive(values.get("tickRate", ""), 0) or ticks)

    def _begin(self, name: str, values: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else None
        base = Fraction(0) if parent is None else parent.cursor if parent.sequential else parent.start
        begin, until, lasts = (self._time(values[key]) if key in values else None for key in ("begin", "end", "dur"))
        start = base + (begin or 0)
        ends = [base + until] if until is not None else []
        ends += [start + lasts] if lasts is not None else []
        if parent is not None and parent.end is not None:
            ends.append(parent.end)
        agent = values.get("agent", "" if parent is None else parent.agent)
        timed = begin is not None or until is not None or lasts is not None
        sequential = values.get("timeContainer") == "seq"
        self._open.append(_Element(name, start, min(ends) if ends else None, agent, timed, sequential, start))

    def _finish(self, element: _Element) -> None:
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.sequential and element.end is not None:
            parent.cursor = element.end
        if element.pieces:
            self._cues.append((element.start, element.end, element.pieces))

    def _text(self, text: str) -> None:
        """Adds text to the paragraph, or to the timed span if the paragraph has no times."""
        owner = None
        for element in self._open:
            if element.name == "p" or (element.name == "span" and element.timed and not (owner and owner.timed)):
                owner = element
        if owner is not None and text:
            owner.pieces.append((self._open[-1].agent, text))

    def _time(self, stamp: str) -> Fraction:
        stamp = stamp.strip()
        if match := _CLOCK.fullmatch(stamp):
            whole = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
            if match[5]:
                return whole + int(match[5]) / self._frames
            return whole + Fraction(int(match[4] or 0), 10 ** len(match[4] or ""))
        if match := _OFFSET.fullmatch(stamp):
            units = {"h": 3600, "m": 60, "s": 1, "ms": Fraction(1, 1000), "f": 1 / self._frames, "t": 1 / self._ticks}
            return Fraction(match[1]) * units[match[2]]
        raise UserError(f"{self._where}: {stamp[:40]!r} is not a time; write it like 00:01:02.500 or 62.5s")

    def found(self) -> Cues:
        cues: list[Cue] = []
        endless = 0
        rows = [row for row in self._cues if clean("".join(text for _, text in row[2]))]
        names = {who: one_line(name) for who, name in self._names.items()}
        for i, (start, end, pieces) in enumerate(rows):
            if end is None:
                endless += 1
                end = rows[i + 1][0] if i + 1 < len(rows) else start
            groups: list[tuple[str, list[str]]] = []
            for agents, text in pieces:
                speaker = " & ".join(filter(None, (names.get(who) or one_line(who) for who in agents.split())))
                if not text.strip():
                    speaker = groups[-1][0] if groups else speaker
                if groups and groups[-1][0] == speaker:
                    groups[-1][1].append(text)
                else:
                    groups.append((speaker, [text]))
            for speaker, texts in groups:
                if spoken := clean("".join(texts)):
                    cues.append(Cue(float(round(start, 6)), float(round(end, 6)), speaker, spoken))
        notes = []
        if endless:
            notes.append(f"{counted(endless, 'cue')} without an end, taken to last until the next")
        return Cues(cues, notes)


def _local(name: str) -> str:
    return name.rsplit(":", 1)[-1]
