"""Fuzzers of the readers of manifests, tables of folders, transcripts, predictions, and of text in any encoding."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzzing.mutations import as_bytes, mutated

from erc_toolkit.extract.corpora.folder import read_folder
from erc_toolkit.extract.transcripts.json_forms import read_json_turns
from erc_toolkit.extract.transcripts.tables import looks_like_labels, read_rttm, read_table_of_turns
from erc_toolkit.toolkit.base.texts import decode_text
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest
from erc_toolkit.train.scores.predictions import PREDICTIONS, read_predictions

MANIFEST_TABLES = (
    'id,dialogue,speaker,text,label,split,start,end,region,mask,extra\na,d,S,"one, two",joy,dev,1.5,2,0 0 0.5 1,'
    '"{""audio"": ""off""}","{""votes"": [1, 2.5, {""a"": null}]}"\nb,d,T,,Joy,Dev,,,,,\n',
    "\ufeffid;dialogue;speaker;text;start;end\r\na;d;S;hi;1,5;2,5\r\n",
    "sep=;\nID;Dialogue;Speaker;Position\na;d;S;0\n",
    "id\tdialogue\tspeaker\tmedia\tregion\na\td\tS\tx/y.mp4\t0 0 0,5 1\n",
)
MANIFEST_LINES = (
    '{"erc_manifest": 1, "corpus": "mine", "labels": ["neutral", "joy"], "root": ".", "notes": ["a"]}\n'
    '{"id": "a", "dialogue": "d", "position": 0, "speaker": "Ann", "text": "You came!", "label": "Joy", "split": "Train"}\n'
    '{"id": "b", "dialogue": "d", "speaker": "Bob", "media": "b.mp4", "start": 3.2, "end": 4.0, "region": [0, 0, 1, 0.5], '
    '"mask": {"audio": "off"}, "extra": {"votes": [1, 2], "more": {"x": [[["y"]]]}}}\n',
    '{"id": "a", "dialogue": "d", "speaker": "Ann", "text": "x", "label": "joy"}\n',
)
FOLDER_TABLES = (
    'file,dialogue,speaker,text,label,split,start,end,region,mood\na.mp4,d,A,"x, y",joy,dev,,,,7\n./b.mp4,e,B,,,,1,2.5,0 0 0.5 1,\n',
    "sep=\t\nid\tdialogue\tspeaker\tposition\tstart_ms\tend_ms\nb\td\tA\t20\t100\t900\na\td\tB\t3\t1000\t2000\n",
    "ID;Dialogue;Speaker;Start;End;Label;Split\r\nb;d;A;0,5;1,25;Joy;Train\r\na;d;B;2,5;3;joy;train\r\n",
)
TURN_TABLES = (
    'start,end,text\n1000,2000,"hello there"\n5000,6000,"I am so happy"\n',
    'start,end,speaker,text\n0.5,1.25,Ann,"Hi, you."\n61,62,Bob,“No.”\n',
    'start, end, text\n0, 400, "he said \\"no\\""\n',
    "start\tend\ttext\n0\t1500\t\"Hello, you said.\n1500\t9000\tNo\n",
    'Speaker,Utterance,StartTime,EndTime\nAnn,"Hi","00:00:00,500","00:00:01,250"\nBob,No.,1:01,00:01:02.0\n',
    "sep=;\nStart (s);End (s);Name;Text\n0,5;1,25;Ann;Hi, you.\n",
    "0.000000\t1.500000\tHello\n\\\t200.0\t3000.0\n2.0\t3.5\tWhat?\n",
    "0.5,1.5,Ann,Hello\n2,3,Bob,No\n",
    "start_ms;duration_ms;text\n10;500;hi\n",
    "SPEAKER file 1 0.50 1.25 <NA> <NA> SPEAKER_00 <NA> <NA>\nSPEAKER file 1 2.0 1 <NA> <NA> B <NA> <NA>\n",
)


def _word(word: str, start: object, end: object, **more: object) -> dict[str, object]:
    return {"word": word, "start": start, "end": end, **more}


_WORDS = [_word("Hi", 0.5, 1.0, speaker=0), _word("you", 1.1, 1.5, speaker=0), _word("No", 4.0, 4.5, speaker=1)]
_ITEMS = [
    {"type": "pronunciation", "start_time": "0.5", "end_time": "1", "alternatives": [{"content": "Hi"}]},
    {"type": "punctuation", "alternatives": [{"content": "."}]},
]
TURN_JSON = tuple(
    json.dumps(one, ensure_ascii=False)
    for one in (
        [{"start": 0.5, "end": 1.25, "speaker": "Ann", "text": "Hi, you."}, {"start": 61.0, "end": 62, "text": "é"}],
        {"segments": [{"start": 0.5, "end": 1.25, "text": " Hi", "words": _WORDS, "speaker": "SPEAKER_00"}]},
        {"transcription": [{"timestamps": {"from": "00:00:00,500"}, "offsets": {"from": 500, "to": 1250}, "text": "Hi"}]},
        {"status": "completed", "utterances": [_word("", 1000, 2000, speaker="A", text="hello", words=[])]},
        {"audio_url": "x", "utterances": None, "words": [_word("", 1000, 1500, text="hello", confidence=0.9)]},
        {"results": {"utterances": [{"start": 0.5, "end": 1.0, "transcript": "hi", "speaker": 0}]}},
        {"results": {"channels": [{"alternatives": [{"transcript": "hi", "words": _WORDS}]}]}},
        {"results": {"items": _ITEMS, "speaker_labels": {"segments": [{"items": [{"start_time": "0.5", "speaker_label": "s"}]}]}}},
        {"results": {"audio_segments": [{"transcript": "hi", "start_time": "0.5", "end_time": "1", "speaker_label": "s"}]}},
        {"results": [{"alternatives": [{"transcript": "hi", "words": [{"startTime": "1.500s", "endTime": "2s", "word": "hi", "speakerTag": 1}]}]}]},
        {"results": [{"type": "word", "start_time": 0.5, "end_time": 1, "alternatives": [{"content": "hi", "speaker": "S1"}]}]},
        {"recognizedPhrases": [{"offset": "PT1.5S", "duration": "PT2S", "offsetInTicks": 15000000, "durationInTicks": 2e7, "nBest": [{"display": "hi"}]}]},
        {"phrases": [{"offsetMilliseconds": 500, "durationMilliseconds": 900, "text": "hi", "speaker": 1}]},
        {"monologues": [{"speaker": 0, "elements": [{"type": "text", "value": "Hi", "ts": 0.5, "end_ts": 1.0}, {"type": "punct", "value": "."}]}]},
        {"result": [_word("hi", 0.5, 1.0, conf=1.0)], "text": "hi"},
        {"chunks": [{"timestamp": [0.5, 1.0], "text": "hi"}, {"timestamp": [1.0, None], "text": "you"}]},
        {"words": [{"text": "hi", "start": 0.5, "end": 1.0, "type": "word", "speaker_id": "s"}]},
        [{"participant": {"name": "Ann"}, "words": [{"text": "hi", "start_timestamp": {"relative": 1.5}, "end_timestamp": {"relative": 2}}]}],
    )
)  # fmt: skip
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
        with _file(f"m{ending}", as_bytes(rng, mutated(rng, examples))) as path:
            manifest = load_manifest(path)
            with _file("back.jsonl", b"") as back:  # what is accepted can be written, and is read as the same
                write_manifest(manifest, back)
                again = load_manifest(back)
        assert (again.utterances, again.labels) == (manifest.utterances, manifest.labels)

    return parse


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
}
