"""turns.json: everything about the turns of a recording, in a versioned form (docs/reference/turns.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.reading.plain_json import parse_json, value_problem
from ...toolkit.base.reading.plain_numbers import finite, shown
from ..transcripts.turns import OUR_FORMAT, UNKNOWN
from .recognition import Word, joined_text
from .turns import VoiceTurn

VERSION = 1
_LONGEST_NAME = 200


@dataclass
class Document:
    """The content of turns.json.

    Attributes:
        media: `file` (name), `sha256`, `duration` in seconds, `audio_track` (None for the default one).
        turns: in order of time.
        language: code of the language; None if there was no voice.
        reason: why there are no turns, or "".
        faces: the face tracks of each person; empty where nobody has looked.
        faces_without_voice: face tracks that speak in no turn.
        request: the options that decide on the turns; a run with the same ones has nothing to do.
        provenance: versions, models with checksums, parameters, command line.
        files: hashes of the files beside it, by ending; those that it has just written, and those before them.
    """

    media: dict[str, Any]
    turns: list[VoiceTurn]
    language: str | None = None
    reason: str = ""
    faces: dict[str, list[int]] = field(default_factory=dict)
    faces_without_voice: list[int] = field(default_factory=list)
    request: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def corrected(self) -> bool:
        """Whether a person has changed a turn."""
        return any(turn.edited for turn in self.turns) or bool(self.provenance.get("corrected"))


@dataclass(frozen=True)
class ReadDocument:
    """A turns.json as it was read.

    Attributes:
        document: as the toolkit wrote it, except that turns which a person has deleted are not in it.
        given: the turns as they are in the file now, in its order: (id, start, end, speaker, text).
        ids: of `document.turns`, as the file has them.
        changed: whether it was changed since the toolkit wrote it.
    """

    document: Document
    given: list[tuple[str, float, float, str, str]]
    ids: list[str]
    changed: bool


def people_of(turns: Sequence[VoiceTurn]) -> dict[str, tuple[int, float]]:
    """(number of turns, seconds) of each person, in order of appearance."""
    found: dict[str, tuple[int, float]] = {}
    for turn in turns:
        count, seconds = found.get(turn.speaker, (0, 0.0))
        found[turn.speaker] = count + 1, seconds + turn.end - turn.start
    return found


def document_text(document: Document) -> str:
    """The JSON of a document, a line for each field and each word."""
    looked = bool(document.faces or document.faces_without_voice) or any(
        turn.face_confidence is not None for turn in document.turns
    )
    people = []
    for name, (count, seconds) in people_of(document.turns).items():
        person: dict[str, object] = {"name": name, "turns": count, "seconds": round(seconds, 3)}
        people.append({**person, "faces": document.faces.get(name, [])} if looked else person)
    rows = [_turn_row(i, turn) for i, turn in enumerate(document.turns)]
    content: dict[str, object] = {
        "format": OUR_FORMAT,
        "version": VERSION,
        "media": document.media,
        "language": document.language,
        "reason": document.reason,
        "people": people,
        **({"faces_without_voice": document.faces_without_voice} if looked else {}),
        "turns": rows,
        "request": document.request,
        "provenance": document.provenance,
        "files": document.files,
    }
    content["sha256"] = json_sha256(content)
    # A word a line: there are thousands, and people edit this file.
    lists = [row.pop("words") for row in rows]
    for i, row in enumerate(rows):
        row["words"] = f"\0{i}"
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    return re.sub(r'"\\u0000(\d+)"', lambda found: _word_lines(lists[int(found[1])]), text) + "\n"


def _word_lines(words: Any) -> str:
    lines = ",\n".join(f"    {json.dumps(word, ensure_ascii=False, allow_nan=False)}" for word in words)
    return f"[\n{lines}\n   ]" if words else "[]"


def _turn_row(number: int, turn: VoiceTurn) -> dict[str, object]:
    row: dict[str, object] = {
        "id": number,
        "start": turn.start,
        "end": turn.end,
        "speaker": turn.speaker,
        "text": turn.text,
        "probability": None if turn.probability is None else round(turn.probability, 3),
        "speaker_confidence": turn.speaker_confidence,
        "marks": list(turn.marks),
        "edited": list(turn.edited),
    }
    if turn.face_confidence is not None:
        row |= {"face": turn.face, "face_confidence": turn.face_confidence}
    # By which a change in this file is recognised.
    row["written"] = {"start": turn.start, "end": turn.end, "speaker": turn.speaker}
    row["words"] = [
        {
            "start": word.start,
            "end": word.end,
            "text": word.text,
            "probability": None if word.probability is None else round(word.probability, 3),
            **({"joined": True} if word.joined else {}),
        }
        for word in turn.words
    ]
    return row


def is_document(path: Path) -> bool:
    """Whether a file is a turns.json of `transcribe`, changed or not."""
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == OUR_FORMAT


def read_document(path: Path) -> ReadDocument:
    """Reads a turns.json.

    Raises:
        UserError: it cannot be read, is of a newer version, or something in it is wrong; names the turn and field.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != OUR_FORMAT:
        raise UserError(f"{path}: is no turns.json of `erc-toolkit transcribe`")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path}: version {shown(content.get('version'))} of the format; this release reads version {VERSION}: "
            "upgrade the toolkit"
        )
    if problem := value_problem(content):
        raise UserError(f"{path}, {problem}")
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:
        raise UserError(f"{path}: contains NaN or an infinite number, which is no JSON; leave it out") from None
    rows = content.get("turns")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}, field turns: must be a list of objects")
    turns, given, ids = [], [], []
    for number, row in enumerate(rows, 1):
        where = f"{path}, turn {number}"
        start, end = (_seconds(row.get(name), f"{where}, {name}") for name in ("start", "end"))
        speaker, text = (_text(row.get(name), f"{where}, {name}") for name in ("speaker", "text"))
        given.append((str(row.get("id", "")), start, end, speaker, text))
        written = row.get("written")
        if isinstance(written, dict):
            turns.append(_earlier(row, written, where))
            ids.append(str(row.get("id", "")))
    parts = {name: content.get(name) for name in ("media", "request", "provenance", "files")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise UserError(f"{path}, field {name}: is missing or damaged; make the file anew with --overwrite")
    stated = content.pop("sha256", None)
    faces = {}
    for person in _list(content.get("people"), f"{path}, field people"):
        if isinstance(person, dict) and isinstance(person.get("faces"), list):
            faces[str(person.get("name"))] = [track for track in person["faces"] if isinstance(track, int)]
    without = content.get("faces_without_voice")
    document = Document(
        **{name: dict(part) for name, part in parts.items() if isinstance(part, dict)},
        turns=turns,
        language=content["language"] if isinstance(content.get("language"), str) else None,
        reason=str(content.get("reason") or ""),
        faces=faces,
        faces_without_voice=[t for t in without if isinstance(t, int)] if isinstance(without, list) else [],
    )
    return ReadDocument(document, given, ids, changed=stated != json_sha256(content))


def _earlier(row: Mapping[str, Any], written: Mapping[str, Any], where: str) -> VoiceTurn:
    words = tuple(_word(word, where) for word in _list(row.get("words"), f"{where}, words"))
    face = row.get("face")
    return VoiceTurn(
        _seconds(written.get("start"), f"{where}, written"),
        _seconds(written.get("end"), f"{where}, written"),
        _text(written.get("speaker"), f"{where}, written"),
        joined_text(words),
        words,
        finite(row.get("speaker_confidence")),
        tuple(str(mark) for mark in _list(row.get("marks"), f"{where}, marks")),
        tuple(str(what) for what in _list(row.get("edited"), f"{where}, edited")),
        face if isinstance(face, int) else None,
        finite(row.get("face_confidence")),
    )


def _word(word: object, where: str) -> Word:
    if not isinstance(word, dict) or not isinstance(word.get("text"), str):
        raise UserError(f"{where}, words: each must be an object with a text")
    start, end = (
        None if word.get(name) is None else _seconds(word[name], f"{where}, words") for name in ("start", "end")
    )
    return Word(start, end, word["text"], finite(word.get("probability")), word.get("joined") is True)


def _list(value: object, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: must be a list")
    return value or []


def _seconds(value: object, where: str) -> float:
    number = finite(value)
    if number is None or number < 0:
        raise UserError(f"{where}: {shown(value)} is not a time in seconds")
    return round(number, 3)


def _text(value: object, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {shown(value)} is not a text")
    return " ".join((value or "").split())


def clean_name(name: str, where: str) -> str:
    """A speaker's name for all formats: in one line, not too long.

    Raises:
        UserError: it has a character that a format cannot keep, or is too long.
    """
    name = " ".join(name.split())
    if bad := next((c for c in name if c in "<>:"), None):
        raise UserError(f"{where}: the name {shown(name)} has a {bad!r}, which subtitles cannot keep; leave it out")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise UserError(f"{where}: the name {shown(name)} is too long, or has characters that cannot be printed")
    return name or UNKNOWN
