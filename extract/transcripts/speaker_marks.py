"""The forms in which texts name who speaks: what a line begins with, without deciding whether it is a name.

Only the first characters of a line are examined, so that the time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .cues import one_line
from .speaker_words import is_diarised, is_ordinary, is_program_name, is_sound

REACH = 100  # characters in which a mark must end
_LONGEST = 60  # characters of a name
BRACKETED = frozenset(["[Name]", "(Name)", "<Name>"])  # the forms in which sounds are written, too
_BRACKETS = {"[": "]", "(": ")", "【": "】", "（": "）", "［": "］", "<": ">"}
_COLONS = ":：﹕"
_DASHES = "-‐‑–—−"
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?", re.ASCII)
_CHANGE = re.compile(r">>+\s{0,3}")
_PARTICLES = frozenset(
    "of the and & y e et und de del della di da do dos das du des van von der den ter ten la le el al bin".split()
)
_WORD = re.compile(r"[^\W_](?:[\w.'’&#·・-])*|#\d{1,4}|&")


@dataclass(frozen=True)
class Mark:
    """What stands before the words of a speaker.

    Attributes:
        form: as it is reported, such as "[Name]:".
        name: as written; empty if the mark only says that the speaker changes.
        kind: "given" (by the user), "program" (as recognisers write), "capitals", "name", "lower", or "" without one.
        size: characters of the mark, including blanks after it.
        remark: words beside the name, such as "V.O.".
        change: begins with ">>".
        dash: begins with a dash.
    """

    form: str
    name: str
    kind: str
    size: int
    remark: str = ""
    change: bool = False
    dash: bool = False

    @property
    def bracketed(self) -> bool:
        """Whether the name is in brackets and no colon follows, as sounds are written."""
        return self.form in BRACKETED


class GivenNames:
    """Names that the user gives, found as written, or in another case if that is unambiguous."""

    def __init__(self, names: Iterable[str]):
        self.names = sorted({name for name in map(one_line, names) if name}, key=lambda name: (-len(name), name))
        folded: dict[str, list[str]] = {}
        for name in self.names:
            folded.setdefault(name.casefold(), []).append(name)
        self._exact = set(self.names)
        self._folded = {key: several[0] for key, several in folded.items() if len(several) == 1}
        self.reach = REACH + max(map(len, self.names), default=0)

    def canonical(self, name: str) -> str | None:
        """The given name that is meant, or None."""
        return name if name in self._exact else self._folded.get(name.casefold())

    def at(self, text: str) -> Iterable[tuple[str, int]]:
        """(name as given, characters) for each name with which a text begins, the longest first."""
        for name in self.names:
            if (known := self.canonical(text[: len(name)])) is not None:
                yield known, len(name)


@lru_cache(8192)  # a transcript is gone through twice, first for evidence
def find_mark(text: str, whole: bool, given: GivenNames | None = None) -> Mark | None:
    """The mark with which a text begins, or None.

    Args:
        text: one line, or its first `REACH` characters (`given.reach`).
        whole: whether that is all of the line.
        given: the only names that count; None for anything that can be a name.
    """
    place, change, dash = 0, False, False
    if match := _CHANGE.match(text):
        place, change = match.end(), True
    while place < len(text) and (text[place] in _DASHES or text[place] == " "):
        dash = dash or text[place] != " "
        place += 1
    lead = (">> " if change else "") + ("- " if dash else "")
    after = _after_clock(text, place)
    for begin in dict.fromkeys((after, place)):
        found = _given(text, begin, whole, given) if given else _likely(text, begin, whole)
        if found is not None:
            form, name, kind, end, remark = found
            while end < len(text) and text[end] == " ":
                end += 1
            return Mark(lead + form, name, kind, end, remark, change, dash)
    if change or dash:
        return Mark(lead.strip(), "", "", place, "", change, dash)
    return None


def _after_clock(text: str, place: int) -> int:
    """Where a line goes on after a time, as in "[00:01:02] Ann: Hi"."""
    opened = text[place : place + 1] in ("[", "(")
    match = _CLOCK.match(text, place + opened)
    if match is None:
        return place
    end = match.end()
    if opened:
        if text[end : end + 1] not in ("]", ")"):
            return place
        end += 1
    while end < len(text) and text[end] in " -–":
        end += 1
    return end


_Found = tuple[str, str, str, int, str]  # form, name, kind, end, remark


def _given(text: str, begin: int, whole: bool, given: GivenNames) -> _Found | None:
    closing = _BRACKETS.get(text[begin : begin + 1])
    start = begin + (closing is not None)
    while start < len(text) and text[start] == " ":
        start += 1
    for name, length in given.at(text[start : start + given.reach]):
        end = start + length
        if closing is not None:
            closed = text.find(closing, end, end + REACH)
            remark = text[end:closed].strip()
            if closed >= 0 and (not remark or remark[0] in ",:;(-–—"):
                colon = _colon(text, closed + 1)
                return _bracket_form(text[begin], colon), name, "given", colon or closed + 1, remark.strip(",:;()-–— ")
            continue
        remark, end = _remark(text, end)
        rest = text[end:]
        if rest[:1] and rest[0] in _COLONS:
            return "Name:", name, "given", end + 1, remark
        if rest.lstrip()[:1] == "|":
            return "Name|", name, "given", text.index("|", end) + 1, remark
        if rest[:1] == " " and rest[1:2] and rest[1] in _DASHES and rest[2:3] in ("", " "):
            return "Name -", name, "given", end + 2, remark
        if whole and _CLOCK.fullmatch(rest.strip()):
            return "Name 0:00", name, "given", len(text), remark
    return None


def _remark(text: str, end: int) -> tuple[str, int]:
    """(words in brackets after a name, where they end); a time is no remark."""
    place = end
    while place < len(text) and text[place] == " ":
        place += 1
    closing = {"(": ")", "[": "]", "（": "）"}.get(text[place : place + 1])
    closed = -1 if closing is None else text.find(closing, place, place + _LONGEST)
    if closed < 0:
        spaced = place if text[place : place + 1] and text[place] in _COLONS else end  # "Ann : Hi", as the French write
        return "", spaced
    remark = text[place + 1 : closed].strip()
    return "" if _CLOCK.fullmatch(remark) else remark, closed + 1


def _colon(text: str, place: int) -> int:
    """The end of a colon after blanks, or 0."""
    while place < len(text) and text[place] == " ":
        place += 1
    return place + 1 if text[place : place + 1] and text[place] in _COLONS else 0


def _bracket_form(opening: str, colon: int) -> str:
    form = "<Name>" if opening == "<" else "[Name]" if opening in "[【［" else "(Name)"
    return form + (":" if colon else "")


def _likely(text: str, begin: int, whole: bool) -> _Found | None:
    window = text[begin : begin + REACH]
    closing = _BRACKETS.get(window[:1])
    if closing is not None:
        closed = window.find(closing, 1, _LONGEST)
        if closed < 0:
            return None
        name, _, remark = window[1:closed].partition(",")
        colon = _colon(window, closed + 1)
        name = name.strip()
        kind = name_kind(name)
        if kind and (colon or kind == "program" or not (kind == "lower" or is_sound(name))):
            return _bracket_form(window[0], colon), name, kind, begin + (colon or closed + 1), remark.strip()
        return None
    for end in _delimiters(window):
        if (found := _before(window, end)) is not None:
            form, name, kind, end, remark = found
            return form, name, kind, begin + end, remark
    if whole and (found := _unmarked(window)) is not None:
        name, kind, form = found
        return form, name, kind, len(text), ""
    word = window.split(" ", 1)[0]
    if is_diarised(word):
        return "Name", word, "program", begin + len(word), ""
    return None


def _delimiters(window: str) -> Iterable[int]:
    """Where colons and bars are, up to the first that ends a phrase; "Ann (00:12):" has a colon that does not."""
    for i, c in enumerate(window[1 : REACH - 1], 1):
        if c in _COLONS or c == "|":
            yield i
            if not window[i + 1 : i + 2].isdigit():
                return


def _before(window: str, end: int) -> _Found | None:
    """The mark that ends with the colon or bar at `end`."""
    name, remark = window[:end].rstrip(), ""
    if name.endswith((")", "]", "）")):
        opened = max(name.rfind(mark) for mark in "([（")
        name, remark = (name[:opened].rstrip(), name[opened + 1 : -1].strip()) if opened > 0 else ("", "")
        remark = "" if _CLOCK.fullmatch(remark) else remark
    kind = name_kind(name)
    following = window[end + 1 : end + 2]
    if not kind:
        return None
    if window[end] == "|":
        return "Name|", name, kind, end + 1, remark
    if window[end] == ":" and following not in ("", " "):
        # "ANN:Hello" and "Анна:Привет", but neither "https://" nor "Re:Zero".
        closed = kind in ("program", "capitals") and len(name) > 1 or not name[0].isascii()
        if not (closed and following.isalpha()):
            return None
    return "Name:", name, kind, end + 1, remark


def _unmarked(line: str) -> tuple[str, str, str] | None:
    """(name, kind, form) of a line that is only a name with a time, "Ann Smith 0:03", or only a program's name."""
    head, _, last = line.rpartition(" ")
    if head and _CLOCK.fullmatch(last.strip("()[]")):
        name = head.strip()
        kind = name_kind(name)
        return (name, kind, "Name 0:00") if kind and kind != "lower" else None
    if is_program_name(line.strip()) and any(c.isdigit() for c in line):
        return line.strip(), "program", "Name"
    return None


@lru_cache(8192)
def name_kind(name: str) -> str:
    """How a text looks as a name: "program", "capitals", "name", "lower", or "" if it cannot be one."""
    if not 0 < len(name) <= _LONGEST or not any(c.isalpha() for c in name):
        return ""
    if is_program_name(name):
        return "program"
    # "Smith, Ann" and "Ann Smith - ACME" are how meeting tools show people.
    words = [word for word in name.replace(", ", " ", 1).split() if word not in _DASHES]
    if len(words) > 5 or is_ordinary(name):
        return ""
    if not all(_WORD.fullmatch(word) for word in words) or any(_ends_sentence(word) for word in words[:-1]):
        return ""
    cased = [c for c in name if c.isupper() or c.islower() or c.istitle()]
    if not cased:  # a script without capitals: sentences look the same, so only what is short
        return "name" if max(map(len, words)) <= 12 and len(name) <= 24 and words[0][0].isalpha() else ""
    if all(not c.islower() for c in cased):
        return "capitals"
    if all(not c.isupper() for c in cased) or any(c in "_0123456789" for c in words[0][1:]):
        return "lower" if len(words) <= 2 else ""
    starts = [word[0] for word in words if word.casefold() not in _PARTICLES]
    if starts and all(not c.islower() for c in starts) and starts[0].isalpha():
        return "name"
    return ""


def _ends_sentence(word: str) -> bool:
    """Whether a word with a full stop is no abbreviation: "Dr. Smith", "J. R. Ewing", but not "Hello. Ann"."""
    return word.endswith(".") and len(word.replace(".", "")) > 4
