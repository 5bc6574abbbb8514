"""The overlay of a corpus: corrected spans, applied only where text and media are those it was made from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import file_sha256, text_sha256
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import finite, shown
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from ..run.origins import read_content, source_of

FORMAT = 1
LOW, MISMATCH = "low score", "text and audio do not match"
NO_WORDS, NO_AUDIO = "no words in text", "no audio"
CUT_START, CUT_END = "words cut at the start", "words cut at the end"
FLAGS = (LOW, MISMATCH, NO_WORDS, NO_AUDIO, CUT_START, CUT_END)
_UNSURE = (LOW, MISMATCH, NO_WORDS, NO_AUDIO)  # spans of such rows are not applied
_KNOWN = {"id", "text_sha256", "media_xxh3", "given", "start", "end", "score", "flags"}


@dataclass(frozen=True)
class Line:
    """What an overlay says of one utterance.

    Attributes:
        id: of the utterance.
        text_sha256: of its text.
        media_xxh3: XXH3 (128 bits) of the file of its audio; "" without a file.
        given: its span in that file in seconds before, None for the beginning and end of the file.
        start, end: where its words are, in seconds of the file; None if they were not found.
        score: 0 to 1.
        flags: each of `FLAGS` to its reason.
    """

    id: str
    text_sha256: str
    media_xxh3: str
    given: tuple[float | None, float | None]
    start: float | None = None
    end: float | None = None
    score: float = 0.0
    flags: dict[str, str] = field(default_factory=dict)

    def matches(self, other: Line) -> bool:
        """Whether both are of the same text, media and span."""
        return (self.text_sha256, self.media_xxh3, self.given) == (other.text_sha256, other.media_xxh3, other.given)

    @property
    def sure(self) -> bool:
        """Whether its span is to be used."""
        return self.start is not None and not any(flag in self.flags for flag in _UNSURE)


def basis(utterance: Utterance, content: str) -> Line:
    """The line of an utterance before its words are looked for; `content` is the hash of its file."""
    _, start, end = source_of(utterance, "audio")
    return Line(utterance.id, text_sha256(utterance.text), content, (start, end))


def content_of(path: Path) -> str:
    """XXH3 of a file's bytes; "" if it cannot be read."""
    try:
        return read_content(path)
    except OSError:
        return ""


def read_overlay(path: Path) -> tuple[str, list[Line]]:
    """The corpus and the lines of an overlay.

    Raises:
        UserError: names the file, line and field of the first error.
    """
    text, _ = read_text(path, "overlay", windows=False)
    lines: list[Line] = []
    corpus = ""
    seen: set[str] = set()
    for number, one in enumerate(text.splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            row = parse_json(one)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        if number == 1:
            if row.get("erc_overlay") != FORMAT:
                raise UserError(f"{where}, field erc_overlay: must be {FORMAT}; is this an overlay of realign?")
            corpus = str(row.get("corpus", ""))
            continue
        line = parse_line(row, where)
        if line.id in seen:
            raise UserError(f"{where}, field id: {shown(line.id)} occurs twice")
        seen.add(line.id)
        lines.append(line)
    if not corpus:
        raise UserError(f"{path}, line 1, field corpus: missing")
    return corpus, lines


def parse_line(row: dict, where: str) -> Line:
    """A checked line.

    Raises:
        UserError: names `where` and the field.
    """

    def wrong(name: str, problem: str) -> UserError:
        return UserError(f"{where}, field {name}: {problem}")

    if unknown := sorted(set(row) - _KNOWN):
        raise wrong(unknown[0], "unknown")
    for name in ("id", "text_sha256", "media_xxh3"):
        if not isinstance(row.get(name), str):
            raise wrong(name, "must be a string")
    given = row.get("given")
    if not isinstance(given, list) or len(given) != 2 or any(x is not None and _number(x) is None for x in given):
        raise wrong("given", "must be two numbers of seconds or null")
    numbers = {}
    for name in ("start", "end"):
        numbers[name] = _number(row.get(name))
        if row.get(name) is not None and numbers[name] is None:
            raise wrong(name, f"{shown(row[name])} is not a number of seconds")
    start, end = numbers["start"], numbers["end"]
    if (start is None) != (end is None) or (start is not None and end is not None and not 0 <= start < end):
        raise wrong("end", "start and end must be a span, or both be missing")
    score = _number(row.get("score", 0.0))
    if score is None or not 0 <= score <= 1:
        raise wrong("score", "must be from 0 to 1")
    flags = row.get("flags", {})
    if not isinstance(flags, dict) or any(k not in FLAGS or not isinstance(v, str) for k, v in flags.items()):
        raise wrong("flags", f"must map {', '.join(FLAGS)} to a reason")
    first, last = (None if x is None else _number(x) for x in given)
    return Line(row["id"], row["text_sha256"], row["media_xxh3"], (first, last), start, end, score, flags)


def _number(value: object) -> float | None:
    return finite(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def apply_overlay(manifest: Manifest, path: Path) -> Manifest:
    """A manifest with the spans of an overlay, and notes that count what was and what was not applied.

    Raises:
        UserError: the overlay has an error, or is of another corpus.
    """
    corpus, lines = read_overlay(path)
    if corpus != manifest.corpus:
        raise UserError(f"{path}: is an overlay of {shown(corpus)}, not of {shown(manifest.corpus)}; name another")
    known = {line.id: line for line in lines}
    counts: Counter[str] = Counter()
    contents: dict[str, str] = {}
    utterances = []
    for u in manifest.utterances:
        line = known.pop(u.id, None)
        if line is None:
            counts["not in the overlay"] += 1
        elif not line.sure:
            counts["flagged, left as they are"] += 1
        else:
            source = source_of(u, "audio")[0]
            if source is not None and source not in contents:
                contents[source] = content_of(manifest.path(source))
            if line.matches(basis(u, contents.get(source or "", ""))):
                counts["with new spans"] += 1
                u = _applied(u, line)
            else:
                counts["whose text, span or media changed since, left as they are"] += 1
        utterances.append(u)
    if known:
        counts["of the overlay not in the corpus"] += len(known)
    said = "; ".join(f"{counted(n, 'utterance')} {what}" for what, n in counts.items())
    note = f"overlay {path.name} (sha256 {file_sha256(path)}): {said}"
    return dataclasses.replace(manifest, utterances=utterances, notes=[*manifest.notes, note])


def _applied(u: Utterance, line: Line) -> Utterance:
    """Where the audio is a file of its own, the video keeps its span unless both have the same clock and span."""
    if not u.audio:
        return dataclasses.replace(u, start=line.start, end=line.end)
    new = dataclasses.replace(u, audio_start=line.start, audio_end=line.end)
    if u.start is not None and (u.start, u.end) == (u.audio_start, u.audio_end):
        new = dataclasses.replace(new, start=line.start, end=line.end)
    return new
