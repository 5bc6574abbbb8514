"""Layouts without ids or with one file per utterance; and frames that cannot be stored."""

from __future__ import annotations

import pickle
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner

from erc_toolkit import manifests
from erc_toolkit.extract.run.rows.parts import Rows
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.exchange.convert import convert
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore

SPLITS = {"train": 4, "valid": 2, "test": 2}


def converted(tmp_path, value, *more, **options):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    made = convert([str(tmp_path / "x.pkl"), *map(str, more)], tmp_path / "x.h5", **options)
    return FeatureStore.open(tmp_path / "x.h5"), made["problems"]


def mult(labels, **fields) -> dict:
    """MulT's layout; `labels` and further fields are functions of the number of rows."""
    rng = np.random.default_rng(0)
    return {
        split: {
            "text": rng.normal(size=(n, 20, 5)).astype(np.float32),
            "audio": rng.normal(size=(n, 20, 4)),
            "vision": rng.normal(size=(n, 20, 3)),
            "labels": labels(n),
            **{name: make(n) for name, make in fields.items()},
        }
        for split, n in SPLITS.items()
    }


def test_mult_s_iemocap_has_no_ids(tmp_path):
    """Four emotions, each absent or present: exactly one present is the label."""
    present = np.array([[0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    store, problems = converted(tmp_path, mult(lambda n: np.eye(2)[present[:n]]))
    with store:
        assert store.labels == ["neutral", "happy", "sad", "angry"]
        assert store.column("label").tolist() == [1, 3, -1, -1, 1, 3, 1, 3]
        assert store.column("id").tolist() == [f"{s}_{i}" for s, n in SPLITS.items() for i in range(n)]
        assert len(store.dialogue_ids) == 8 and store.column("split").tolist()[3:6] == ["train", "val", "val"]
        assert store.feature_names() == ["audio/mmsa", "text/mmsa", "visual/mmsa"]
    assert any("8 utterances without an id" in p for p in problems)
    assert any("2 utterances without exactly one label" in p for p in problems)


@pytest.mark.parametrize("shape", [(1, 1), (1,), ()])
def test_mosi_s_scores_are_labels_by_their_sign(shape, tmp_path):
    scores = np.array([-2.4, 0.0, 1.6, 0.2])
    store, problems = converted(tmp_path, mult(lambda n: scores[:n].reshape(n, *shape)))
    with store:
        assert store.labels == ["Negative", "Neutral", "Positive"]
        assert store.column("label").tolist() == [0, 1, 2, 2, 0, 1, 0, 1]
    assert any("sign" in p for p in problems)


def test_mosei_s_columns(tmp_path):
    sentiment = np.array([[-1.0, 0, 0, 3, 0, 0, 0], [2.0, 1, 0, 0, 0, 0, 0]])
    store, _ = converted(tmp_path, mult(lambda n: np.tile(sentiment, (2, 1))[:n, None]))
    with store:
        assert store.column("label").tolist()[:2] == [0, 2]
    store, _ = converted(tmp_path, mult(lambda n: np.tile(sentiment[:, 1:], (2, 1))[:n]))
    with store:
        assert [store.labels[i] for i in store.column("label")[:2]] == ["anger", "happy"]


@pytest.mark.parametrize("field", ["id", "segments"])
def test_videos_and_times_are_dialogues_in_order(field, tmp_path):
    """MulT's MOSI: (N, 3) of video, start and end, as bytes."""
    make = lambda n: np.array([[b"vid%d" % n, b"%d.5" % (20 - i), b"30"] for i in range(n)])  # noqa: E731
    store, problems = converted(tmp_path, mult(lambda n: np.arange(n) - 1.5, **{field: make}))
    with store:
        assert store.dialogue_ids[0] == "vid4" and store.column("id").tolist()[:2] == ["vid4$_$0", "vid4$_$1"]
        assert store.column("label").tolist()[:4] == [2, 2, 0, 0]  # the last row starts first
    assert not any("without an id" in p for p in problems)


def test_lists_of_examples(tmp_path):
    """MAG-BERT's: ((words, visual, acoustic), label, segment)."""
    example = lambda i: ((["hi", "there"], np.ones((2, 4)), np.ones((2, 3))), np.array([[i - 0.5]]), f"v[{i}]")  # noqa: E731
    store, _ = converted(tmp_path, {"train": [example(1), example(0)], "dev": [], "test": []})
    with store:
        assert store.column("id").tolist() == ["v$_$0", "v$_$1"] and store.column("label").tolist() == [0, 2]
        assert store.column("text").tolist() == ["hi there"] * 2 and store.feature("visual/mmsa").dim == 4


@pytest.mark.parametrize(
    "value, wanted",
    [
        (mult(lambda n: np.zeros((n, 5, 7))), r"labels have shape \(8, 5, 7\)"),
        ({s: {"text": np.ones((2, 3))} for s in SPLITS}, "no labels.*text"),
        ({s: {"labels": np.ones(2)} for s in SPLITS}, "no features.*text, audio, vision"),
        ({"train": [(1, 2)]}, "train, example 0"),
    ],
)
def test_what_is_missing_is_named(value, wanted, tmp_path):
    with pytest.raises(UserError, match=rf"x\.pkl: .*{wanted}"):
        converted(tmp_path, value)


def test_padding_is_no_frame(tmp_path):
    """Zeros at either end of sequences without lengths; `keep_zeros` keeps them."""
    value = mult(lambda n: np.arange(n))
    value["train"]["text"][0, :15] = 0
    value["train"]["audio"][1, 12:] = 0
    store, problems = converted(tmp_path, value)
    with store:
        assert [len(store.feature(f).sequence(i)[0]) for f, i in (("text/mmsa", 0), ("audio/mmsa", 1))] == [5, 12]
        assert np.allclose(store.feature("text/mmsa").values()[0], value["train"]["text"][0, 15:].mean(0))
    assert any(p.startswith("text: 15 frames of 1 utterance") for p in problems)
    store, _ = converted(tmp_path, value, keep_zeros=True)
    with store:
        assert len(store.feature("text/mmsa").sequence(0)[0]) == 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_one_bad_frame_is_left_out_and_not_the_utterance(bad, tmp_path):
    value = mult(lambda n: np.arange(n))
    value["train"]["audio"][0, 3, 1] = value["train"]["audio"][0, 7, 0] = bad
    value["train"]["audio"][1] = bad
    store, problems = converted(tmp_path, value)
    with store:
        audio, kept = store.feature("audio/mmsa"), np.delete(np.arange(20), [3, 7])
        assert audio.present().tolist() == [True, False] + [True] * 6
        assert np.array_equal(audio.sequence(0)[0], value["train"]["audio"][0, kept].astype(np.float32))
        assert np.allclose(audio.values()[0], value["train"]["audio"][0, kept].mean(0))
        assert "every frame" in audio.reasons()[1] and store.feature("text/mmsa").present().all()
    assert any(p.startswith("audio: 2 frames of 1 utterance") for p in problems)


def test_bad_frames_in_arrays_and_lists(tmp_path):
    frames = [np.ones((4, 2)), np.ones((3, 2))]
    frames[0][2, 1] = np.inf
    dialogue = {"d": ["A", "A"]}
    value = (dialogue, {"d": [0, 0]}, {"d": frames}, {"d": ["x", "y"]}, ["d"], [])
    store, problems = converted(tmp_path, value)
    with store:
        feature = store.feature("text/amb-dsgdn")
        assert [len(feature.sequence(i)[0]) for i in range(2)] == [3, 3] and feature.present().all()
    assert any("1 frame of 1 utterance" in p for p in problems)
    array = np.ones((2, 4, 3))
    array[1, 0] = np.nan
    us = [Utterance(f"u{i}", "d", i, "A", "", "joy", "train") for i in range(2)]
    write_manifest(Manifest("mine", ["joy"], tmp_path, us), tmp_path / "m.jsonl")
    np.save(tmp_path / "audio.npy", array)
    convert([str(tmp_path / "audio.npy")], tmp_path / "y.h5", manifest=tmp_path / "m.jsonl")
    with FeatureStore.open(tmp_path / "y.h5") as store:
        assert [len(store.feature("audio/converted").sequence(i)[0]) for i in range(2)] == [4, 3]


def test_extraction_leaves_out_bad_frames_too():
    def rows() -> Rows:
        return Rows(0, np.zeros((1, 2), np.float32), ["?"], [""], frozenset({0}), frame_width=2)

    frames, times = np.ones((3, 2), np.float32), np.arange(3.0)
    frames[1, 0] = np.inf
    made = rows()
    made.put(0, np.ones(2, np.float32), "", frames, times)
    assert made.reasons == [""] and made.finished().times.tolist() == [0.0, 2.0]
    made = rows()
    made.put(0, np.ones(2, np.float32), "", np.full((3, 2), np.nan, np.float32), times)
    assert made.reasons[0] and not len(made.finished().frames)


@pytest.fixture
def features(tmp_path):
    """MER's folders: frames, a vector, a name that macOS decomposed, an array of nobody, and faces in a folder."""
    wavlm, clip = tmp_path / "features" / "audio-wavlm", tmp_path / "features" / "visual_clip"
    wavlm.mkdir(parents=True)
    np.save(wavlm / "s1.npy", np.arange(12.0).reshape(3, 4))
    np.save(wavlm / (unicodedata.normalize("NFD", "s2é") + ".npy"), np.ones(4))
    np.save(wavlm / "nobody.npy", np.ones(4))
    np.save(wavlm / "._s1.npy", np.ones(9))
    (clip / "s1").mkdir(parents=True)
    for i, value in ((10, 3.0), (2, 1.0)):
        np.save(clip / "s1" / f"{i:03d}.npy", np.full(6, value))
    return tmp_path / "features"


def check(path) -> None:
    with FeatureStore.open(path) as store:
        audio, visual = store.feature("audio/wavlm"), store.feature("visual/clip")
        assert audio.present().tolist() == [True, True, False] and len(audio.sequence(0)[0]) == 3
        assert np.allclose(audio.values()[0], [4, 5, 6, 7]) and visual.present().tolist() == [True, False, False]
        assert visual.sequence(0)[0][:, 0].tolist() == [1.0, 3.0]  # in the order of their names


def test_a_folder_with_one_array_per_utterance(features, tmp_path):
    (tmp_path / "labels.csv").write_text("\ufeffName;Discrete;Set\ns1;happy;Train\ns2é;sad;test1\ns3;;dev\n")
    made = convert([str(features)], tmp_path / "x.h5", manifest=tmp_path / "labels.csv")
    check(tmp_path / "x.h5")
    with FeatureStore.open(tmp_path / "x.h5") as store:
        assert store.column("label").tolist() == [0, 1, -1] and store.column("split").tolist() == [
            "train",
            "test",
            "val",
        ]
        sources = store.attrs["converted_from"]
        assert '"files": 5' in sources or '"files": 6' in sources
    problems = made["problems"]
    assert any("1 file" in p and "not named after" in p for p in problems)
    assert any("no column for dialogue" in p for p in problems)
    named = [f"audio/wavlm={features / 'audio-wavlm'}", f"visual/clip={features / 'visual_clip'}"]
    convert([str(tmp_path / "labels.csv"), *named], tmp_path / "y.h5")
    check(tmp_path / "y.h5")


def test_a_folder_after_a_label_archive_or_a_pickle(features, tmp_path):
    np.savez(
        tmp_path / "label-6way.npz",
        train_corpus=np.array({"s1": {"emo": "happy", "val": 1.0}, "s2é": {"emo": "sad", "val": ""}}, object),
        test1_corpus=np.array({"s3": {"emo": "happy"}}, object),
    )
    convert([str(tmp_path / "label-6way.npz"), str(features)], tmp_path / "x.h5")
    check(tmp_path / "x.h5")
    gcnet = ({"d": ["s1", "s2é", "s3"]}, {"d": [-1.5, 0.0, 2.0]}, {"d": ["A"] * 3}, {"d": ["x"] * 3}, ["d"], [], [])
    store, problems = converted(tmp_path, gcnet, features)
    with store:
        assert store.labels == ["Negative", "Neutral", "Positive"] and store.column("label").tolist() == [0, 1, 2]
    check(tmp_path / "x.h5")
    assert any("sign" in p for p in problems)


def test_folders_that_cannot_be_used(features, tmp_path):
    (tmp_path / "m.csv").write_text("id,label\nq1,joy\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    wavlm = f"audio={features / 'audio-wavlm'}"
    for files, manifest, wanted in (
        ([wavlm], None, "--manifest"),
        ([wavlm], "m.csv", "none named after an utterance"),
        ([wavlm], "bad.csv", r"bad\.csv, line 1: no column of ids among a, b"),
        ([f"audio={tmp_path / 'empty'}"], "m.csv", "without .npy files"),
    ):
        with pytest.raises(UserError, match=wanted):
            convert(files, tmp_path / "x.h5", manifest=manifest and tmp_path / manifest)


@pytest.mark.parametrize("corpus", [None, "iemocap"])
def test_iemocap_has_the_validation_dialogues_of_extraction(tmp_path, corpus):
    """As manifests/iemocap.yaml lists them for `extract iemocap`; those that the file lacks are no matter."""
    official = manifests.load("iemocap.yaml")["validation"]
    train, test = ["Ses01F_impro01", *official[:5], "Ses04M_impro08"], ["Ses05F_impro01"]
    dialogues = [*train, *test]

    def vectors(width):
        return {name: [np.ones(width)] * 2 for name in dialogues}

    content = (
        {name: [f"{name}_F000", f"{name}_M000"] for name in dialogues},
        {name: ["F", "M"] for name in dialogues},
        {name: [0, 1] for name in dialogues},
        *(vectors(8) for _ in range(4)),
        vectors(6),
        vectors(5),
        {name: ["a", "b"] for name in dialogues},
        set(train),
        set(test),
    )
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(content))
    arguments = ["convert", str(tmp_path / "in.pkl"), "--out", str(tmp_path / "s.h5")]
    result = CliRunner().invoke(main, [*arguments, *(["--corpus", corpus] if corpus else [])])
    assert result.exit_code == 0, result.output
    assert "5 dialogues of the training list in IEMOCAP's validation split" in result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        assert store.corpus == "iemocap"
        names = np.array(store.dialogue_ids, object)[store.column("dialogue")]
        found = {split: {*names[store.column("split") == split]} for split in ("train", "val", "test")}
    assert found == {"train": {"Ses01F_impro01", "Ses04M_impro08"}, "val": {*official[:5]}, "test": {*test}}
