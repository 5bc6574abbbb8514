"""`convert`: every published layout, intact and with defects, becomes a store that records its problems."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.exchange.convert import convert
from erc_toolkit.toolkit.exchange.layouts import LAYOUTS, recognise
from erc_toolkit.toolkit.exchange.pack import ZEROS
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore

LENGTHS = {"Ses01F_impro01": 3, "Ses03M_script01_1": 2, "Ses05F_impro02": 4}
MELD = {0: 2, 61: 1, 1039: 3, 1153: 2, 1432: 4}
SPLITS = {0: "train", 61: "train", 1039: "val", 1153: "test", 1432: "test"} | dict(
    zip(LENGTHS, ("train", "val", "test"), strict=True)
)


def content(layout, lengths=None, seed=0, **splits: str) -> list:
    """A layout's parts, filled like the published files: lists of float32 arrays, class indices, one-hot or M and F.

    `splits` assigns dialogues with other names.
    """
    splits = SPLITS | splits
    rng = np.random.default_rng(seed)
    meld = layout.name.endswith("-meld")
    lengths = lengths or (MELD if meld else LENGTHS)
    parts = []
    for part in layout.parts:
        if part == "ids":
            parts.append({k: [f"{k}_{i}" for i in range(n)] for k, n in lengths.items()})
        elif part == "speakers":
            one_hot = np.eye(9, dtype=int).tolist()
            parts.append({k: [one_hot[i % 3] if meld else "MF"[i % 2] for i in range(n)] for k, n in lengths.items()})
        elif part == "labels":
            parts.append({k: [(i + n) % 6 for i in range(n)] for k, n in lengths.items()})
        elif part == "sentences":
            parts.append({k: [f"sentence {i} of {k}, caf\xe9" for i in range(n)] for k, n in lengths.items()})
        elif part in ("train", "val", "test"):
            also = ("val",) if part == "train" and "val" not in layout.parts else ()
            parts.append([k for k in lengths if splits[k] in (part, *also)])
        elif part == "-":
            parts.append({k: [0] * n for k, n in lengths.items()})
        else:
            width = 5 + len(part)
            parts.append({k: [rng.normal(size=width).astype(np.float32) for _ in range(n)] for k, n in lengths.items()})
    return parts


def converted(tmp_path: Path, value: object, **options) -> tuple[FeatureStore, dict]:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=options.pop("protocol", 4)))
    made = convert([str(tmp_path / "x.pkl")], tmp_path / "x.h5", **options)
    return FeatureStore.open(tmp_path / "x.h5"), made


def layout(name: str):
    return next(known for known in LAYOUTS if known.name == name)


@pytest.mark.parametrize("name", [known.name for known in LAYOUTS if "labels" in known.parts])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_layout_is_recognised_and_read(name, protocol, tmp_path):
    known = layout(name)
    parts = content(known)
    store, made = converted(tmp_path, tuple(parts) if protocol == 2 else parts, protocol=protocol)
    with store:
        assert made["layouts"] == [name]
        lengths = MELD if name.endswith("-meld") else LENGTHS
        assert np.diff(store.offsets).tolist() == list(lengths.values())
        held = dict(zip(known.parts, parts, strict=True))
        assert store.column("label").tolist() == sum(held["labels"].values(), [])
        assert store.column("text").tolist() == sum(held["sentences"].values(), []) if "sentences" in held else True
        if name.endswith("-meld"):
            assert store.corpus == "meld" and store.labels[0] == "neutral"
            assert store.dialogue_ids == ["train_dia0", "train_dia61", "val_dia0", "test_dia0", "test_dia279"]
            assert store.speaker_names[:2] == ["train_dia0/0", "train_dia0/1"]
        else:
            assert store.corpus == "iemocap" and store.labels == [
                "happy",
                "sad",
                "neutral",
                "angry",
                "excited",
                "frustrated",
            ]
            assert store.dialogue_ids == list(LENGTHS) and store.speaker_names == ["M", "F"]
        split = [SPLITS[k] for k, n in lengths.items() for _ in range(n)]
        if "val" not in known.parts and not name.endswith("-meld"):
            split = ["train" if s == "val" else s for s in split]
        assert store.column("split").tolist() == split
        assert store.feature_names() == sorted(part for part in known.parts if "/" in part)
        for part in store.feature_names():
            expected = np.concatenate([np.stack(rows) for rows in held[part].values()])
            assert store.feature(part).values().tobytes() == expected.tobytes() and store.feature(part).present().all()
        store.verify()
        source = json.loads(store.attrs["converted_from"])
        assert source[0]["file"] == "x.pkl" and len(source[0]["sha256"]) == 64 and store.attrs["layout"] == name
        assert not [p for p in made["problems"] if "validation" not in p]


def test_layouts_do_not_shadow_one_another():
    for known in LAYOUTS:
        assert recognise(content(known)).name == known.name
    assert recognise([1, 2]) is None and recognise({}) is None and recognise("x") is None


def test_defects_are_masked_and_reported_by_dialogue(tmp_path):
    known = layout("sdt")
    parts = dict(
        zip(
            known.parts,
            content(
                known,
                LENGTHS | {"Ses02F_impro01": 2, "Ses02M_impro02": 2},
                Ses02F_impro01="train",
                Ses02M_impro02="train",
            ),
            strict=True,
        )
    )
    first, second, third = list(LENGTHS)
    parts["text/roberta-1"][first][1][3] = np.nan
    parts["audio/sdt"][first] = parts["audio/sdt"][first][:2]
    del parts["visual/sdt"][second]
    parts["visual/sdt"][third][0] = parts["visual/sdt"][third][0][:4]
    parts["visual/sdt"][third][1] = np.zeros_like(parts["visual/sdt"][third][2])
    parts["visual/sdt"][third][2] = "not a vector"
    parts["text/roberta-2"][third][0] = np.full(len(parts["text/roberta-2"][third][1]), 1e300)
    parts["ids"][first][2] = parts["ids"][first][0]
    parts["sentences"][second] = parts["sentences"][second][:1]
    parts["train"] += ["Ses09_nowhere", first, third]
    parts["test"] += [third]
    parts["train"].remove("Ses02F_impro01")
    parts["labels"]["Ses02M_impro02"] = ["happy", "sad"]
    parts["audio/sdt"]["Ses04_extra"] = [np.ones(3, np.float32)]
    store, made = converted(tmp_path, tuple(parts.values()))
    with store:
        problems = made["problems"]
        assert json.loads(store.attrs["notes"]) == problems

        def reported(*words: str) -> bool:
            return any(all(w in p for w in words) for p in problems)

        assert store.dialogue_ids == list(LENGTHS)
        assert reported(first, "text/roberta-1", "NaN") and reported(
            first, "audio/sdt", "wrong length", "2 vectors", "3 utterances"
        )
        assert reported(second, "visual/sdt", "no features") and reported(third, "visual/sdt", "wrong width")
        assert (
            reported(third, "visual/sdt", "not a vector")
            and reported("visual/sdt", "zeros")
            and reported(third, "float32")
        )
        assert (
            reported(first, f"{first}_0#2")
            and reported(second, "sentences", "1 instead of 2")
            and reported("Ses09_nowhere", "no labels")
        )
        assert (
            reported(first, "more than once")
            and reported(third, "train and test")
            and reported("Ses02F_impro01", "split")
        )
        assert reported("Ses02M_impro02", "labels") and reported("Ses04_extra", "no labels")
        assert store.column("split").tolist() == ["train"] * 5 + ["test"] * 4
        assert store.column("id")[2] == f"{first}_0#2" and store.column("text")[3:5].tolist() == ["", ""]
        assert store.feature("text/roberta-1").present().tolist() == [True, False] + [True] * 7
        assert store.feature("audio/sdt").present().tolist() == [False] * 3 + [True] * 6
        reasons = store.feature("visual/sdt").reasons().tolist()
        assert reasons[3] == "no features in the file" and reasons[5].startswith("wrong width") and reasons[6] == ZEROS


def test_zeros_can_be_kept_and_rounding_of_float64_is_reported(tmp_path):
    known = layout("mmgcn")
    parts = content(known)
    parts[5][list(LENGTHS)[0]] = np.zeros((3, 7))
    parts[4] = {k: [np.full(4, 0.1) for _ in v] for k, v in parts[4].items()}
    store, made = converted(tmp_path, parts, keep_zeros=True)
    with store:
        assert any(all(fact in p for fact in ("9 utterances", "float64", "float32")) for p in made["problems"])
        assert any("wrong width" in p for p in made["problems"])  # the zeros have another width
        assert store.feature("audio/mmgcn").values()[0, 0] == np.float32(0.1)
    parts[5] = {k: np.zeros((len(v), 7)) for k, v in parts[4].items()}
    store, _ = converted(tmp_path, parts, keep_zeros=True)
    with store:
        assert store.feature("visual/mmgcn").present().all()
    store, made = converted(tmp_path, parts)
    with store:
        assert not store.feature("visual/mmgcn").present().any()
        assert store.feature("visual/mmgcn").reasons()[0] == ZEROS


def test_labels_and_corpus_can_be_named(tmp_path):
    known = layout("amb-dsgdn-text")
    parts = content(known, {"a": 2, "b": 3}, a="train", b="test")
    store, made = converted(tmp_path, parts)
    with store:
        assert (
            store.corpus == "unknown"
            and store.labels[0] == "label-0"
            and any("--labels" in p for p in made["problems"])
        )
    store, _ = converted(tmp_path, parts, corpus="mine", labels=list("uvwxyz"))
    with store:
        assert store.corpus == "mine" and store.labels == list("uvwxyz")
    with pytest.raises(UserError, match=r"x\.pkl: .*6 classes.*--labels.* 2"):
        converted(tmp_path, parts, labels=["x", "y"])


def test_files_are_joined(tmp_path):
    """MMGCN's features with COSMIC's RoBERTa layers, as M3NET trains on; and COMET's; and sentences."""
    base, roberta, comet = (
        content(layout("mmgcn")),
        content(layout("cosmic-features"), seed=1),
        content(layout("cosmic-comet"), seed=2),
    )
    base[6] = {k: [""] * n for k, n in LENGTHS.items()}
    files = []
    for name, value in (("a", base), ("b", roberta), ("c", comet), ("d", roberta[6])):
        files.append(str(tmp_path / f"{name}.pkl"))
        Path(files[-1]).write_bytes(pickle.dumps(value))
    made = convert(files[:3], tmp_path / "x.h5")
    assert made["layouts"] == ["mmgcn", "cosmic-features", "cosmic-comet"] and len(made["features"]) == 3 + 4 + 9
    made = convert([files[0], files[3]], tmp_path / "y.h5")
    with FeatureStore.open(tmp_path / "y.h5") as store:
        assert store.column("text").tolist() == sum(roberta[6].values(), [])
    with pytest.raises(UserError, match=r"c\.pkl: .*labels.*cosmic-comet"):
        convert([files[2]], tmp_path / "z.h5")
    with pytest.raises(UserError, match=r"a\.pkl: (text|audio|visual)/mmgcn"):
        convert([files[0], files[0]], tmp_path / "z.h5")
    other = content(layout("cosmic-comet"), {"elsewhere": 2}, elsewhere="train")
    Path(files[2]).write_bytes(pickle.dumps(other))
    with pytest.raises(UserError, match=r"c\.pkl: .*dialogue"):
        convert([files[0], files[2]], tmp_path / "z.h5")
    assert not (tmp_path / "z.h5").exists()


def mmsa(frames: int = 6) -> dict:
    rng = np.random.default_rng(5)
    made = {}
    for split, ids in (
        ("train", ["v1$_$1", "v1$_$0", "v2$_$0"]),
        ("valid", ["v3$_$0"]),
        ("test", ["v4$_$0", "v4$_$1"]),
    ):
        n = len(ids)
        made[split] = {
            "id": ids,
            "raw_text": np.array([f"text {i}" for i in ids]),
            "annotations": ["Negative", "Positive", "Neutral"][:n],
            "classification_labels": np.array([0.0, 2.0, 1.0][:n]),
            "regression_labels": np.array([-1.0, 2.0, 0.0][:n]),
            "text": rng.normal(size=(n, frames, 4)).astype(np.float32),
            "text_bert": np.zeros((n, 3, frames)),
            "audio": rng.normal(size=(n, frames, 3)),
            "audio_lengths": [2, 0, 5][:n],
            "vision": rng.normal(size=(n, frames, 2)),
            "vision_lengths": [frames] * n,
        }
    return made


def test_mmsa(tmp_path):
    value = mmsa()
    store, made = converted(tmp_path, value)
    with store:
        assert made["layouts"] == ["mmsa"] and store.labels == ["Negative", "Neutral", "Positive"]
        assert store.column("id").tolist() == ["v1$_$0", "v1$_$1", "v2$_$0", "v3$_$0", "v4$_$0", "v4$_$1"]
        assert store.column("split").tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
        assert [store.labels[i] for i in store.column("label")[:3]] == ["Positive", "Negative", "Neutral"]
        audio = store.feature("audio/mmsa")
        assert (
            audio.present().tolist() == [False, True, True, True, True, False]
            and audio.reasons()[0] == "no frames in the file"
        )
        frames, times = audio.sequence(1)
        assert np.array_equal(frames, value["train"]["audio"][0, :2].astype(np.float32)) and np.isnan(times).all()
        assert np.allclose(audio.values()[1], value["train"]["audio"][0, :2].mean(0))
        assert np.allclose(store.feature("text/mmsa").values()[1], value["train"]["text"][0].mean(0))
    value["valid"]["id"] = ["v1$_$7"]
    del value["test"]["annotations"], value["train"]["annotations"], value["valid"]["annotations"]
    store, made = converted(tmp_path, value)
    with store:
        assert any(p.startswith("v1: ") and "train and valid" in p for p in made["problems"])
        assert store.dialogue_ids == ["v1@train", "v2", "v1@valid", "v4"] and store.labels == [
            "Negative",
            "Neutral",
            "Positive",
        ]


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "m.jsonl"
    utterances = [Utterance(f"u{i}", "d", i, "A", "hi", "joy", "train") for i in range(3)]
    write_manifest(Manifest("mine", ["joy"], tmp_path, utterances), path)
    return path


def test_arrays_with_a_manifest(tmp_path, manifest):
    rng = np.random.default_rng(0)
    text, audio = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 5, 2)).astype(np.float32)
    np.save(tmp_path / "text-roberta.npy", text)
    np.savez(tmp_path / "wav.npz", audio)
    np.savez(tmp_path / "faces.npz", u0=np.ones(3), u2=rng.normal(size=(2, 3)), other=np.ones(3))
    files = [
        str(tmp_path / "text-roberta.npy"),
        f"audio/lld={tmp_path / 'wav.npz'}",
        f"visual={tmp_path / 'faces.npz'}",
    ]
    made = convert(files, tmp_path / "x.h5", manifest=manifest)
    with FeatureStore.open(tmp_path / "x.h5") as store:
        assert store.feature_names() == ["audio/lld", "text/roberta", "visual/faces"]
        assert store.feature("text/roberta").values().tobytes() == text.tobytes()
        assert np.array_equal(store.feature("audio/lld").sequence(1)[0], audio[1])
        assert store.feature("visual/faces").present().tolist() == [True, False, True]
        assert any("visual/faces" in p and "1 array " in p for p in made["problems"])
    np.save(tmp_path / "bad.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "short.npy", text[:2])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "wav.npz").read_bytes()[:-40])
    for name, wanted in (
        ("text=bad", r"bad\.npy: .*pickles"),
        ("text=short", r"text/short: .*\(2, 4\).*3 utterances"),
        ("short", r"short\.npy: .*audio=short\.npy"),
        ("text=cut", r"cut\.npz: .*numpy"),
    ):
        file = name.replace("=", f"={tmp_path}/") if "=" in name else f"{tmp_path}/{name}"
        with pytest.raises(UserError, match=wanted):
            convert([file + (".npz" if "cut" in name else ".npy")], tmp_path / "y.h5", manifest=manifest)
    with pytest.raises(UserError, match=r"text-roberta\.npy: .*--manifest"):
        convert([files[0]], tmp_path / "y.h5")


def test_an_array_that_claims_terabytes(tmp_path, manifest):
    """Its header claims the shape (10^12, 4), but there is no data. The confined process refuses it."""
    path = tmp_path / "text.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    result = CliRunner().invoke(
        main, ["convert", str(path), "--manifest", str(manifest), "--out", str(tmp_path / "x.h5")]
    )
    assert result.exit_code == 1 and result.output.count("\n") == 1 and str(path) in result.output


def test_command_line(tmp_path):
    path = tmp_path / "IEMOCAP_features.pkl"
    path.write_bytes(pickle.dumps(tuple(content(layout("mmgcn"))), protocol=2))
    result = CliRunner().invoke(main, ["convert", str(path), "--out", str(tmp_path / "x.h5")])
    assert result.exit_code == 0, result.output
    assert "recognised: mmgcn" in result.output and "9 utterances in 3 dialogues of iemocap" in result.output
    with FeatureStore.open(tmp_path / "x.h5") as store:
        assert (
            store.attrs["command"].startswith("erc-toolkit")
            and store.feature("audio/mmgcn").attrs["extractor"] == "converted"
        )
    for value in ([{"a": ["x"]}], 3):
        path.write_bytes(pickle.dumps(value))
        result = CliRunner().invoke(main, ["convert", str(path), "--out", str(tmp_path / "y.h5")])
        assert result.exit_code == 1 and str(path) in result.output and "mmgcn" in result.output
        assert "Traceback" not in result.output
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "none.pkl"), "--out", str(tmp_path / "y.h5")])
    assert result.exit_code == 1 and "none.pkl: " in result.output
    assert not (tmp_path / "y.h5").exists()
