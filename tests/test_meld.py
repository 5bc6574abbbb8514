"""MELD's raw layout: what lies in a folder is what the manifest says, defects included."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter

import pytest
from file_support import looks_at_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erc_toolkit import manifests
from erc_toolkit.extract.corpora.meld import parse_time, read_meld, repair_text
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.stats import compare
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest
from erc_toolkit.toolkit.media import ffmpeg_binary

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
TEST = {"folder": "output_repeated_splits_test", "table": "test_sent_emo.csv"}


def make(
    root, rows, split="train", folder="train_splits", table="train_sent_emo.csv", clips=(), times="0:00:01,0:00:02"
):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / table).write_bytes((HEADER + "".join(f"1,{row},1,1,{times}\n" for row in rows)).encode())
    for clip in clips:
        (root / folder / clip).touch()
    return root


def test_ids_order_and_gaps(tmp_path):
    rows = ['"Hi, you",Ross,joy,positive,3,0', "Oh.,Rachel,anger,negative,3,4", "Well,Ross,neutral,neutral,1,0"]
    manifest = read_meld(make(tmp_path, rows, clips=["dia3_utt0.mp4", "dia1_utt0.mp4"]))
    assert [u.id for u in manifest.utterances] == ["train_dia3_utt0", "train_dia3_utt4", "train_dia1_utt0"]
    assert [u.position for u in manifest.utterances] == [0, 1, 0] and manifest.utterances[0].text == "Hi, you"
    assert manifest.utterances[1].media == "train_splits/dia3_utt4.mp4"
    assert any("1 row without a clip: dia3_utt4.mp4" in note for note in manifest.notes)
    assert any("dev_sent_emo.csv" in note for note in manifest.notes)
    assert manifest.labels == ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


def test_rows_of_a_dialogue_are_gathered(tmp_path):
    rows = ["a,A,joy,positive,3,0", "b,B,joy,positive,1,0", "c,C,joy,positive,3,1"]
    manifest = read_meld(make(tmp_path, rows))
    assert [(u.dialogue, u.position, u.text) for u in manifest.utterances] == [
        ("train_dia3", 0, "a"),
        ("train_dia3", 1, "c"),
        ("train_dia1", 0, "b"),
    ]


def test_speaker_slots_and_pickle_keys(tmp_path):
    rows = ["a,Joey,joy,positive,7,0", "b,Ross,joy,positive,7,1", "c,Joey,joy,positive,7,2", "d,Ross,joy,positive,8,0"]
    make(tmp_path, rows)
    make(tmp_path, rows, folder="dev_splits_complete", table="dev_sent_emo.csv")
    make(tmp_path, rows, **TEST)
    found = {u.id: u.extra for u in read_meld(tmp_path).utterances}
    assert [found[f"train_dia{k}"]["speaker_index"] for k in ("7_utt0", "7_utt1", "7_utt2", "8_utt0")] == [0, 1, 0, 0]
    assert [found[f"{s}_dia7_utt0"]["pickle_key"] for s in ("train", "val", "test")] == [7, 1046, 1160]


def test_both_label_sets(tmp_path):
    make(tmp_path, ["a,A,Sadness,negative,0,0", "b,B,joy,positive,0,1"])
    emotion, sentiment = read_meld(tmp_path), read_meld(tmp_path, label_set="sentiment")
    assert [u.label for u in emotion.utterances] == ["sadness", "joy"] and sentiment.labels == [
        "neutral",
        "positive",
        "negative",
    ]
    assert [u.label for u in sentiment.utterances] == ["negative", "positive"]
    assert (
        sentiment.utterances[0].extra["emotion"] == "sadness" and emotion.utterances[0].extra["sentiment"] == "negative"
    )


CLIPS = [
    "dia0_utt0.mp4",
    "final_videos_testdia0_utt0.mp4",
    "dia0_utt1.mp4",
    "._dia0_utt1.mp4",
    "dia9_utt9.mp4",
    "x.mp4",
    "final_videos_testdia0_utt2.mp4",
]


@pytest.mark.parametrize("choice, first", [("recut", "final_videos_testdia0_utt0.mp4"), ("plain", "dia0_utt0.mp4")])
def test_duplicate_clips_orphans_and_apple_files(tmp_path, choice, first):
    make(tmp_path, [f"{t},A,joy,positive,0,{t}" for t in range(3)], clips=CLIPS, **TEST)
    manifest = read_meld(tmp_path, test_clips=choice)
    assert [u.media.split("/")[1] for u in manifest.utterances] == [
        first,
        "dia0_utt1.mp4",
        "final_videos_testdia0_utt2.mp4",
    ]
    assert [u.extra.get("clip") for u in manifest.utterances] == [choice, None, "recut"]
    assert any("1 clip without a row" in n and "dia9_utt9.mp4" in n for n in manifest.notes)
    assert any(f"{choice} clip used" in n and " row" in n and first in n for n in manifest.notes)


def test_tables_further_down(tmp_path):
    make(tmp_path / "MELD.Raw" / "train", ["a,A,joy,positive,0,0"], clips=["dia0_utt0.mp4"])
    assert read_meld(tmp_path).utterances[0].media == "MELD.Raw/train/train_splits/dia0_utt0.mp4"


def test_renamed_layouts_by_option(tmp_path):
    make(tmp_path / "deep", ["a,A,joy,positive,0,0"], folder="clips/tr", table="all.csv", clips=["dia0_utt0.mp4"])
    for options in (
        {"train_table": "deep/all.csv", "train_folder": "deep/clips/tr"},
        {"train_table": "all.csv", "train_folder": "tr"},
    ):
        assert read_meld(tmp_path, **options).utterances[0].media == "deep/clips/tr/dia0_utt0.mp4"
    with pytest.raises(UserError, match="--train-table none.csv: not found"):
        read_meld(tmp_path, train_table="none.csv")
    with pytest.raises(UserError, match=f"--train-folder .*{tmp_path}/deep/clips"):
        read_meld(tmp_path / "deep" / "clips", train_table=tmp_path / "deep/all.csv", train_folder=tmp_path / "deep")


def test_without_a_clip_folder_there_is_text_only(tmp_path):
    make(tmp_path, ["a,A,joy,positive,0,0"], folder="elsewhere")
    manifest = read_meld(tmp_path)
    assert manifest.utterances[0].media is None and any("train_splits" in n for n in manifest.notes)


def test_repair_text():
    assert repair_text("y\x92know\xa0its \x93so\x94 it\x85 \x96\x97\x81") == 'y\'know its "so" it… –—'
    assert repair_text("Y'know it’s a ‘test’\0") == "Y'know it's a 'test'"
    assert repair_text("café — naïve") == "café — naïve"


def test_original_text_is_kept(tmp_path):
    rows = ["it\x92s\x85 unquoted,A,joy,positive,0,0", "plain,A,joy,positive,0,1"]
    first, second = read_meld(make(tmp_path, rows)).utterances
    assert first.text == "it's… unquoted" and first.extra["text_original"] == "it\x92s\x85 unquoted"
    assert "text_original" not in second.extra


def test_windows_1252_tables(tmp_path):
    make(tmp_path, ["x,A,joy,positive,0,0"])
    (tmp_path / "train_sent_emo.csv").write_bytes(
        (HEADER + "1,it’s,A,joy,positive,0,0,1,1,0:00:01,0:00:02\n").encode("cp1252")
    )
    manifest = read_meld(tmp_path)
    assert manifest.utterances[0].text == "it's" and any("Windows-1252" in n for n in manifest.notes)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("00:16:16,059", 976.059),
        ("0:36:59,425", 2219.425),
        (" 1:00:00.5 ", 3600.5),
        ("0:00:60,000", None),
        ("", None),
        ("1:2", None),
        ("00:00:01", None),
        ("٠:00:01,000", None),
    ],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_times_are_kept_and_never_cut(tmp_path):
    times = ('"0:36:59,425","00:37:00,425"', '"0:00:05,000","0:00:05,000"', '"0:00:05,000","0:00:05,084"', "soon,later")
    body = "".join(f"1,a,A,joy,positive,0,{i},8\x1d,21,{t}\n" for i, t in enumerate(times))
    make(tmp_path, [])
    (tmp_path / "train_sent_emo.csv").write_text(HEADER + body)
    manifest = read_meld(tmp_path)
    assert all(u.start is None and u.end is None for u in manifest.utterances)
    first = manifest.utterances[0].extra
    assert (first["season"], first["episode"], first["source_start"], first["source_end"]) == (
        8,
        21,
        2219.425,
        2220.425,
    )
    assert "source_start" not in manifest.utterances[3].extra
    for facts in (
        ("train: 1 row ", "time span: dia0_utt1"),
        ("train: 1 row ", "shorter than 0.2 s", ": dia0_utt2"),
        ("train: 1 row ", "invalid time stamps: dia0_utt3"),
    ):
        assert any(all(fact in note for fact in facts) for note in manifest.notes)


def test_long_clips_are_capped_in_their_slot(tmp_path):
    """Only if both the row and the clip itself are longer, since the row may be wrong."""
    make(
        tmp_path,
        [f"a,A,joy,positive,0,{i}" for i in range(3)],
        times='"0:00:00,000","0:05:04,940"',
        clips=["dia0_utt2.mp4"],
        **TEST,
    )
    for name, seconds in (("dia0_utt0.mp4", 4), ("dia0_utt1.mp4", 1)):
        audio = f"sine=duration={seconds}"
        clip = tmp_path / TEST["folder"] / name
        subprocess.run([ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", audio, "-f", "mp4", clip], check=True)
    manifest = read_meld(tmp_path, max_seconds=2)
    assert [(u.start, u.end) for u in manifest.utterances] == [(None, 2), (None, None), (None, None)]
    assert any("first 2 s of 1 clip " in n and "dia0_utt0.mp4" in n for n in manifest.notes)
    with pytest.raises(UserError, match="--max-seconds"):
        read_meld(tmp_path, max_seconds=0)


def test_known_defects_are_named_with_their_source(tmp_path):
    make(tmp_path, ["a,A,joy,positive,125,3"], clips=["dia125_utt3.mp4"])
    assert any("dia125_utt3" in n and "declare-lab/MELD/issues/39" in n for n in read_meld(tmp_path).notes)
    make(tmp_path, ["a,A,joy,positive,125,2"])
    assert not any("known" in n for n in read_meld(tmp_path).notes)


@pytest.mark.parametrize(
    "row, fact",
    [
        ("a,A,glee,positive,0,0", "'glee'"),
        ("a,A,joy,positive,x,0", "Dialogue_ID and Utterance_ID"),
        ("a,A,joy,positive,-1,0", "Dialogue_ID and Utterance_ID"),
        ("a,A,joy", "Dialogue_ID and Utterance_ID"),
        ("a, b and c,A,joy,positive,0,0", "columns"),
        ("a,A,joy,positive,0,1,more", "columns"),
        ("a,A,joy,positive,0,0", "dialogue 0, utterance 0"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, row, fact):
    make(tmp_path, ["ok,A,joy,positive,0,0", row])
    with pytest.raises(UserError) as error:
        read_meld(tmp_path)
    assert "train_sent_emo.csv, line 3" in error.value.message and fact in error.value.message


def test_no_tables_and_no_columns(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: .*train_sent_emo.csv"):
        read_meld(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/none: "):
        read_meld(tmp_path / "none")
    (tmp_path / "train_sent_emo.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="train_sent_emo.csv: .*'Utterance'"):
        read_meld(tmp_path)
    (tmp_path / "train_sent_emo.csv").write_text(HEADER.replace("Sentiment,", "") + "1,a,A,joy,0,0,1,1,x,y\n")
    with pytest.raises(UserError, match="train_sent_emo.csv: .*'Sentiment'"):
        read_meld(tmp_path, label_set="sentiment")
    assert read_meld(tmp_path).utterances[0].label == "joy"


cells = st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | st.sampled_from(
    ["joy", "0", "0:00:01,5", '"', ",", "\x85", "1\n2"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(st.lists(cells, max_size=12), max_size=3) | st.binary(max_size=60))
def test_no_table_causes_a_traceback(tmp_path, rows):
    """Any table results in a manifest that can be written and read, or in a one-line error."""
    body = rows if isinstance(rows, bytes) else "".join(",".join(row) + "\n" for row in rows).encode()
    (tmp_path / "train_sent_emo.csv").write_bytes(HEADER.encode() + b"1,a,A,joy,positive,5,5,1,1,0:00:01.0,x\n" + body)
    try:
        manifest = read_corpus("meld", tmp_path)
    except UserError as error:
        assert "\n" not in error.message
        return
    write_manifest(manifest, tmp_path / "m.jsonl")
    back = load_manifest(tmp_path / "m.jsonl")
    assert back.utterances == manifest.utterances and back.notes == manifest.notes and back.labels == manifest.labels


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=20) | st.builds("{}:{}:{},{}".format, *[st.integers(0, 99)] * 3, st.integers(0, 999)))
def test_times_round_trip(text):
    seconds = parse_time(text)
    if seconds is not None:
        ms = round(seconds * 1000)
        written = f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"
        assert parse_time(written) == seconds


def test_facts_agree_with_each_other():
    facts = manifests.load("meld.yaml")
    for published in facts["published"]:
        assert published["labels"] in facts["label_sets"].values()
        for split in published["splits"].values():
            assert sum(split["labels"].values()) == split["utterances"] and list(split["labels"]) == published["labels"]
    assert all(d["clips"] and d["what"] and d["source"] for defects in facts["known_defects"].values() for d in defects)


def test_meld_mini(shared):
    manifest = read_corpus("meld", shared / "corpora" / "meld-mini")
    by_id = {u.id: u for u in manifest.utterances}
    assert Counter(u.split for u in manifest.utterances) == {"train": 16, "val": 5, "test": 6}
    mojibake = by_id["train_dia5_utt2"]
    assert (
        mojibake.text == "Ameri-can. Y'know it's a" and mojibake.extra["text_original"] == "Ameri-can. Y'know it\x92s a"
    )
    assert mojibake.extra["source_start"] == 1340.589 and mojibake.extra["source_end"] == 1343.507
    assert (
        by_id["test_dia0_utt2"].media.endswith("final_videos_testdia0_utt2.mp4")
        and by_id["test_dia0_utt2"].extra["clip"] == "recut"
    )
    assert by_id["test_dia0_utt1"].media.endswith("/dia0_utt1.mp4")
    assert sum("dia999_utt0.mp4" in note for note in manifest.notes) == 1
    assert any("1 row without a clip: dia0_utt1.mp4" in note for note in manifest.notes)
    assert by_id["val_dia33_utt0"].extra["pickle_key"] == 1072


def test_full_tables_have_the_published_counts(shared, tmp_path):
    """13,708 rows with a clip each parse without one disk access per row, and agree with meld_counts.json."""

    expected = json.loads((shared / "reference" / "meld_counts.json").read_text())
    for table in (shared / "corpora" / "meld-transcripts").glob("*.csv"):
        shutil.copy(table, tmp_path)
    bare = read_meld(tmp_path)
    for split in manifests.load("meld.yaml")["splits"].values():
        (tmp_path / split["folder"]).mkdir()
    for u in bare.utterances:
        folder = {"train": "train_splits", "val": "dev_splits_complete", "test": "output_repeated_splits_test"}[u.split]
        (tmp_path / folder / f"{u.id.split('_', 1)[1]}.mp4").touch()
    with looks_at_files(tmp_path) as looks:
        manifest = read_corpus("meld", tmp_path)
    # Three tables, four folders in which a demo corpus could have its mark, however many rows they have.
    assert 3 <= looks["open"] <= 7 and 3 <= looks["list"] <= 12, looks
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        chosen, facts = [u for u in manifest.utterances if u.split == split], expected["splits"][name]
        assert len(chosen) == facts["utterances"] and len({u.dialogue for u in chosen}) == facts["dialogues"]
        assert (
            Counter(u.label for u in chosen) == facts["emotion"]
            and len({u.speaker for u in chosen}) == facts["unique_speakers"]
        )
        assert Counter(u.extra["sentiment"] for u in chosen) == facts["sentiment"]
        assert max(u.extra["speaker_index"] for u in chosen) + 1 == facts["max_speakers_in_a_dialogue"]
    assert len({u.extra["pickle_key"] for u in manifest.utterances}) == 1432
    assert not [u for u in manifest.utterances if set(u.text) & set("’‘“”\xa0\x85\x92")]
    for label_set in ("emotion", "sentiment"):
        assert compare(read_meld(tmp_path, label_set=label_set))["differences"] == []
