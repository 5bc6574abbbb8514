"""Which of several features of a modality a run uses: preferences, names, and several joined."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from test_train_support import LABELS, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.config import load_config, recipe_names
from erc_toolkit.train.data.joined import choose_feature
from erc_toolkit.train.settings import DataConfig

LAYERS = [f"roberta-{i}" for i in (1, 2, 3, 4)]
QUICK = [word for setting in ("train.epochs=2", "model.hidden=16") for word in ("--set", setting)]


def utterances_of(store):
    columns = [store.column(name).tolist() for name in ("id", "dialogue", "speaker", "text", "label", "split")]
    found, positions = [], {}
    for name, dialogue, speaker, text, label, split in zip(*columns, strict=True):
        position = positions[dialogue] = positions.get(dialogue, -1) + 1
        emotion = None if label < 0 else store.labels[label]
        where = store.dialogue_ids[dialogue]
        found.append(Utterance(name, where, position, store.speaker_names[speaker], text, emotion, split))
    return found


def store_with(path, names, absent=()):
    """A store with the utterances of `write_store` and the named text features; `absent` maps a name to rows."""
    write_store(path, dims={"audio": 6})
    with FeatureStore.open(path) as store:
        utterances, audio = utterances_of(store), store.feature("audio/audio_x")
        values, present, reasons = audio.values(), audio.present(), audio.reasons()
    rng = np.random.default_rng(0)
    with StoreWriter(path, corpus="demo", labels=LABELS, utterances=utterances) as writer:
        writer.add_feature("audio", "audio_x", values, present, reasons.tolist())
        for i, name in enumerate(names):
            here = np.ones(len(utterances), bool)
            here[list(dict(absent).get(name, ()))] = False
            wide = rng.normal(size=(len(utterances), 8)).astype(np.float32) + i
            writer.add_feature("text", name, wide, here, ["" if p else f"no {name}" for p in here])
    return path


def test_preferences_patterns_and_joins(tmp_path):
    path = store_with(tmp_path / "s.h5", [*LAYERS, "bert"], {"roberta-2": [3], "roberta-4": [3, 5]})
    with FeatureStore.open(path) as store:
        assert choose_feature(store, "text", ["absent", "roberta-2", "bert"]).name == "text/roberta-2"
        assert choose_feature(store, "text", ["*-3"]).name == "text/roberta-3"
        assert choose_feature(store, "audio", ["absent"]).name == "audio/audio_x"
        assert choose_feature(store, "visual", ["absent"]) is None
        each = [store.feature(f"text/{name}") for name in LAYERS]
        wide = choose_feature(store, "text", [{"concat": ["x-1"]}, {"concat": LAYERS}])
        mean = choose_feature(store, "text", {"mean": LAYERS})
        here = np.ones(len(store), bool)
        here[[3, 5]] = False
        assert wide.dim == 32 and mean.dim == 8
        assert (wide.present() == here).all() and (mean.present() == here).all()
        # Slow and obvious.
        for row in range(len(store)):
            parts = [one.values()[row] for one in each]
            expected = np.concatenate(parts) if here[row] else np.zeros(32)
            assert np.array_equal(wide.values()[row], expected)
            assert np.allclose(mean.values()[row], np.mean(parts, 0) if here[row] else 0, atol=1e-6)
        assert wide.reasons()[3] == "no roberta-2" and wide.reasons()[5] == "no roberta-4" and wide.reasons()[0] == ""
        with pytest.raises(UserError, match="roberta-1.*bert|bert.*roberta-1"):
            choose_feature(store, "text", ["absent"])
        with pytest.raises(UserError, match="data.text"):
            choose_feature(store, "text", {"concat": ["roberta-1", "absent"]})


def test_features_of_different_widths_have_no_mean(tmp_path):
    path = write_store(tmp_path / "s.h5", dims={"text": 4})
    with FeatureStore.open(path) as store:
        utterances = utterances_of(store)
    with StoreWriter(path, corpus="demo", labels=LABELS, utterances=utterances) as writer:
        for name, width in (("a", 3), ("b", 4)):
            n = len(utterances)
            writer.add_feature("text", name, np.ones((n, width), np.float32), np.ones(n, bool), [""] * n)
    with FeatureStore.open(path) as store, pytest.raises(UserError, match="a 3.*b 4"):
        choose_feature(store, "text", {"mean": ["a", "b"]})


@pytest.mark.parametrize("value", ["3", "[[a]]", "{concat: a}", "{sum: [a]}", "{concat: []}", "''"])
def test_bad_choices_are_refused(value):
    with pytest.raises(UserError, match="data.text"):
        load_config("demo", [f"data.text={value}"])


def test_every_recipe_prefers_features_of_each_modality():
    for name in recipe_names():
        data = load_config(name).data
        assert all(isinstance(getattr(data, m), list) and getattr(data, m) for m in ("text", "audio", "visual")), name
    assert DataConfig().text is None


@pytest.mark.parametrize(
    ("model", "name", "dim", "layers"),
    [("bigru", "text/roberta-1", 8, None), ("df-gcn", f"text/concat({', '.join(LAYERS)})", 32, 4)],
)
def test_a_default_run_on_a_store_with_four_layers(tmp_path, model, name, dim, layers):
    store, run = store_with(tmp_path / "s.h5", LAYERS), tmp_path / "run"
    arguments = ["train", str(store), "--model", model, "--out", str(run), "--device", "cpu", *QUICK]
    more = ["--set", "model.heads=2"] if model == "df-gcn" else []
    result = CliRunner().invoke(main, [*arguments, *more])
    assert result.exit_code == 0, result.output
    assert name in result.output
    if model == "bigru":
        assert "text/roberta-4" in result.output  # what the choice was between
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"]["features"]["text"]["name"] == name and config["run"]["features"]["text"]["dim"] == dim
    if layers:
        assert config["model"]["text_layers"] == layers
    found = CliRunner().invoke(main, ["eval", str(run), "--device", "cpu", "--json"])
    assert found.exit_code == 0, found.output
    test = json.loads((run / "result.json").read_text())["result"]["test"]
    assert json.loads(found.stdout)["weighted_f1"] == pytest.approx(test["weighted_f1"], abs=1e-9)


def test_a_run_keeps_its_feature_when_the_store_gains_a_preferred_one(tmp_path):
    store, run = store_with(tmp_path / "s.h5", ["bert"]), tmp_path / "run"
    arguments = ["train", str(store), "--recipe", "bigru-demo", "--out", str(run), "--device", "cpu", *QUICK]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    store_with(tmp_path / "s.h5", ["bert", "roberta-1"])
    result = CliRunner().invoke(main, ["eval", str(run), "--device", "cpu"])
    assert result.exit_code == 0, result.output
