"""CH-SIMS and CMU-MOSEI in MMSA's layout: what the table and the folders contain is what the manifest says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_support import round_trips

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.stats import compare
from erc_toolkit.toolkit.base.errors import UserError

HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"


def make(root: Path, *rows: str, clips: tuple[str, ...] = (), header: str = HEADER, table: str = "label.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / table).write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    for clip in clips:
        (root / "Raw" / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / "Raw" / clip).touch()
    return root


def mistake(root: Path, corpus: str = "ch-sims", **options) -> str:
    with pytest.raises(UserError) as error:
        read_corpus(corpus, root, **options)
    assert "\n" not in error.value.message
    return error.value.message


ROWS = (
    "video_0001,0002,我不想嫁给李茶,-1.0,-0.6,0.4,0.0,Negative,train",
    "video_0001,0001,好,0.0,,,,Neutral,train",
    "video_0002,0001,他叫什么,0.8,0.2,0.2,1.0,Positive,valid",
    "video_0001,0003,你好,0.2,,,,Positive,test",
)


def test_ch_sims(tmp_path):
    clips = ("video_0001/0001.mp4", "video_0001/0002.mp4", "video_0002/0009.mp4", "video_0003/0001.mp4")
    manifest = read_corpus("ch-sims", make(tmp_path, *ROWS, clips=clips))
    found = [(u.id, u.dialogue, u.position, u.speaker, u.label, u.split, u.media) for u in manifest.utterances]
    first, second = "video_0001", "video_0002"
    assert found == [
        (f"{first}$_$0001", f"{first}@train", 0, first, "neutral", "train", f"Raw/{first}/0001.mp4"),
        (f"{first}$_$0002", f"{first}@train", 1, first, "negative", "train", f"Raw/{first}/0002.mp4"),
        (f"{second}$_$0001", second, 0, second, "positive", "val", f"Raw/{second}/0001.mp4"),
        (f"{first}$_$0003", f"{first}@test", 0, first, "positive", "test", f"Raw/{first}/0003.mp4"),
    ]
    assert manifest.labels == ["negative", "neutral", "positive"] and manifest.utterances[1].text == "我不想嫁给李茶"
    assert manifest.utterances[1].extra == {
        "sentiment": -1.0,
        "text_sentiment": -0.6,
        "audio_sentiment": 0.4,
        "visual_sentiment": 0.0,
    }
    assert manifest.utterances[0].extra == {"sentiment": 0.0}
    notes = "\n".join(manifest.notes)
    assert "2 rows without a clip: video_0002/0001, video_0001/0003" in notes
    assert "1 clip without a row in the table, left out: video_0002/0009.mp4" in notes
    assert "1 video without a row in the table, left out: video_0003" in notes
    assert "1 video with clips in several splits, a dialogue for each: video_0001" in notes


def test_cmu_mosei_has_other_columns_and_numbers(tmp_path):
    header = "video_id,clip_id,text,label,annotation,mode,label_T,label_A,label_V\n"
    rows = [
        '-3g5yACwYnA,10,"Key is part, of it",1.0,Positive,train,,,',
        "-3g5yACwYnA,9,So,-2.66666,Negative,train,,,",
        "_0efYOjQYRc,0,Um,0,Neutral,validation,,,",
    ]
    clips = ("-3g5yACwYnA/10.mp4", "-3g5yACwYnA/9.mp4", "_0efYOjQYRc/0.mp4", "_0efYOjQYRc/._0.mp4")
    manifest = read_corpus("cmu-mosei", make(tmp_path / "MOSEI", *rows, clips=clips, header=header).parent)
    assert [(u.id, u.media, u.label, u.split) for u in manifest.utterances] == [
        ("-3g5yACwYnA$_$9", "MOSEI/Raw/-3g5yACwYnA/9.mp4", "negative", "train"),
        ("-3g5yACwYnA$_$10", "MOSEI/Raw/-3g5yACwYnA/10.mp4", "positive", "train"),
        ("_0efYOjQYRc$_$0", "MOSEI/Raw/_0efYOjQYRc/0.mp4", "neutral", "val"),
    ]
    assert manifest.notes == [] and manifest.corpus == "cmu-mosei"


def test_clips_are_found_by_their_numbers(tmp_path):
    """A spreadsheet writes 1 for 0001."""
    manifest = read_corpus("ch-sims", make(tmp_path, "v,1,a,0,,,,Neutral,train", clips=("v/0001.MP4",)))
    assert manifest.utterances[0].media == "Raw/v/0001.MP4" and manifest.notes == []


def test_a_table_without_a_header_or_with_another_name(tmp_path):
    manifest = read_corpus("ch-sims", make(tmp_path, *ROWS, header="", table="meta.csv"))
    assert len(manifest.utterances) == 4 and any("no header" in note for note in manifest.notes)
    make(tmp_path, ROWS[0], table="mine.csv")
    assert len(read_corpus("ch-sims", tmp_path, table="mine.csv").utterances) == 1
    assert "none.csv" in mistake(tmp_path, table="none.csv") and "--table" in mistake(tmp_path, table="none.csv")


def test_without_raw_there_is_text_only(tmp_path):
    manifest = read_corpus("ch-sims", make(tmp_path, *ROWS))
    assert all(u.media is None for u in manifest.utterances)
    assert any("folder Raw not found: text only" in note for note in manifest.notes)


def test_clips_without_an_annotation_are_context(tmp_path):
    manifest = read_corpus("ch-sims", make(tmp_path, "v,1,a,,,,,,train", "v,2,b,3.5,,,,Positive,train"))
    assert [u.label for u in manifest.utterances] == [None, "positive"]
    assert any("1 clip without an annotation" in note for note in manifest.notes)
    assert any("outside -1 to 1: line 3" in note for note in manifest.notes)


@pytest.mark.parametrize("corpus, scores", [("ch-sims", "-1 to 1"), ("cmu-mosei", "-3 to 3")])
def test_scores_alone_are_refused(tmp_path, corpus, scores):
    """A regression target: the line names the file, what it is, and the remedy."""
    message = mistake(make(tmp_path / "a", "v,1,a,0.4,train", header="video_id,clip_id,text,label,mode\n"), corpus)
    assert all(fact in message for fact in ("label.csv", "regression", scores, "annotation", "negative"))
    message = mistake(make(tmp_path / "b", "v,1,a,0.4,,,,,train"), corpus)
    assert all(fact in message for fact in ("label.csv", "no row", "regression", scores))


def test_labels_of_several_emotions_are_refused(tmp_path):
    (tmp_path / "CMU_MOSEI_Labels.csd").touch()
    message = mistake(tmp_path, "cmu-mosei")
    assert all(fact in message for fact in ("CMU_MOSEI_Labels.csd", "six emotions", "label.csv"))


@pytest.mark.parametrize(
    "row, facts",
    [
        ("v,1,a,0,,,,Neutral,train", ["line 3: ", "twice"]),
        ("v,01,a,0,,,,Neutral,train", ["line 3: ", "twice"]),
        ("v,2,a,0,,,,Good,train", ["line 3, annotation", "'Good'", "positive"]),
        ("v,2,a,0,,,,Neutral,eval", ["line 3, mode", "'eval'", "valid"]),
        ("v,2,a,0,,,,Neutral,", ["line 3, mode"]),
        ("v,2,a,much,,,,Neutral,train", ["line 3, label: ", "'much'"]),
        ("v,2,a,nan,,,,Neutral,train", ["line 3, label: ", "'nan'"]),
        (",2,a,0,,,,Neutral,train", ["line 3, video_id"]),
        ("..,2,a,0,,,,Neutral,train", ["line 3, video_id"]),
        ("v,../2,a,0,,,,Neutral,train", ["line 3, clip_id"]),
        ("a\\b,2,a,0,,,,Neutral,train", ["line 3, video_id"]),
        ("/etc,2,a,0,,,,Neutral,train", ["line 3, video_id"]),
        ("v,2,a,b,0,,,,Neutral,train", ["line 3: ", "more fields"]),
    ],
)
def test_mistakes_in_rows(tmp_path, row, facts):
    message = mistake(make(tmp_path, "v,1,a,0,,,,Neutral,train", row))
    assert all(fact in message for fact in ["label.csv", *facts])


def test_other_mistakes(tmp_path):
    assert "label.csv or meta.csv" in mistake(tmp_path)
    make(tmp_path, header="a,b\n")
    assert "'video_id'" in mistake(tmp_path)
    make(tmp_path)
    assert "label.csv: contains no clips" in mistake(tmp_path)
    (tmp_path / "label.csv").write_bytes((HEADER + ROWS[0]).encode("gb18030"))
    assert "label.csv, line 2" in mistake(tmp_path) and "UTF-8" in mistake(tmp_path)


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=',"\n\r\0'), max_size=6)
row = st.tuples(
    st.sampled_from(["v", "w"]) | cells,
    st.integers(0, 20).map(str) | cells,
    cells,
    st.floats(-1, 1).map(str) | cells,
    st.sampled_from(["", "Neutral", "positive"]) | cells,
    st.sampled_from(["train", "valid", "test"]),
).map(lambda r: f"{r[0]},{r[1]},{r[2]},{r[3]},,,,{r[4]},{r[5]}")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(row, max_size=6))
def test_any_table_is_read_or_is_one_line(tmp_path, rows):
    """What is accepted can be written as a manifest and read again."""
    make(tmp_path / "mine", *rows, clips=("v/1.mp4",))
    round_trips("ch-sims", tmp_path)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["train", "valid", "test"])), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_an_utterance_of_its_video_and_split(tmp_path, places):
    rows = [f"v{video},{clip},t,0,,,,Neutral,{mode}" for clip, (video, mode) in enumerate(places)]
    manifest = read_corpus("ch-sims", make(tmp_path, *rows))
    expected = {(f"v{v}$_${i}", f"v{v}", mode.replace("valid", "val")) for i, (v, mode) in enumerate(places)}
    assert {(u.id, u.speaker, u.split) for u in manifest.utterances} == expected
    for _, members in manifest.dialogues():
        numbers = [int(u.id.partition("$_$")[2]) for u in members]
        assert numbers == sorted(numbers) and len({(u.split, u.speaker) for u in members}) == 1


def test_published_counts(tmp_path):
    differences = compare(read_corpus("ch-sims", make(tmp_path, *ROWS)))["differences"]
    assert "train, utterances: 2, published 1368 (-1366)" in differences and len(differences) == 3
    differences = compare(read_corpus("cmu-mosei", tmp_path))["differences"]
    assert "test, utterances: 1, published 4659 (-4658)" in differences
