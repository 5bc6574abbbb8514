"""The cue, which every reader of subtitles returns, and the cleaning of its text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Marks without width that writers put around names: they would hide the name, and encoders would read them. The joiners
# U+200C and U+200D are kept, since they change words of Persian and Indian scripts, and emoji.
_INVISIBLE = dict.fromkeys(
    [0x61C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)
# Tabs, no-break and other spaces, control characters; not the line feed.
_SPACES = re.compile(r"[^\S\n]+|[\x00-\x09\x0b-\x1f\x7f]")
# In both, no piece can begin inside another, so that the time is linear for any text.
_TAG = re.compile(r"<[^<>]*>")
_STYLING = re.compile(r"\{\\[^{}]*\}")  # {\an8} and the like, which players accept in SubRip
# Bounded numbers, since html.unescape fails for thousands of digits; writers of SAMI leave out the semicolon of nbsp.
_ENTITY = re.compile(
    r"&(?:(?:nbsp|amp|lt|gt|quot|lrm|rlm)(?![A-Za-z0-9]);?|#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]{1,30};)"
)
# Other words in angle brackets are kept, as they can be names: "<Ann> Hi".
_MARKUP = frozenset(
    "b i u s c v p a k q br em tt rt rb rp hr div del big sub sup font span ruby lang small strong strike center color "
    "size html body sync clear".split()
)
_STAMP = re.compile(r"[\d:.]+", re.ASCII)


@dataclass(frozen=True)
class Cue:
    """Words from start to end (seconds), of one or more lines; `speaker` is empty if the file does not name one."""

    start: float
    end: float
    speaker: str
    text: str


@dataclass
class Cues:
    """What a reader found.

    Attributes:
        cues: in the file's order, without those that have no text.
        notes: what was assumed, repaired or left out, one per line, without the file's name.
        stamped: whether words have times of their own, as in rolling captions.
    """

    cues: list[Cue]
    notes: list[str] = field(default_factory=list)
    stamped: bool = False


def unescape(text: str) -> str:
    """Character references of HTML, such as &amp;, as the characters."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def clean(text: str) -> str:
    """The text without invisible marks and control characters, single spaces, no blank lines; lines are kept."""
    lines = _SPACES.sub(" ", text.translate(_INVISIBLE)).split("\n")
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


def one_line(text: str) -> str:
    """The same in one line."""
    return " ".join(clean(text).split())


def voices(text: str) -> Iterator[tuple[str | None, str]]:
    """(name or None, cleaned text) for each piece of a cue between WebVTT voice tags, without any tags."""
    name, pieces, place = None, [], 0
    text = _STYLING.sub("", text)
    for match in _TAG.finditer(text):
        pieces.append(text[place : match.start()])
        place, tag = match.end(), match[0][1:-1]
        kind = tag.removeprefix("/").split(None, 1)
        if tag[:1] in ("v", "V") and kind[0].split(".")[0] in ("v", "V"):
            if spoken := clean(unescape("".join(pieces))):
                yield name, spoken
            name, pieces = one_line(unescape(kind[1] if len(kind) > 1 else "")), []
        elif tag[:2].lower() == "br" and kind[0].rstrip("/").lower() == "br":
            pieces.append("\n")
        elif not (_is_markup(tag) or _STAMP.fullmatch(tag)):
            pieces.append(match[0])  # "<3 >" is text
    pieces.append(text[place:])
    yield name, clean(unescape("".join(pieces)))


def _is_markup(tag: str) -> bool:
    name = re.split(r"[\s./=]", tag.removeprefix("/")[:20].lower(), maxsplit=1)[0]
    return name in _MARKUP


def voiced_cues(start: float, end: float, text: str) -> list[Cue]:
    """The cues of a text with WebVTT's tags: one for each voice, or one without a speaker."""
    found: list[Cue] = []
    for name, spoken in voices(text):
        if not spoken:
            continue
        if found and name in (None, found[-1].speaker):
            found[-1] = Cue(start, end, found[-1].speaker, f"{found[-1].text}\n{spoken}")
        else:
            found.append(Cue(start, end, name or "", spoken))
    return found


def has_stamps(text: str) -> bool:
    """Whether words inside of cues have times, as in WebVTT's <00:00:01.000>."""
    return any(tag[0][1:2].isdigit() and ":" in tag[0] for tag in _TAG.finditer(text))
