"""Fuzzers of the readers of manifests, tables of folders, transcripts, predictions, and of text in any encoding."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from transcript_forms import JSON_FORMS, TABLES, content

from erc_toolkit.extract.corpora.folder import read_folder
from erc_toolkit.extract.transcripts.json_forms import read_json_turns
from erc_toolkit.extract.transcripts.tables import looks_like_labels, read_rttm, read_table_of_turns
from erc_toolkit.toolkit.base.reading.texts import decode_text
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest
from erc_toolkit.train.config import check, parse_config, parse_yaml
from erc_toolkit.train.scores.predictions import PREDICTIONS, read_predictions
from fuzzing.mutations import as_bytes, mutated, mutated_json

MANIFEST_TABLES = (
    'id,dialogue,speaker,text,label,split,start,end,region,mask,extra\na,d,S,"one, two",joy,dev,1.5,2,0 0 0.5 1,'
    '"{""audio"": ""off""}","{""votes"": [1, 2.5, {""a"": null}]}"\nb,d,T,,Joy,Dev,,,,,\n',
    "\ufeffid;dialogue;speaker;text;start;end\r\na;d;S;hi;1,5;2,5\r\n",
    "sep=;\nID;Dialogue;Speaker;Position\na;d;S;0\n",
    "id\tdialogue\tspeaker\tmedia\tregion\na\td\tS\tx/y.mp4\t0 0 0,5 1\n",
)
MANIFEST_LINES = (
    '{"erc_manifest": 1, "corpus": "mine", "labels": ["neutral", "joy"], "root": ".", "notes": ["a"]}\n'
    '{"id": "a", "dialogue": "d", "position": 0, "speaker": "Ann", "text": "You came!", "label": "Joy", '
    '"split": "Train"}\n'
    '{"id": "b", "dialogue": "d", "speaker": "Bob", "media": "b.mp4", "start": 3.2, "end": 4.0, '
    '"region": [0, 0, 1, 0.5], "mask": {"audio": "off"}, "extra": {"votes": [1, 2], "more": {"x": [[["y"]]]}}}\n',
    '{"id": "a", "dialogue": "d", "speaker": "Ann", "text": "x", "label": "joy"}\n',
)
FOLDER_TABLES = (
    'file,dialogue,speaker,text,label,split,start,end,region,mood\na.mp4,d,A,"x, y",joy,dev,,,,7\n'
    "./b.mp4,e,B,,,,1,2.5,0 0 0.5 1,\n",
    "sep=\t\nid\tdialogue\tspeaker\tposition\tstart_ms\tend_ms\nb\td\tA\t20\t100\t900\na\td\tB\t3\t1000\t2000\n",
    "ID;Dialogue;Speaker;Start;End;Label;Split\r\nb;d;A;0,5;1,25;Joy;Train\r\na;d;B;2,5;3;joy;train\r\n",
)
TURN_TABLES = tuple(content(name) for name in TABLES)
TURN_JSON = tuple(content(name) for name in JSON_FORMS)
RECIPES = (
    "data:\n  modalities: [text, audio]\n  clip: 10\nmodel:\n  hidden: 128\ntrain:\n  lr: 1e-4\n  epochs: 3\n",
    "model: {name: sdt, hidden: 32}\ntrain: {seed: 1, weight_decay: 0.1}\n",
)
PREDICTED = (
    "id,dialogue,position,speaker,true,predicted,predicted_text,p_joy,p_anger\na,d,0,S,joy,joy,joy,0.9,0.1\n"
    'b,d,1,"T, U",,anger,,0.25,0.75\n',
)

_HERE: list[Path] = []


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    """A file of this name; its folder is made once in a process."""
    if not _HERE or not _HERE[0].is_dir():
        _HERE[:] = [Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))]
    path = _HERE[0] / name
    path.write_bytes(data)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _manifest(ending: str, examples: tuple[str, ...]) -> Callable[[random.Random], None]:
    def parse(rng: random.Random) -> None:
        text = _lines(rng, examples[0]) if ending == ".jsonl" and rng.random() < 0.7 else mutated(rng, examples)
        with _file(f"m{ending}", as_bytes(rng, text)) as path:
            manifest = load_manifest(path)
            with _file("back.jsonl", b"") as back:  # what is accepted can be written, and is read as the same
                write_manifest(manifest, back)
                again = load_manifest(back)
        assert (again.utterances, again.labels) == (manifest.utterances, manifest.labels)

    return parse


def _lines(rng: random.Random, example: str) -> str:
    """JSON Lines of which some are changed."""
    return "\n".join(mutated_json(rng, [line]) if rng.random() < 0.5 else line for line in example.splitlines())


def _folder(rng: random.Random) -> None:
    with _file("t.csv", as_bytes(rng, mutated(rng, FOLDER_TABLES))) as path:
        columns = rng.choice((None, None, "file,dialogue,speaker,text"))
        read_folder(path.parent, table=Path("t.csv"), columns=columns, time_unit=rng.choice((None, "s", "ms")))


def _turn_table(rng: random.Random) -> None:
    text, _ = decode_text(as_bytes(rng, mutated(rng, TURN_TABLES)), "t.csv")
    looks_like_labels(text)
    if rng.random() < 0.1:
        read_rttm(text, Path("t.rttm"))
    columns = rng.choice(((), (), ("start", "end", "speaker", "text")))
    _plausible(read_table_of_turns(text, Path("t.csv"), rng.choice((None, "s", "ms")), columns).turns)


def _turn_json(rng: random.Random) -> None:
    if rng.random() < 0.7:
        text = mutated_json(rng, TURN_JSON)
    else:
        text, _ = decode_text(as_bytes(rng, mutated(rng, TURN_JSON)), "t.json")
    found = read_json_turns(text, Path("t.json"), rng.choice((None, "s", "ms")), 10.0, lines=rng.random() < 0.2)
    _plausible(found.turns)


def _plausible(turns: list) -> None:
    for turn in turns:
        assert 0 <= turn["start"] <= 1e8 and 0 <= turn["end"] <= 1e8, turn
        assert isinstance(turn["text"], str) and turn["speaker"], turn


def _predictions(rng: random.Random) -> None:
    with _file(PREDICTIONS, as_bytes(rng, mutated(rng, PREDICTED))) as path:
        read_predictions(path.parent)


def _recipe(rng: random.Random) -> None:
    text, _ = decode_text(as_bytes(rng, mutated(rng, RECIPES)), "r.yaml")
    config = parse_config(parse_yaml(text, "r.yaml"), "r.yaml")
    check(config, "r.yaml")
    yaml.safe_dump(config.as_dict(), allow_unicode=True).encode("utf-8")  # as a run records it


def _text(rng: random.Random) -> None:
    data = as_bytes(rng, mutated(rng, (*MANIFEST_TABLES, *TURN_JSON)))
    text, _ = decode_text(rng.randbytes(rng.randrange(200)) if rng.random() < 0.2 else data, "t.txt")
    assert isinstance(text, str)


PARSERS: dict[str, Callable[[random.Random], None]] = {
    "decode_text": _text,
    "manifest_table": _manifest(".csv", MANIFEST_TABLES),
    "manifest_lines": _manifest(".jsonl", MANIFEST_LINES),
    "folder_table": _folder,
    "transcript_table": _turn_table,
    "transcript_json": _turn_json,
    "predictions": _predictions,
    "recipe": _recipe,
}
