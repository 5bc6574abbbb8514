"""A recording piece by piece: what the models find in each, kept in a work file from which a killed run continues."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...toolkit.base.files import append_text
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.reading.plain_json import header_format, parse_json
from .clustering import Span, windows_of
from .recognition import Recogniser, Word, recognise
from .voice_activity import RATE, VoiceActivity, next_piece
from .voice_encoders import VoiceEncoder, checked_vectors

_FORMAT = "erc-toolkit transcribe work"


@dataclass(frozen=True)
class Models:
    """The three models that read a recording."""

    activity: VoiceActivity
    recogniser: Recogniser
    voices: VoiceEncoder

    def provenance(self) -> dict[str, dict[str, object]]:
        """Each model's, by what it does."""
        return {
            "voice_activity": self.activity.provenance(),
            "recognition": self.recogniser.provenance(),
            "voices": self.voices.provenance(),
        }


@dataclass(frozen=True)
class Piece:
    """What was found in a piece; all times in seconds of the recording.

    Attributes:
        start, end: samples at 16 kHz.
        spans: voiced ones.
        words: in order.
        windows: of voices.
        vectors: float32 (windows, dimensions) of length 1.
        language: the language that was read; None if there was no voice so far.
    """

    start: int
    end: int
    spans: list[Span]
    words: list[Word]
    windows: list[Span]
    vectors: np.ndarray
    language: str | None


def compute_piece(models: Models, samples: np.ndarray, start: int, language: str | None) -> Piece:
    """The piece of a recording that begins at a sample.

    Args:
        models: the three models.
        samples: float32 (n,), the whole recording, mono at 16 kHz.
        start: a sample.
        language: of the pieces before, or the one that was asked for; None to detect it.
    """
    end, spans = next_piece(models.activity, samples, start)
    words, language = recognise(models.recogniser, samples, spans, language)
    windows = windows_of(spans)
    parts = [samples[round(a * RATE) : round(b * RATE)] for a, b in windows]
    return Piece(start, end, spans, words, windows, checked_vectors(models.voices, parts), language)


class WorkFile:
    """The finished pieces of an unfinished run, one line of JSON each; a line that a kill has cut off is left out.

    Args:
        path: beside the output.
        key: plain JSON of all that decides what is in the pieces: the recording's hash, models and options.
    """

    def __init__(self, path: Path, key: Mapping[str, object]) -> None:
        self.path, self._key = path, json_sha256(dict(key))

    def read(self) -> list[Piece]:
        """The pieces there, which follow each other from 0; none if the file has another key."""
        pieces: list[Piece] = []
        try:
            with open(self.path, encoding="utf-8") as file:
                if parse_json(file.readline()) != self._header():
                    return []
                for line in file:
                    if not line.endswith("\n"):
                        break
                    piece = _piece(parse_json(line))
                    if piece.start != (pieces[-1].end if pieces else 0) or piece.end <= piece.start:
                        break
                    pieces.append(piece)
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError, AttributeError):  # cut off, or not ours: what came before it counts
            return pieces
        return pieces

    def discard(self) -> None:
        """Removes the file, unless it has another key."""
        try:
            with open(self.path, encoding="utf-8") as file:
                ours = parse_json(file.readline()) == self._header()
        except (FileNotFoundError, ValueError):
            return
        if ours:
            self.path.unlink(missing_ok=True)

    def begin(self, pieces: list[Piece]) -> None:
        """Writes the file anew with these pieces."""
        with open(self.path, "w", encoding="utf-8") as file:
            for row in (self._header(), *map(_row, pieces)):
                file.write(json.dumps(row) + "\n")

    def append(self, piece: Piece) -> None:
        """Adds a piece, and waits until it is on the disk."""
        append_text(self.path, json.dumps(_row(piece)) + "\n")

    def _header(self) -> dict[str, object]:
        return {"format": _FORMAT, "version": 1, "key": self._key}


def is_work_file(path: Path) -> bool:
    """Whether a file is one of `WorkFile`."""
    return header_format(path) == _FORMAT


def read_pieces(
    models: Models, samples: np.ndarray, work: WorkFile, language: str | None, done: Callable[[float], None]
) -> list[Piece]:
    """All pieces of a recording, those of an earlier run from the work file.

    Args:
        models: the three models.
        samples: float32 (n,), mono at 16 kHz.
        work: keeps what is done.
        language: the one that was asked for; None to detect it.
        done: called with the seconds that are done, first with those of an earlier run.
    """
    pieces = work.read()
    work.begin(pieces)
    at = pieces[-1].end if pieces else 0
    done(at / RATE)
    known = pieces[-1].language if pieces else language
    while at < len(samples):
        piece = compute_piece(models, samples, at, known)
        work.append(piece)
        pieces.append(piece)
        at, known = piece.end, piece.language
        done(at / RATE)
    return pieces


def _row(piece: Piece) -> dict[str, object]:
    return {
        "start": piece.start,
        "end": piece.end,
        "spans": piece.spans,
        "words": [[w.start, w.end, w.text, w.probability, w.joined] for w in piece.words],
        "windows": piece.windows,
        "dimensions": int(piece.vectors.shape[1]) if piece.vectors.ndim == 2 else 0,
        "vectors": base64.b64encode(np.ascontiguousarray(piece.vectors, "<f4").tobytes()).decode("ascii"),
        "language": piece.language,
    }


def _piece(row: object) -> Piece:
    if not isinstance(row, dict):
        raise ValueError("not a piece")
    windows = [(float(a), float(b)) for a, b in row["windows"]]
    vectors = np.frombuffer(base64.b64decode(row["vectors"], validate=True), "<f4").astype(np.float32)
    words = [Word(float(a), float(b), str(text), p, bool(joined)) for a, b, text, p, joined in row["words"]]
    return Piece(
        int(row["start"]),
        int(row["end"]),
        [(float(a), float(b)) for a, b in row["spans"]],
        words,
        windows,
        vectors.reshape(len(windows), int(row["dimensions"])),
        row["language"],
    )
