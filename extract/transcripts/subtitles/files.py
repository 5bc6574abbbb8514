"""Subtitle files of any format that is read: what a file is, is seen from its content."""

from __future__ import annotations

import re
from pathlib import Path

from ....toolkit.base.errors import UserError
from ..cues import Cue, Cues, clean
from ..speakers import Split, split_speakers
from .decoding import decode, read_bytes
from .rolling import unroll
from .sami import read_sami
from .substation import read_substation
from .timed_lines import read_timed_lines, split_lines
from .ttml import read_ttml

# .xml only if it is TTML, .sub only if it is text.
ENDINGS = (".srt", ".vtt", ".sbv", ".ass", ".ssa", ".ttml", ".dfxp", ".itt", ".xml", ".smi", ".sami", ".sub", ".mpl2")
_COUNTED = re.compile(r"[{\[]\s{0,9}\d{1,9}\s{0,9}[}\]][{\[]\s{0,9}\d{0,9}\s{0,9}[}\]]")
_LONGEST = 10_000  # characters of a line of MicroDVD or MPL2; pysubs2 takes quadratic time for a line


def is_timed_text(path: Path) -> bool:
    """Whether a file with the ending .xml is TTML, and not XML of another kind."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return True  # the error is reported where the file is read
    return re.search(r"<(?:\w{1,20}:)?tt[\s>]", head.replace(b"\0", b"").decode("latin-1")) is not None


def read_cues(path: Path) -> Cues:
    """The cues of a subtitle file, before their speakers are sought.

    Raises:
        UserError: the file cannot be read, is not text, or breaks the rules of its format; names file and line.
    """
    data = read_bytes(path)
    if path.suffix.lower() == ".sub" and data.startswith(b"\0\0\1\xba"):
        raise UserError(f"{path}: images of text (VobSub), not text; convert it with a text recogniser")
    text, note = decode(data, path)
    found = parse_cues(text, path)
    if note:
        found.notes.insert(0, note.removeprefix(f"{path.name}: "))
    return found


def parse_cues(text: str, source: str | Path = "subtitles") -> Cues:
    """The cues of a subtitle file's text; rolling captions have each line once.

    Raises:
        UserError: a line that is not what the format has there; names source and line.
    """
    head = text.removeprefix("\ufeff")[:4096].lstrip()
    if head[:5].upper() == "<SAMI":
        found = read_sami(text, source)
    elif head.startswith("<"):
        if re.match(r"<(v[\s.]|i>|b>|font)", head):
            found = read_timed_lines(text, source)
        else:
            found = read_ttml(text, source)
    elif "-->" not in head and re.search(r"^\[(Script Info|V4\+? Styles|Events)\]", head, re.MULTILINE | re.IGNORECASE):
        found = read_substation(text, source)
    elif _COUNTED.match(head):
        found = _read_counted(text, source)
    else:
        found = read_timed_lines(text, source)
    return unroll(found)


def parse_subtitles(text: str, source: str | Path = "subtitles", allowed: set[str] | None = None) -> list[Cue]:
    """The turns of a subtitle file's text: its cues, split where the speaker changes.

    Args:
        text: the file's content.
        source: the name used in messages.
        allowed: the only names that count as speakers; None for those that the text itself makes likely.

    Raises:
        UserError: a line that is not what the format has there; names source and line.
    """
    return split_speakers(parse_cues(text, source).cues, allowed).turns


def read_turns(path: Path, allowed: set[str] | None = None) -> Split:
    """The turns of one subtitle file with notes on what was found, for `predict`.

    Raises:
        UserError: as `read_cues`.
    """
    found = read_cues(path)
    split = split_speakers(found.cues, allowed)
    return Split(split.turns, split.counts, [f"{path.name}: {note}" for note in (*found.notes, *split.notes)])


def _read_counted(text: str, source: str | Path) -> Cues:
    """MicroDVD, which counts frames, and MPL2, which counts tenths of a second, by pysubs2."""
    import pysubs2

    for number, line in enumerate(split_lines(text), 1):
        if len(line) > _LONGEST:
            raise UserError(f"{source}, line {number}: longer than {_LONGEST} characters; not subtitles")
    kind = "microdvd" if text.lstrip("\ufeff \t\r\n").startswith("{") else "mpl2"
    try:
        events = pysubs2.SSAFile.from_string("\n".join(split_lines(text)), kind).events
        cues = [Cue(e.start / 1000, e.end / 1000, "", clean(e.plaintext)) for e in events if not e.is_comment]
    except pysubs2.exceptions.UnknownFPSError:
        raise UserError(
            f"{source}: MicroDVD counts frames, and the file does not say how many there are in a second; write that "
            "into its first line, like {1}{1}25"
        ) from None
    except (ValueError, ArithmeticError, pysubs2.exceptions.Pysubs2Error) as error:
        raise UserError(f"{source}: cannot be read as {kind} ({str(error)[:80]})") from None
    return Cues([cue for cue in cues if cue.text and cue.start >= 0])
