"""SubRip, WebVTT and SubViewer: lines of times, each followed by lines of text.

Own readers instead of pysubs2's, which drop WebVTT's voices and keep the words of an unreadable cue in the one before;
their patterns take quadratic time ("< a" 40,000 times: 7 s). Messages name the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ..cues import Cues, has_stamps, voiced_cues

_EXAMPLE = "00:01:02,500 --> 00:01:04,000"
_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})", re.ASCII)
_SUBVIEWER = re.compile(r"\d{1,3}:\d{1,2}:\d{1,2}[.]\d{1,3},\d{1,3}:\d{1,2}:\d{1,2}[.]\d{1,3}", re.ASCII)
_WEBEX = re.compile(r"\d{1,9} \"([^\"]{1,80})\" \(\d{1,20}\)")  # the number of a cue, and who speaks
_BLOCK = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")


def split_lines(text: str) -> list[str]:
    """The lines of a file. Not str.splitlines, which would also split at U+0085, U+2028 and others inside texts."""
    # Two carriage returns come from writing Windows' line ends in text mode.
    return text.removeprefix("\ufeff").replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_timed_lines(text: str, source: str | Path) -> Cues:
    """The cues of SubRip, WebVTT (which begins with "WEBVTT") or SubViewer (YouTube's .sbv).

    In SubRip and SubViewer a cue lasts until the next line of times, so that a blank line inside it splits nothing. In
    WebVTT it ends at an empty line; what stands between there and the next cue is kept with a note.

    Raises:
        UserError: a line without times where times are expected, or times that cannot be read; names source and line.
    """
    lines = split_lines(text)
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    reader = _Reader(lines, source)
    if re.split(r"[ \t]", lines[first], maxsplit=1)[0] == "WEBVTT":
        reader.webvtt(first)
    else:
        reader.subrip()
    found = Cues([], reader.notes(), any(has_stamps(spoken) for _, _, spoken in reader.cues))
    for start, end, spoken in reader.cues:
        found.cues += voiced_cues(start, end, spoken)
    if reader.speakers:
        found.cues = [replace(cue, speaker=cue.speaker or reader.speakers.get(cue.start, "")) for cue in found.cues]
    return found


class _Reader:
    def __init__(self, lines: list[str], source: str | Path):
        self.lines, self.source = lines, source
        self.cues: list[tuple[float, float, str]] = []
        self.speakers: dict[float, str] = {}  # by the start of the cue
        self._headers = [i for i, line in enumerate(lines) if _is_header(line)]
        self._joined = self._dropped = 0

    def notes(self) -> list[str]:
        notes = []
        if self._joined:
            notes.append(f"{counted(self._joined, 'cue')} with a blank line inside, whose parts are read as one text")
        if self._dropped:
            notes.append(f"{counted(self._dropped, 'cue number')} without times and text left out")
        return notes

    def subrip(self) -> None:
        headers = self._headers
        self._expect_times(range(headers[0] - 1 if headers else len(self.lines)))
        numbered = any(i > 0 and _is_number(self.lines[i - 1]) for i in headers)
        before = [line for line in self.lines[: headers[0] if headers else 0] if line.strip()]
        number = _number(before[-1]) if before else None
        for i, after in pairwise([*headers, None]):
            assert i is not None
            start, end = self._times(i)
            body, following = self.lines[i + 1 : after], None
            if after is not None and body:
                if _is_number(body[-1]):
                    following = _number(body.pop())
                elif not numbered and body[-1].strip() and len(body) > 1 and not body[-2].strip():
                    body.pop()  # a name of the next cue, as in WebVTT
            paragraphs = _paragraphs(body)
            spoken, number = self._without_numbers(paragraphs, number)
            # Where every line is followed by an empty one, the last number is that of the next cue.
            self._dropped -= after is not None and following is None and spoken[-1:] != paragraphs[-1:]
            if following is not None:
                number = following
            self._joined += len(spoken) > 1
            self.cues.append((start, end, "\n".join(line for paragraph in spoken for line in paragraph)))

    def _without_numbers(self, paragraphs: list[list[str]], number: int | None) -> tuple[list[list[str]], int | None]:
        """Paragraphs without last ones that are only numbers of next cues, whose times and texts were deleted."""
        numbers: list[int] = []
        for paragraph in reversed(paragraphs[1:]):
            only = _number(paragraph[0]) if len(paragraph) == 1 else None
            if only is None or (numbers and only != numbers[-1] - 1):
                break
            numbers.append(only)
            if number is not None and only == number + 1:
                self._dropped += len(numbers)
                return paragraphs[: -len(numbers)], numbers[0]
        return paragraphs, number

    def webvtt(self, first: int) -> None:
        block: list[int] = []
        for i, line in enumerate([*self.lines, ""]):
            if line:
                block.append(i)
                continue
            while block and not self.lines[block[0]].strip():
                block.pop(0)
            if block:
                self._webvtt_block(block, block[0] == first)
            block = []

    def _webvtt_block(self, block: list[int], header: bool) -> None:
        timed = [k for k, i in enumerate(block) if _is_header(self.lines[i])]
        beginning = self.lines[block[0]].strip()
        if not header and _BLOCK.match(beginning):
            return
        if not timed:
            if header:
                return
            if len(block) == 1 and _is_number(beginning):
                self._dropped += 1
            elif self.cues:
                start, end, spoken = self.cues[-1]
                self.cues[-1] = start, end, "\n".join([spoken, *(self.lines[i] for i in block)])
                self._joined += 1
            else:
                self._expect_times(block)
            return
        if timed[0] > 1 and not header:
            self._expect_times(block[: timed[0]])
        for k, after in pairwise([*timed, None]):
            assert k is not None
            start, end = self._times(block[k])
            spoken = [self.lines[i] for i in block[k + 1 : after]]
            if k and (match := _WEBEX.fullmatch(self.lines[block[k - 1]].strip())):
                self.speakers[start] = match[1].strip()
            # The next cue's number, if no empty line comes before it.
            if after is not None and spoken and _is_number(spoken[-1]):
                spoken.pop()
            self.cues.append((start, end, "\n".join(spoken)))

    def _expect_times(self, indices: Iterable[int]) -> None:
        """Raises an error for text where only times and numbers of cues may be."""
        beginning = None
        for i in indices:
            line = self.lines[i].strip()
            if not line:
                beginning = None
                continue
            beginning = i if beginning is None else beginning
            if not _is_number(line):
                raise UserError(
                    f"{self.source}, line {beginning + 1}: {self.lines[beginning].strip()[:40]!r} where the times of a "
                    f"cue are expected, like {_EXAMPLE}"
                )

    def _times(self, index: int) -> tuple[float, float]:
        found = _parsed(self.lines[index])
        if found is None:
            raise UserError(
                f"{self.source}, line {index + 1}: {self.lines[index].strip()[:60]!r} are not valid times; write them "
                f"like {_EXAMPLE}"
            )
        return found


def _is_header(line: str) -> bool:
    """Whether a line has the times of a cue, even if they are damaged; "a --> b" can be text."""
    if "-->" not in line:
        return len(line) < 60 and _SUBVIEWER.fullmatch(line.strip()) is not None
    before, _, after = line.partition("-->")
    return any(part[:1] in "-0123456789" and ":" in part for part in (before.strip(), after.strip()) if part)


def _parsed(line: str) -> tuple[float, float] | None:
    before, arrow, after = line.partition("-->")
    if not arrow:
        before, _, after = line.partition(",")
    stamps = [before.strip(), (after.split(None, 1) or [""])[0]]
    matches = [_CLOCK.fullmatch(stamp) for stamp in stamps]
    if not all(match and int(match[2]) < 60 and int(match[3]) < 60 for match in matches):
        return None
    start, end = (_seconds(match) for match in matches if match)
    return start, end


def _seconds(match: re.Match) -> float:
    hours, minutes, seconds = (int(match[i] or 0) for i in (1, 2, 3))
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + int(match[4].ljust(3, "0"))) / 1000


def _is_number(line: str) -> bool:
    return line.strip().isdecimal()


def _number(line: str) -> int | None:
    digits = line.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None


def _paragraphs(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]
