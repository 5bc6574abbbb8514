"""`export` and `card`: other projects' loaders get the store's data bit for bit, and `convert` restores the store."""

from __future__ import annotations

import dataclasses
import json
import pickle
import pickletools

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from test_convert import content, layout
from torch.nn.utils.rnn import pad_sequence

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.exchange.convert import convert
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter

LAYERS = [f"text/roberta-{i}" for i in (1, 2, 3, 4)]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture
def small(store_path, utterances):
    """The shared small store, with a visual feature, four text layers, and a label for every utterance."""
    n = len(utterances)
    rng = np.random.default_rng(1)
    us = [dataclasses.replace(u, label=u.label or "joy") for u in utterances]
    present = np.arange(n) % 7 != 3
    with StoreWriter(store_path, corpus="small", labels=["joy", "sadness"], utterances=us) as w:
        for name in LAYERS:
            w.add_feature("text", name.split("/")[1], rng.normal(size=(n, 6)), np.ones(n, bool), [""] * n)
        w.add_feature(
            "audio", "IS10", rng.normal(size=(n, 9)), present, ["" if p else "no audio track: 3" for p in present]
        )
        w.add_feature(
            "visual", "denseface", rng.normal(size=(n, 4)), np.ones(n, bool), [""] * n, attrs={"extractor": "x"}
        )
    return store_path


def the_same(path, other, parts=("label", "split", "text", "position"), names=None) -> None:
    """Checks that two stores agree in what a format can represent."""
    with FeatureStore.open(path) as a, FeatureStore.open(other) as b:
        for column in parts:
            assert a.column(column).tolist() == b.column(column).tolist(), column
        assert a.dialogue_ids == b.dialogue_ids and a.offsets.tolist() == b.offsets.tolist()
        for mine, theirs in (names or {name: name for name in a.feature_names()}).items():
            x, y = a.feature(mine), b.feature(theirs)
            assert x.values().tobytes() == y.values().tobytes() and x.present().tolist() == y.present().tolist(), mine


@pytest.mark.parametrize("form, sizes", [("amb-dsgdn", (13, 4)), ("mmgcn", (10, 1))])
def test_pickles_are_what_the_loaders_unpack(form, sizes, small, tmp_path):
    """The steps of the published MELD loaders: unpack the parts, one FloatTensor per modality, pad, list the labels."""
    parts, layers = sizes
    wanted = [f"--feature={name}" for name in LAYERS[:layers]]
    printed = run("export", small, "--format", form, "--out", tmp_path / "x.pkl", *wanted)
    with FeatureStore.open(small) as store:
        val = sum(store.column("split")[store.offsets[:-1]] == "val")
    assert f"{val} val dialogues" in printed and "audio/IS10: 6 utterances" in printed and "zeros" in printed
    with open(tmp_path / "x.pkl", "rb") as file:
        ids, speakers, labels, text, *more, audio, visual, sentences, train, test, _ = pickle.load(
            file, encoding="latin1"
        )
    assert len(more) == layers - 1
    with FeatureStore.open(small) as store:
        for split, keys in ((("train", "val"), train), (("test",), test)):
            rows = np.flatnonzero(np.isin(store.column("split"), split))
            tensors = [torch.FloatTensor(np.array(audio[key])) for key in keys]
            assert torch.cat(tensors).numpy().tobytes() == store.feature("audio/IS10").values()[rows].tobytes()
            assert pad_sequence(tensors).shape[1:] == (len(keys), 9)
            assert sum((labels[key] for key in keys), []) == store.column("label")[rows].tolist()
            assert sum((sentences[key] for key in keys), []) == store.column("text")[rows].tolist()
            assert torch.LongTensor(labels[keys[0]]).dtype == torch.int64
        key = test[-1]
        assert torch.FloatTensor(speakers[key]).shape == (len(labels[key]), 9) and ids[key][0] == f"{key}_u0"
        assert [s.index(1) for s in speakers[key]] == [i % 2 for i in range(len(labels[key]))]
    run("convert", tmp_path / "x.pkl", "--out", tmp_path / "y.h5", "--corpus", "small", "--labels", "joy,sadness")
    theirs = {"amb-dsgdn": "sdt", "mmgcn": "mmgcn"}[form]
    names = {"audio/IS10": f"audio/{theirs}", "visual/denseface": f"visual/{theirs}"}
    names |= {name: name for name in LAYERS} if layers == 4 else {LAYERS[0]: "text/mmgcn"}
    with FeatureStore.open(small) as a, FeatureStore.open(tmp_path / "y.h5") as b:
        assert b.labels == a.labels and b.column("id").tolist() == a.column("id").tolist()
        merged = ["train" if s == "val" else s for s in a.column("split")]  # the layout has no validation list
        assert b.column("split").tolist() == merged
    the_same(small, tmp_path / "y.h5", ("label", "text", "position"), names)


def test_old_numpy_can_read_them(small, tmp_path):
    run("export", small, "--format", "mmsa", "--out", tmp_path / "x.pkl", "--feature", LAYERS[0])
    texts = [arg for op, arg, _ in pickletools.genops((tmp_path / "x.pkl").read_bytes()) if isinstance(arg, str)]
    assert "numpy.core.multiarray" in texts and not [t for t in texts if t.startswith("numpy._core")]


@pytest.mark.parametrize("name", ["sdt", "sdt-meld", "mmgcn", "mmgcn-meld", "cosmic-features", "cosmic-features-meld"])
def test_a_converted_file_is_exported_unchanged(name, tmp_path):
    """Pickle to store to pickle: the same keys in order, labels, speakers, splits, texts, and features bit for bit."""
    before = content(layout(name))
    splits = [i for i, part in enumerate(layout(name).parts) if part == "train"]
    before[splits[0]] = before[splits[0]][::-1]  # the order of a split's list need not be that of the dictionaries
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tuple(before), protocol=2))
    convert([str(tmp_path / "x.pkl")], tmp_path / "x.h5")
    form = {"sdt": "amb-dsgdn", "mmgcn": "mmgcn", "cosmic": "cosmic"}[name.split("-")[0]]
    run(
        "export",
        tmp_path / "x.h5",
        "--format",
        form,
        "--out",
        tmp_path / "y.pkl",
        "--layout",
        "meld" if "meld" in name else "iemocap",
    )
    after = pickle.loads((tmp_path / "y.pkl").read_bytes(), encoding="latin1")
    assert len(after) == len(before)
    for part, a, b in zip(layout(name).parts, before, after, strict=True):
        if part in ("train", "val", "test"):
            # MELD's validation dialogues are moved from the training list to the val split, and back to the list's end.
            assert sorted(map(str, a)) == sorted(map(str, b)) and ("meld" in name or a == b)
        elif part != "-":
            assert list(a) == list(b), part
            for key in a:
                assert np.array_equal(np.array(a[key]), np.array(b[key])), (part, key)
                if "/" in part:
                    assert np.stack(a[key]).tobytes() == b[key].tobytes()


def test_what_a_layout_cannot_represent(small, store_path, tmp_path, utterances):
    out = tmp_path / "x"
    assert "--feature" in run("export", small, "--format", "mmgcn", "--out", out, code=1)
    assert "'text/none'" in run("export", small, "--format", "mmgcn", "--out", out, "--feature", "text/none", code=1)
    assert "--pooling last4" in run("export", small, "--format", "cosmic", "--out", out, "--feature", LAYERS[0], code=1)
    us = [Utterance(f"u{i}", "d", i, f"S{i}", "hi", "joy" if i else None, "train") for i in range(12)]
    with StoreWriter(small, corpus="x", labels=["joy"], utterances=us) as w:
        w.add_feature("text", "a", np.ones((12, 2)), np.ones(12, bool), [""] * 12)
    assert "audio" in run("export", small, "--format", "mmgcn", "--out", out, code=1)
    with StoreWriter(small, corpus="x", labels=["joy"], utterances=us) as w:
        for modality in ("text", "audio", "visual"):
            w.add_feature(modality, "a", np.ones((12, 2)), np.ones(12, bool), [""] * 12)
    assert "1 utterance " in run("export", small, "--format", "mmgcn", "--out", out, code=1)
    us = [dataclasses.replace(u, label="joy") for u in us]
    with StoreWriter(small, corpus="x", labels=["joy"], utterances=us) as w:
        for modality in ("text", "audio", "visual"):
            w.add_feature(modality, "a", np.ones((12, 2)), np.ones(12, bool), [""] * 12)
    message = run("export", small, "--format", "mmgcn", "--out", out, code=1)
    assert "dialogue d " in message and "12 speakers" in message and "9" in message
    message = run("export", small, "--format", "mmgcn", "--layout", "iemocap", "--out", out, code=1)
    assert "dialogue d " in message and "12 speakers" in message and "--layout meld" in message
    assert not out.exists()


def test_mmsa(small, tmp_path):
    printed = run("export", small, "--format", "mmsa", "--out", tmp_path / "x.pkl", "--feature", LAYERS[2])
    assert "note: regression_labels" in printed
    data = pickle.loads((tmp_path / "x.pkl").read_bytes())
    with FeatureStore.open(small) as store:
        for mode, ours in (("train", "train"), ("valid", "val"), ("test", "test")):
            rows = np.flatnonzero(store.column("split") == ours)
            part = data[mode]
            assert np.array_equal(part["audio"].astype(np.float32)[:, 0], store.feature("audio/IS10").values()[rows])
            assert part["text"].shape == (len(rows), 1, 6) and part["vision"].shape == (len(rows), 1, 4)
            assert len(part["id"]) == len(part["raw_text"]) == len(part["audio_lengths"]) == len(rows)
            assert (
                np.array(part["regression_labels"]).astype(np.float32).tolist() == store.column("label")[rows].tolist()
            )
            assert [int(x) for x in part["audio_lengths"]] == store.feature("audio/IS10").present()[rows].tolist()
    run("convert", tmp_path / "x.pkl", "--out", tmp_path / "y.h5")
    with FeatureStore.open(small) as a, FeatureStore.open(tmp_path / "y.h5") as b:
        assert (b.corpus, b.labels) == (a.corpus, a.labels)
        back = {i: row for row, i in enumerate(b.column("id"))}
        order = [back[i] for i in a.column("id")]
        assert [b.speaker_names[s] for s in b.column("speaker")[order]] == [
            a.speaker_names[s] for s in a.column("speaker")
        ]
        for column in ("label", "split", "text", "position"):
            assert b.column(column)[order].tolist() == a.column(column).tolist()
        for mine, theirs in (
            (LAYERS[2], "text/mmsa"),
            ("audio/IS10", "audio/mmsa"),
            ("visual/denseface", "visual/mmsa"),
        ):
            assert b.feature(theirs).values()[order].tobytes() == a.feature(mine).values().tobytes()
            assert b.feature(theirs).present()[order].tolist() == a.feature(mine).present().tolist()


def test_npz(small, tmp_path):
    run("export", small, "--format", "npz", "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["features/audio/IS10"].dtype == np.float32 and arrays["labels"].tolist() == ["joy", "sadness"]
        assert arrays["start_s"][2] == 0.5 and np.isnan(arrays["start_s"][0])
    run("convert", tmp_path / "x.npz", "--out", tmp_path / "y.h5")
    the_same(small, tmp_path / "y.h5", ("id", "dialogue", "position", "speaker", "label", "split", "text"))
    with FeatureStore.open(small) as a, FeatureStore.open(tmp_path / "y.h5") as b:
        assert (
            np.array_equal(a.column("end_s"), b.column("end_s"), equal_nan=True) and a.speaker_names == b.speaker_names
        )
        assert a.feature("audio/IS10").reasons().tolist() == b.feature("audio/IS10").reasons().tolist()


def test_parquet_and_hub_folder(small, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    run("export", small, "--format", "parquet", "--out", tmp_path / "x.parquet")
    run("export", small, "--format", "huggingface", "--out", tmp_path / "hub")
    (tmp_path / "hub" / "mine.txt").write_text("kept")
    run("export", small, "--format", "huggingface", "--out", tmp_path / "hub")  # replaces its own files
    assert (tmp_path / "hub" / "mine.txt").read_text() == "kept"
    table = parquet.read_table(tmp_path / "x.parquet")
    with FeatureStore.open(small) as store:
        audio = store.feature("audio/IS10")
        found = table["audio/IS10"].to_pylist()
        assert [row is None for row in found] == (~audio.present()).tolist()
        there = np.array([row for row in found if row is not None], np.float32)
        assert there.tobytes() == audio.values()[audio.present()].tobytes()
        assert table["audio/IS10:reason"][3].as_py() == "no audio track: 3"
        assert table["label"].to_pylist() == [store.labels[i] for i in store.column("label")]
        assert json.loads(table.schema.metadata[b"erc-toolkit"])["content_sha256"] == store.content_hash
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        loaded = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == {"train", "validation", "test"} and sum(map(len, loaded.values())) == len(store)
        rows = np.flatnonzero(store.column("split") == "val")
        assert loaded["validation"]["id"][:] == store.column("id")[rows].tolist()
        assert (
            np.array(loaded["validation"]["visual/denseface"], np.float32).tobytes()
            == store.feature("visual/denseface").values()[rows].tobytes()
        )


def test_card(small, tmp_path, store_path, utterances):
    text = run("card", small)
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "other" and "text-classification" in front["task_categories"] and "configs" not in front
    assert "| `audio/IS10` | 9 | 39 | 6 no audio track |" in body
    with FeatureStore.open(small) as store:
        counts = [
            int(((store.column("split") == s) & (store.column("label") == 0)).sum()) for s in ("train", "val", "test")
        ]
        assert f"| joy | {' | '.join(map(str, counts))} |" in body and store.content_hash in body
    # openSMILE's terms are listed where it was used; a string cannot break the card's table or insert HTML.
    us = [dataclasses.replace(u, label=None) for u in utterances]
    with StoreWriter(small, corpus="x|<b>`y`\n# z", labels=["a|b"], utterances=us, command="c `d`\n# e") as w:
        w.add_feature(
            "audio",
            "IS10",
            np.ones((45, 2)),
            np.ones(45, bool),
            [""] * 45,
            attrs={"extractor": "opensmile functionals"},
        )
    run("card", small, "--out", tmp_path / "README.md")
    body = (tmp_path / "README.md").read_text()
    assert "Commercial use" in body and "audEERING" in body
    front, shown = body.split("---\n", 2)[1:]
    assert "<b>" not in shown and "\n# z" not in shown and "\n# e" not in shown
    assert yaml.safe_load(front)["pretty_name"].startswith("x|<b>`y` # z:")
