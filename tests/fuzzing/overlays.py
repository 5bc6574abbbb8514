"""Fuzzer of the overlay, which people correct by hand."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

from erc_toolkit.extract.alignment.overlay import apply_overlay, parse_line, read_overlay
from erc_toolkit.extract.alignment.work import line_text
from erc_toolkit.toolkit.base.hashes import text_sha256
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest
from fuzzing.mutations import as_bytes, mutated
from fuzzing.tables_and_json import _file, _lines

UTTERANCES = [
    Utterance("a", "d", 0, "Ann", "You came!", None, "train", media="a.mp4"),
    Utterance("b", "d", 1, "Bob", "I did.", None, "train", media="b.mp4", start=3.2, end=4.0),
    Utterance("c", "d", 2, "Ann", "Why?", None, "train"),
]
# The files are not there: their content has the hash of nothing.
_FACE = {"media_xxh3": "", "span": [0.4, 1.2], "region": None, "confidence": 0.9, "score": 1.5}
_ROWS = (
    {"start": 0.4, "end": 1.2, "score": 0.7, "face": {**_FACE, "boxes": [[0.4, 0.1, 0.2, 0.2, 0.3], [1, 0, 0, 1, 1]]}},
    {"flags": {"low score": "0.1", "speaker not in the picture": "score -1"}, "face": {**_FACE, "span": [3.2, 4.0]}},
    {"score": 0, "flags": {"no words in text": "none"}, "face": {**_FACE, "region": [0, 0, 0.5, 1], "boxes": []}},
)
_GIVEN = ([None, None], [3.2, 4.0], [None, None])
EXAMPLE = "\n".join(
    json.dumps(row)
    for row in (
        {"erc_overlay": 1, "corpus": "mine", "options": {}, "made_by": "erc-toolkit realign"},
        *(
            {"id": u.id, "text_sha256": text_sha256(u.text), "media_xxh3": "", "given": given, **row}
            for u, given, row in zip(UTTERANCES, _GIVEN, _ROWS, strict=True)
        ),
    )
)


def _overlay(rng: random.Random) -> None:
    text = _lines(rng, EXAMPLE) if rng.random() < 0.8 else mutated(rng, [EXAMPLE])
    with _file("o.jsonl", as_bytes(rng, text)) as path:
        corpus, lines = read_overlay(path)
        for line in lines:  # what is accepted can be written, and is read as the same
            assert parse_line(json.loads(line_text(line)), "again") == line
            assert line.start is None or line.end is None or 0 <= line.start < line.end
        manifest = apply_overlay(Manifest(corpus, [], Path("/nowhere"), UTTERANCES), path)
    with _file("m.jsonl", b"") as path:  # and so is the manifest that it is applied to
        write_manifest(dataclasses.replace(manifest, root=path.parent), path)
        again = load_manifest(path)
    assert again.utterances == manifest.utterances


PARSERS: dict[str, Callable[[random.Random], None]] = {"overlay": _overlay}
