"""M3ED's public layout: what the annotation and the folders contain is what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_support import round_trips

from erc_toolkit import manifests
from erc_toolkit.extract.corpora.m3ed import parse_time
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.stats import compare
from erc_toolkit.toolkit.base.errors import UserError

PEOPLE = {
    "A": {"Name": "房似锦", "Age": "mid", "Gender": "female", "OtherName": []},
    "B": {"Name": "朱闪闪", "Age": "young", "Gender": "female", "OtherName": []},
}


def said(letter: str, main: str = "Neutral", several: str = "", start="00:00:01:05", end="00:00:02:10", **fields):
    emotions = {f"EmoAnnotator{i}": main for i in (1, 2, 3)}
    emotions |= {"final_mul_emo": several or main, "final_main_emo": main}
    one = {"StartTime": start, "EndTime": end, "Text": "你先把衣服换了", "Speaker": letter, "EmoAnnotation": emotions}
    return one | fields


def annotation(**dialogues: dict) -> dict:
    """One series for each dialogue's name: anjia_1 belongs to anjia."""
    content: dict = {}
    for dialogue, utterances in dialogues.items():
        series = content.setdefault(dialogue.rpartition("_")[0], {})
        series[dialogue] = {"SpeakerInfo": PEOPLE, "Dialog": utterances}
    return content


def make(root: Path, content: object, *files: str, lists: dict[str, str] | None = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotation.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    for split, text in (lists or {}).items():
        (root / "splitInfo").mkdir(exist_ok=True)
        (root / "splitInfo" / f"movie_list_{split}.txt").write_text(text)
    return root


def mistake(root: Path) -> str:
    with pytest.raises(UserError) as error:
        read_corpus("m3ed", root)
    assert "\n" not in error.value.message
    return error.value.message


def test_text_only(tmp_path):
    first = {
        "anjia_1_10": said("A", "Happy", "Happy,Surprise"),
        "anjia_1_2": said("B", "Anger"),
    }
    make(tmp_path, annotation(anjia_1=first, humamaoba_3={"humamaoba_3_1": said("C", "Fear")}, woju_1={}))
    manifest = read_corpus("m3ed", tmp_path)
    assert [(u.id, u.dialogue, u.position, u.speaker, u.label, u.split) for u in manifest.utterances] == [
        ("anjia_1_2", "anjia_1", 0, "anjia_朱闪闪", "anger", "train"),
        ("anjia_1_10", "anjia_1", 1, "anjia_房似锦", "happy", "train"),
        ("humamaoba_3_1", "humamaoba_3", 0, "humamaoba_3_C", "fear", "val"),
    ]
    assert manifest.labels == ["happy", "neutral", "sad", "disgust", "anger", "fear", "surprise"]
    assert manifest.utterances[1].extra == {
        "series": "anjia",
        "speaker_letter": "A",
        "emotions": ["happy", "surprise"],
        "age": "mid",
        "gender": "female",
        "votes": [["happy"]] * 3,
        "source_start": 1.2,
        "source_end": 2.4,
    }
    assert all(u.media is None and u.audio is None and not u.mask for u in manifest.utterances)
    assert any("1 of 3 utterances have several emotions" in note for note in manifest.notes)
    assert any("text only" in note for note in manifest.notes)


def test_clips_and_videos(tmp_path):
    content = annotation(
        anjia_1={"anjia_1_1": said("A"), "anjia_1_2": said("B"), "anjia_1_3": said("A", start="late")},
        anjia_2={"anjia_2_1": said("A"), "anjia_2_2": said("B")},
    )
    clips = [f"speech/modality_speech/{name}.wav" for name in ("A_anjia_1_1", "A_anjia_2_1", "C_other")]
    make(tmp_path, content, *clips, "video/anjia/anjia_1.mp4")
    manifest = read_corpus("m3ed", tmp_path)
    found = [(u.id, u.media, u.start, u.end, u.audio, u.mask) for u in manifest.utterances]
    folder, video = "speech/modality_speech", "video/anjia/anjia_1.mp4"
    none, late = {"visual": "no video of the dialogue"}, {"visual": "no time stamps in the annotation"}
    assert found == [
        ("anjia_1_1", video, 1.2, 2.4, f"{folder}/A_anjia_1_1.wav", {}),
        ("anjia_1_2", video, 1.2, 2.4, None, {}),  # the audio of the video
        ("anjia_1_3", None, None, None, f"{folder}/A_anjia_1_3.wav", late),  # missing, in its place
        ("anjia_2_1", None, None, None, f"{folder}/A_anjia_2_1.wav", none),
        ("anjia_2_2", None, None, None, f"{folder}/B_anjia_2_2.wav", none),
    ]
    assert any("3 utterances without an audio clip: anjia_1_2, " in note for note in manifest.notes)
    assert any("1 utterance with invalid time stamps: anjia_1_3" in note for note in manifest.notes)
    assert any("1 audio clip of no utterance" in note for note in manifest.notes)


def test_videos_without_clips(tmp_path):
    content = annotation(anjia_1={"anjia_1_1": said("A")}, anjia_2={"anjia_2_1": said("A")})
    first, second = read_corpus("m3ed", make(tmp_path, content, "anjia/anjia_1.mp4")).utterances
    assert (first.media, first.audio, first.mask) == ("anjia/anjia_1.mp4", None, {})
    assert set(second.mask) == {"audio", "visual"} and second.media is None and second.audio is None


def test_splits_by_the_lists_of_the_copy(tmp_path):
    content = annotation(anjia_1={"anjia_1_1": said("A")}, mine_1={"mine_1_1": said("A")})
    lists = {"train": "mine\n", "val": "", "test": "anjia"}
    manifest = read_corpus("m3ed", make(tmp_path / "x", content, lists=lists))
    assert [u.split for u in manifest.utterances] == ["test", "train"]
    assert "'mine'" in mistake(make(tmp_path / "y", content))
    message = mistake(make(tmp_path / "z", content, lists=lists | {"val": "\nmine"}))
    assert "movie_list_val.txt, line 2" in message and "train" in message


def test_the_splits_of_the_release():
    splits = manifests.load("m3ed.yaml")["splits"]
    assert {split: len(names) for split, names in splits.items()} == {"train": 38, "val": 7, "test": 11}
    assert len({name for names in splits.values() for name in names}) == 56


def test_an_utterance_without_a_main_emotion_is_context(tmp_path):
    manifest = read_corpus("m3ed", make(tmp_path, annotation(anjia_1={"anjia_1_1": said("A", "")})))
    assert manifest.utterances[0].label is None
    assert any("without a final main emotion: anjia_1_1" in note for note in manifest.notes)


@pytest.mark.parametrize(
    "content, facts",
    [
        ({}, ["contains no utterances"]),
        ([], ["must be an object"]),
        ({"images": []}, ["'images'", "no split"]),
        ({"anjia": []}, ["anjia"]),
        ({"anjia": {"anjia_1": {}}}, ["anjia_1", "Dialog"]),
        (annotation(anjia_1={"anjia_1_1": said("A", "Glad")}), ["anjia_1_1", "'Glad'", "surprise"]),
        (annotation(anjia_1={"anjia_1_1": said("A", Text=1)}), ["anjia_1_1", "Text"]),
        (annotation(anjia_1={"anjia_1_1": said("A", EmoAnnotation=[])}), ["anjia_1_1", "EmoAnnotation"]),
        (annotation(anjia_1={"anjia_1_1": said("")}), ["anjia_1_1", "Speaker"]),
        (annotation(anjia_1={"anjia_1_1": said("../../A")}), ["anjia_1_1", "no name of a clip"]),
        (annotation(anjia_1={"anjia_1_1": said("..\\A")}), ["anjia_1_1", "no name of a clip"]),
        (annotation(anjia_1={"x": said("A")}, anjia_2={"x": said("A")}), ["'x'"]),
    ],
)
def test_mistakes(tmp_path, content, facts):
    message = mistake(make(tmp_path, content, "speech/A_other_1_1.wav"))
    assert all(fact in message for fact in facts)


def test_a_file_that_is_no_json_or_no_utf_8(tmp_path):
    make(tmp_path, {})
    for data, fact in (
        (b'{"anjia": {', "not JSON"),
        ('{"a": "安家"}'.encode("gbk"), "UTF-8"),
        (b'{"a": 1, "a": 2}', "twice"),
    ):
        (tmp_path / "annotation.json").write_bytes(data)
        message = mistake(tmp_path)
        assert "annotation.json" in message and fact in message


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 24))
def test_time_stamps_are_in_order(hours, minutes, seconds, frames):
    time = parse_time(f"{hours:02d}:{minutes:02d}:{seconds:02d}:{frames:02d}", 25)
    assert time == pytest.approx(hours * 3600 + minutes * 60 + seconds + frames / 25)


@pytest.mark.parametrize(
    "text", ["", "00:00:01", "00:00:61:00", "00:61:00:00", "00:00:01.5", "٠٠:٠٠:٠١:٠١", "0:0:0:1111"]
)
def test_what_is_no_time_stamp(text):
    assert parse_time(text, 25) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["anjia", "anjia_1", "anjia_1_1", "SpeakerInfo", "Dialog", "A"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
fields = st.sampled_from([*said("A"), *said("A")["EmoAnnotation"]])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values, fields, values, st.booleans())
def test_any_annotation_is_read_or_is_one_line(tmp_path, content, field, value, whole):
    """What is accepted can be written as a manifest and read again."""
    one = said("A")
    (one if field in one else one["EmoAnnotation"])[field] = value
    make(tmp_path / "mine", content if whole else annotation(anjia_1={"anjia_1_1": one}), "A_anjia_1_2.wav")
    round_trips("m3ed", tmp_path)


def test_published_counts(tmp_path):
    """The three splits are compared by name, and no number of dialogues is claimed."""
    manifest = read_corpus("m3ed", make(tmp_path, annotation(anjia_1={"anjia_1_1": said("A")})))
    published = compare(manifest)
    assert published["differences"] == [
        "train, utterances: 1, published 17427 (-17426)",
        "val, utterances: 0, published 2821 (-2821)",
        "test, utterances: 0, published 4201 (-4201)",
    ]
    total = sum(split["utterances"] for split in manifests.load("m3ed.yaml")["published"][0]["splits"].values())
    assert total == 24449
