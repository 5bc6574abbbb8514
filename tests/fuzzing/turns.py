"""Fuzzers of turns.json and of the files that are corrected by hand and given back to `transcribe`."""

from __future__ import annotations

import random
from collections.abc import Callable

from erc_toolkit.extract.diarization.corrections import apply_corrections, read_given
from erc_toolkit.extract.diarization.document import Document, document_text, is_document, read_document
from erc_toolkit.extract.diarization.formats import rttm, subrip, webvtt
from erc_toolkit.extract.diarization.recognition import Word, joined_text
from erc_toolkit.extract.diarization.turns import VoiceTurn
from fuzzing.mutations import as_bytes, mutated, mutated_json
from fuzzing.tables_and_json import _file

_WORDS = (
    (Word(0.5, 0.9, "You", 0.9), Word(0.9, 1.4, "came!", 0.4)),
    (Word(2.0, 2.2, "你", 0.8), Word(2.2, 2.5, "好", 0.8, True)),
    (),
)
TURNS = [
    VoiceTurn(0.5, 1.5, "Ann", joined_text(_WORDS[0]), _WORDS[0], 0.8, (), (), 3, 0.9),
    VoiceTurn(2.0, 2.5, "speaker_2", joined_text(_WORDS[1]), _WORDS[1], 0.2, ("overlap",), ("text",)),
    VoiceTurn(3.0, 4.0, "Ann", "", (), None, ("no words",)),
]
_DOCUMENT = document_text(
    Document({"file": "a.wav", "sha256": "0", "duration": 5.0, "audio_track": None}, TURNS, "en", faces={"Ann": [3]})
)
_FILES = {".srt": subrip(TURNS), ".vtt": webvtt(TURNS), ".rttm": rttm(TURNS, "a")}


def _turns(rng: random.Random) -> None:
    text = mutated_json(rng, [_DOCUMENT]) if rng.random() < 0.8 else mutated(rng, [_DOCUMENT])
    with _file("turns.json", as_bytes(rng, text)) as path:
        is_document(path)
        read = read_document(path)
        result = apply_corrections(read.document.turns, read_given(path, read.document.turns, read.ids), ".json", path)
        read.document.turns = result.turns
        path.write_text(document_text(read.document), encoding="utf-8")  # what is accepted can be written
        again = read_document(path)
    assert not again.changed
    assert [(t.text, t.speaker) for t in again.document.turns] == [(t.text, t.speaker) for t in result.turns]


def _corrected(rng: random.Random) -> None:
    ending = rng.choice(list(_FILES))
    with _file(f"turns{ending}", as_bytes(rng, mutated(rng, [_FILES[ending]]))) as path:
        result = apply_corrections(TURNS, read_given(path, TURNS), ending, path)
    document_text(Document({}, result.turns)).encode("utf-8")
    for turn in result.turns:
        assert turn.end > turn.start >= 0 and turn.speaker and turn.text == joined_text(turn.words), turn


PARSERS: dict[str, Callable[[random.Random], None]] = {"turns_json": _turns, "corrected_turns": _corrected}
