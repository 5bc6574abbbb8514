"""Features with one vector per layer: what a reader sees, and which layers a run uses of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layers_support import LAYERS, WIDTH, layered_store
from store_support import unseal
from test_train_cli import call, one_line
from test_train_support import write_store

from erc_toolkit.extract.commands.reduce import reduce_command
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.card import card_command
from erc_toolkit.toolkit.commands.export import export_command
from erc_toolkit.toolkit.commands.info import info_command
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.joined import choose_feature


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return layered_store(tmp_path_factory.mktemp("store") / "s.h5")


def test_a_reader_sees_the_layers(store):
    with FeatureStore.open(store) as opened:
        feature = opened.feature("audio/audio_x")
        values = feature.values()
        assert (feature.layers, feature.dim) == (LAYERS, LAYERS * WIDTH)
        found = feature.layer_values(slice(3, 9))
        assert found.shape == (6, LAYERS, WIDTH) and found.dtype == np.float32
        for row in range(6):
            for layer in range(LAYERS):
                assert (found[row, layer] == values[3 + row, layer * WIDTH : (layer + 1) * WIDTH]).all()
    assert f"{LAYERS} layers of {WIDTH}" in call(info_command, store).output
    assert json.loads(call(info_command, store, "--json").stdout)["features"]["audio/audio_x"]["layers"] == LAYERS


def test_a_feature_without_layers_has_none(tmp_path):
    path = write_store(tmp_path / "s.h5", dims={"audio": 6})
    with FeatureStore.open(path) as opened:
        assert opened.feature("audio/audio_x").layers == 0
        with pytest.raises(UserError, match="layers=each"):
            opened.feature("audio/audio_x").layer_values()
        with pytest.raises(UserError, match="layers=each"):
            choose_feature(opened, "audio", {"feature": "audio_x", "layers": "learned"})
    assert "layers" not in json.loads(call(info_command, path, "--json").stdout)["features"]["audio/audio_x"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"layers": "each"},
        {"layers": "each", "layer_count": 5, "layer_dim": WIDTH},
        {"layers": "each", "layer_count": -LAYERS, "layer_dim": -WIDTH},
        {"layers": "each", "layer_count": True, "layer_dim": LAYERS * WIDTH},
        {"layers": "each", "layer_count": f"{LAYERS}", "layer_dim": WIDTH},
        {"layers": "each", "layer_count": float(LAYERS), "layer_dim": WIDTH},
    ],
)
def test_layers_that_do_not_make_up_the_matrix_are_refused(tmp_path, parameters):
    path = write_store(tmp_path / "s.h5", dims={"audio": LAYERS * WIDTH}, attrs={"parameters": parameters})
    unseal(path)
    message = one_line(call(info_command, path))
    assert str(path) in message and "audio/audio_x" in message


@pytest.mark.parametrize(("layers", "rows"), [("mean", range(6)), (0, [0]), (5, [5]), ("2-4", [2, 3, 4]), ("3-3", [3])])
def test_layers_without_learning(store, layers, rows):
    with FeatureStore.open(store) as opened:
        feature = opened.feature("audio/audio_x")
        used = choose_feature(opened, "audio", {"feature": "audio_x", "layers": layers})
        values, everything = feature.values(), used.values()
        assert used.dim == WIDTH and used.name == f"audio/layers(audio_x, {layers})"
        for row in range(len(opened)):
            parts = [values[row, layer * WIDTH : (layer + 1) * WIDTH].astype(float) for layer in rows]
            assert np.allclose(everything[row], sum(parts) / len(parts), atol=1e-6)
        for part in (slice(4, 11), slice(-3, None), slice(0, 9, 2), slice(9, None, -2), slice(5, 5)):
            assert (used.values(part) == everything[part]).all()
        assert (used.present() == feature.present()).all()
        everywhere = choose_feature(opened, "audio", [{"feature": "none", "layers": layers}, "audio_x"])
        assert everywhere.name == "audio/audio_x"


def test_reducing_and_exporting_take_the_matrix_as_it_is(store, tmp_path):
    path = tmp_path / "s.h5"
    path.write_bytes(store.read_bytes())
    for out, arguments in (("x.npz", ["--format", "npz"]), ("x.parquet", ["--format", "parquet"])):
        result = call(export_command, path, "--out", tmp_path / out, *arguments)
        assert result.exit_code == 0, (result.output, result.exception)
    assert f"| {LAYERS * WIDTH} ({LAYERS} layers of {WIDTH}) |" in call(card_command, path).output
    assert call(reduce_command, path, "--feature", "audio/audio_x", "--to", 5).exit_code == 0
    with FeatureStore.open(path) as opened:
        assert opened.feature("audio/audio_x-anova5").layers == 0 and opened.feature("audio/audio_x").layers == LAYERS
        with pytest.raises(UserError, match="audio_x-anova5 has one vector"):
            choose_feature(opened, "audio", {"feature": "audio_x-*", "layers": "mean"})


def test_layers_that_are_not_there(store):
    with FeatureStore.open(store) as opened:
        for layers in (6, "2-6"):
            with pytest.raises(UserError, match="6 layers; choose from 0 to 5"):
                choose_feature(opened, "audio", {"feature": "audio_x", "layers": layers})
        with pytest.raises(UserError, match="no feature 'audio/layers"):
            choose_feature(opened, "audio", {"feature": "absent", "layers": 1})


BAD = [
    "{feature: x}",
    "{layers: 3}",
    "{feature: x, layers: 4-3}",
    "{feature: x, layers: most}",
    "{feature: x, layers: -1}",
    "{feature: x, layers: true}",
    "{feature: x, layers: [1]}",
    "{feature: [x], layers: 1}",
    "{feature: '', layers: 1}",
]


@pytest.mark.parametrize("value", BAD)
def test_bad_choices_of_layers_are_refused(value):
    with pytest.raises(UserError, match="data.audio"):
        load_config("demo", [f"data.audio={value}"])
