"""The overlay of a corpus: spans and faces, applied only where text and media are those it was made from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import file_sha256, text_sha256
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import MOST_SECONDS, finite_number, shown
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from ..run.rows.origins import read_content, source_of
from .seen import FACE_FLAGS, Seen, parse_seen, span_of

FORMAT = 1
LOW, MISMATCH = "low score", "text and audio do not match"
NO_WORDS, NO_AUDIO = "no words in text", "no audio"
TOO_LONG = "too long to align"
CUT_START, CUT_END = "words cut at the start", "words cut at the end"
FLAGS = (LOW, MISMATCH, NO_WORDS, NO_AUDIO, TOO_LONG, CUT_START, CUT_END, *FACE_FLAGS)
_UNSURE = (LOW, MISMATCH, NO_WORDS, NO_AUDIO, TOO_LONG)  # spans of such rows are not applied
_KNOWN = {"id", "text_sha256", "media_xxh3", "given", "start", "end", "score", "flags", "face"}


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
        face: the speaker's; None if faces were not looked for.
    """

    id: str
    text_sha256: str
    media_xxh3: str
    given: tuple[float | None, float | None]
    start: float | None = None
    end: float | None = None
    score: float = 0.0
    flags: dict[str, str] = field(default_factory=dict)
    face: Seen | None = None

    def matches(self, other: Line) -> bool:
        """Whether both are of the same text, media and span."""
        return (self.text_sha256, self.media_xxh3, self.given) == (other.text_sha256, other.media_xxh3, other.given)

    def without_face(self) -> Line:
        """The same before faces were looked for."""
        flags = {flag: reason for flag, reason in self.flags.items() if flag not in FACE_FLAGS}
        return dataclasses.replace(self, flags=flags, face=None)

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
    for count, one in enumerate(text.splitlines(), 1):
        where = f"{path}, line {count}"
        try:
            row = parse_json(one)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        if count == 1:
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
    given = span_of(row.get("given"))
    if given is None:
        raise wrong("given", "must be two numbers of seconds or null")
    numbers = {}
    for name in ("start", "end"):
        numbers[name] = finite_number(row.get(name))
        if row.get(name) is not None and numbers[name] is None:
            raise wrong(name, f"{shown(row[name])} is not a number of seconds")
    start, end = numbers["start"], numbers["end"]
    if (start is None) != (end is None) or (
        start is not None and end is not None and not 0 <= start < end <= MOST_SECONDS
    ):
        raise wrong("end", "start and end must be a span, or both be missing")
    score = finite_number(row.get("score", 0.0))
    if score is None or not 0 <= score <= 1:
        raise wrong("score", "must be from 0 to 1")
    face = None if row.get("face") is None else parse_seen(row["face"])
    if isinstance(face, str):
        raise wrong("face", face)
    flags = row.get("flags", {})
    if not isinstance(flags, dict) or any(k not in FLAGS or not isinstance(v, str) for k, v in flags.items()):
        raise wrong("flags", f"must map {', '.join(FLAGS)} to a reason")
    return Line(row["id"], row["text_sha256"], row["media_xxh3"], given, start, end, score, flags, face)


def apply_overlay(manifest: Manifest, path: Path) -> Manifest:
    """A manifest with the spans and faces of an overlay, and a note that counts what was and what was not applied.

    Raises:
        UserError: the overlay has an error, or is of another corpus.
    """
    corpus, lines = read_overlay(path)
    if corpus != manifest.corpus:
        raise UserError(f"{path}: is an overlay of {shown(corpus)}, not of {shown(manifest.corpus)}; name another")
    known = {line.id: line for line in lines}
    counts: Counter[str] = Counter()
    contents: dict[str, str] = {}

    def content(source: str | None) -> str:
        if source is not None and source not in contents:
            contents[source] = content_of(manifest.path(source))
        return contents.get(source or "", "")

    utterances = []
    for u in manifest.utterances:
        line = known.pop(u.id, None)
        if line is None:
            counts["not in the overlay"] += 1
        elif not line.matches(basis(u, content(source_of(u, "audio")[0]))):
            counts["whose text, span or media changed since, left as they are"] += 1
        else:
            counts["with new spans" if line.sure else "with flagged spans, left as they are"] += 1
            u = applied(u, line) if line.sure else u
            u, what = _with_face(u, line, content)
            counts.update([what] if what else [])
        utterances.append(u)
    if known:
        counts["of the overlay not in the corpus"] += len(known)
    said = "; ".join(f"{counted(n, 'utterance')} {what}" for what, n in counts.items())
    note = f"overlay {path.name} (sha256 {file_sha256(path)}): {said}"
    return dataclasses.replace(manifest, utterances=utterances, notes=[*manifest.notes, note])


def _with_face(u: Utterance, line: Line, content: Callable[[str | None], str]) -> tuple[Utterance, str]:
    """An utterance with the face of its line, and what that is, in words."""
    if line.face is None:
        return u, ""
    given = line.face.given(line.flags)
    if given is None:
        return u, "without a speaking face in the overlay, whose face extraction chooses"
    if not line.face.matches(Seen.basis(u, content(source_of(u, "visual")[0]))):
        return u, "whose video or region changed since, whose face extraction chooses"
    what = "off screen, masked where a face is needed" if "off_screen" in given else "with the speaker's face"
    return dataclasses.replace(u, speaker_face=given), what


def applied(u: Utterance, line: Line) -> Utterance:
    """An utterance with a line's span.

    Where the audio is a file of its own, the video keeps its span unless both have the same clock and span.
    """
    if not u.audio:
        return dataclasses.replace(u, start=line.start, end=line.end)
    new = dataclasses.replace(u, audio_start=line.start, audio_end=line.end)
    if u.start is not None and (u.start, u.end) == (u.audio_start, u.audio_end):
        new = dataclasses.replace(new, start=line.start, end=line.end)
    return new
