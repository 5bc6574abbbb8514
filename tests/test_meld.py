"""MELD's raw layout: what lies in a folder is what the manifest says, defects included."""

from __future__ import annotations

import shutil

import pytest

from extract.corpora.meld import read_meld, repair_text
from toolkit.errors import UserError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def make(root, rows, split="train", folder="train_splits", table="train_sent_emo.csv", clips=()):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / table).write_bytes((HEADER + "".join(f"1,{row},1,1,0:00:01,0:00:02\n" for row in rows)).encode())
    for clip in clips:
        (root / folder / clip).touch()
    return root


def test_ids_order_and_gaps(tmp_path):
    rows = ['"Hi, you",Ross,joy,positive,3,0', "Oh.,Rachel,anger,negative,3,4", "Well,Ross,neutral,neutral,1,0"]
    manifest = read_meld(make(tmp_path, rows, clips=["dia3_utt0.mp4", "dia1_utt0.mp4"]))
    assert [u.id for u in manifest.utterances] == ["train_dia3_utt0", "train_dia3_utt4", "train_dia1_utt0"]
    assert [u.position for u in manifest.utterances] == [0, 1, 0] and manifest.utterances[0].text == "Hi, you"
    assert manifest.utterances[1].media == "train_splits/dia3_utt4.mp4"
    assert any("1 rows without a clip: dia3_utt4.mp4" in note for note in manifest.notes)
    assert any("no dev_sent_emo.csv" in note for note in manifest.notes)
    assert manifest.labels == ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


def test_twins_orphans_and_apple_files(tmp_path):
    clips = ["dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "dia0_utt1.mp4", "._dia0_utt1.mp4", "dia9_utt9.mp4", "x.mp4"]
    rows = ["a,A,joy,positive,0,0", "b,B,joy,positive,0,1"]
    make(tmp_path, rows, folder="output_repeated_splits_test", table="test_sent_emo.csv", clips=clips)
    manifest = read_meld(tmp_path)
    assert [u.media.split("/")[1] for u in manifest.utterances] == ["final_videos_testdia0_utt0.mp4", "dia0_utt1.mp4"]
    assert any("without a row" in n and "dia9_utt9.mp4" in n and "1 clips" in n for n in manifest.notes)


def test_tables_further_down(tmp_path):
    make(tmp_path / "MELD.Raw" / "train", ["a,A,joy,positive,0,0"], clips=["dia0_utt0.mp4"])
    assert read_meld(tmp_path).utterances[0].media == "MELD.Raw/train/train_splits/dia0_utt0.mp4"


def test_repair_text():
    assert repair_text("y\x92know\xa0its \x93so\x94 it\x85 ") == "y’know its “so” it…"
    assert repair_text("Why do all you’re") == "Why do all you’re"


@pytest.mark.parametrize(
    "row, said",
    [
        ("a,A,glee,positive,0,0", "'glee'"),
        ("a,A,joy,positive,x,0", "whole numbers"),
        ("a,A,joy", "whole numbers"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, row, said):
    make(tmp_path, ["ok,A,joy,positive,0,0", row])
    with pytest.raises(UserError) as error:
        read_meld(tmp_path)
    assert "train_sent_emo.csv, line 3" in error.value.message and said in error.value.message


def test_repeated_rows_and_no_tables(tmp_path):
    with pytest.raises(UserError, match="none of MELD's tables"):
        read_meld(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_meld(tmp_path / "none")
    make(tmp_path, ["a,A,joy,positive,0,0"] * 2)
    with pytest.raises(UserError, match="stands twice"):
        read_meld(tmp_path)
    (tmp_path / "train_sent_emo.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'Utterance'"):
        read_meld(tmp_path)


def test_meld_mini(shared):
    manifest = read_meld(shared / "corpora" / "meld-mini")
    by_id = {u.id: u for u in manifest.utterances}
    assert len(by_id) == 27 and sum(u.split == "train" for u in manifest.utterances) == 16
    assert by_id["train_dia5_utt2"].text == "Ameri-can. Y'know it’s a"
    assert by_id["test_dia0_utt2"].media.endswith("final_videos_testdia0_utt2.mp4")
    assert by_id["test_dia0_utt1"].media.endswith("/dia0_utt1.mp4")
    assert sum("dia999_utt0.mp4" in note for note in manifest.notes) == 1


def test_full_tables_give_the_published_counts(shared, tmp_path):
    for table in (shared / "corpora" / "meld-transcripts").glob("*.csv"):
        shutil.copy(table, tmp_path)
    manifest = read_meld(tmp_path)
    counts = {s: sum(u.split == s for u in manifest.utterances) for s in ("train", "val", "test")}
    assert counts == {"train": 9989, "val": 1109, "test": 2610}
    dialogues = [us[0].split for _, us in manifest.dialogues()]
    assert {s: dialogues.count(s) for s in counts} == {"train": 1038, "val": 114, "test": 280}
