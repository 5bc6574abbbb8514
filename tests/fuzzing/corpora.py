"""Fuzzers of the readers of M3ED, CH-SIMS, EmoryNLP and DailyDialog: files in their public layouts, changed."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest
from fuzzing.mutations import as_bytes, mutated, mutated_json

_EMOTIONS = {
    "EmoAnnotator1": "Happy,Surprise",
    "EmoAnnotator2": "Happy",
    "EmoAnnotator3": "Neutral",
    "final_mul_emo": "Happy,Surprise",
    "final_main_emo": "Happy",
}
_SAID = {
    "StartTime": "00:00:01:05",
    "EndTime": "00:00:02:20",
    "Text": "你好",
    "Speaker": "A",
    "EmoAnnotation": _EMOTIONS,
}
_PEOPLE = {"A": {"Name": "房似锦", "Age": "mid", "Gender": "female", "OtherName": []}, "B": {"Name": "B"}}
_DIALOGUES = {
    "anjia_1": {"SpeakerInfo": _PEOPLE, "Dialog": {"anjia_1_2": _SAID, "anjia_1_1": {**_SAID, "Speaker": "B"}}}
}
M3ED = (json.dumps({"anjia": _DIALOGUES, "woju": {}}),)
_UTTERANCE = {"utterance_id": "s01_e02_c01_u002", "speakers": ["Joey"], "transcript": "Yeah!", "emotion": "Neutral"}
_SCENE = {
    "scene_id": "s01_e02_c01",
    "utterances": [_UTTERANCE, {**_UTTERANCE, "utterance_id": "x", "speakers": ["A", "B"]}],
}
EMORY_JSON = (json.dumps({"season_id": "trn", "episodes": [{"episode_id": "s01_e02", "scenes": [_SCENE]}]}),)
EMORY_TABLES = (
    "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time\n"
    "\"Hi, you\",['Ross Geller'],Sad,1,1,1,2,00:00:02.877,00:00:07.548\n"
    "So.,\"['Bonnie', 'Rachel Green']\",Mad,1,3,1,2,00:00:08.0,00:00:09.1\n",
)
DAILY = ("Say , Jim ? __eou__ Fine . __eou__ \nOh . __eou__ Go ! __eou__\n",)
DAILY_EMOTIONS = ("0 4 \n6 1\n", "0 0\r\n3 5\r\n\r\n")
MMSA = (
    "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
    "video_0001,0001,我不想嫁给李茶,-1.0,-0.6,0.4,0.0,Negative,train\nvideo_0001,0002,b,0,,,,Neutral,valid\n",
    'v,10,"a, b",0.5,,,,Positive,train\nv,9,c,-1,,,,Negative,test\n',
)


def _read(corpus: str, files: dict[str, bytes]) -> None:
    """Reads the files as a corpus; what is accepted can be written, and is read as the same."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory))
    try:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        manifest = read_corpus(corpus, root)
        write_manifest(manifest, root / "back.jsonl")
        again = load_manifest(root / "back.jsonl")
    finally:
        shutil.rmtree(root)
    assert (again.utterances, again.labels) == (manifest.utterances, manifest.labels)


def _json(rng: random.Random, examples: tuple[str, ...]) -> bytes:
    text = mutated_json(rng, examples) if rng.random() < 0.7 else mutated(rng, examples)
    return as_bytes(rng, text)


def _m3ed(rng: random.Random) -> None:
    clips = {"speech/A_anjia_1_2.wav": b"", "anjia/anjia_1.mp4": b""} if rng.random() < 0.5 else {}
    _read("m3ed", {"annotation.json": _json(rng, M3ED), **clips})


def _emorynlp(rng: random.Random) -> None:
    if rng.random() < 0.5:
        _read("emorynlp", {"emotion-detection-trn.json": _json(rng, EMORY_JSON)})
    else:
        _read("emorynlp", {"emorynlp_train_final.csv": as_bytes(rng, mutated(rng, EMORY_TABLES))})


def _dailydialog(rng: random.Random) -> None:
    texts, emotions = (
        as_bytes(rng, mutated(rng, examples) if rng.random() < 0.6 else rng.choice(examples))
        for examples in (DAILY, DAILY_EMOTIONS)
    )
    _read("dailydialog", {"dialogues_train.txt": texts, "dialogues_emotion_train.txt": emotions})


def _mmsa(rng: random.Random) -> None:
    table = as_bytes(rng, mutated(rng, MMSA))
    _read(rng.choice(("ch-sims", "cmu-mosei")), {"label.csv": table, "Raw/video_0001/0001.mp4": b""})


PARSERS: dict[str, Callable[[random.Random], None]] = {
    "m3ed": _m3ed,
    "emorynlp": _emorynlp,
    "dailydialog": _dailydialog,
    "mmsa_table": _mmsa,
}
