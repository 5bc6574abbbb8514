"""train.track_test: the test split is scored after every epoch, and nothing else changes."""

import json

import pytest
from test_train_support import write_store

from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.loop.run_folder import METRICS, WEIGHTS
from erc_toolkit.train.loop.trainer import train

SETTINGS = ["train.epochs=5", "train.lr=5e-3", "model.hidden=16", "model.heads=2"]


def run(store, out, changes):
    with FeatureStore.open(store) as opened:
        result = train(opened, load_config("demo", [*SETTINGS, *changes]), out, "cpu", lambda line: None)
    return result, [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5", noise=2)


def test_it_shows_the_test_split_and_changes_nothing(store, tmp_path):
    plain, lines = run(store, tmp_path / "plain", [])
    tracked, tracked_lines = run(store, tmp_path / "tracked", ["train.track_test=true"])
    assert (tmp_path / "plain" / WEIGHTS).read_bytes() == (tmp_path / "tracked" / WEIGHTS).read_bytes()
    assert tracked["test"] == plain["test"] and tracked["selected"] == plain["selected"]
    assert [line["val"] for line in tracked_lines] == [line["val"] for line in lines]
    assert all("test" not in line for line in lines)
    scores = [line["test"]["weighted_f1"] for line in tracked_lines]
    assert scores[tracked["selected"]["epoch"] - 1] == pytest.approx(tracked["test"]["weighted_f1"])
    assert len(set(scores)) > 1


def test_memory_is_what_the_process_took(store, tmp_path):
    result, _ = run(store, tmp_path / "run", [])
    assert 50e6 < result["peak_memory"] < 24e9  # at least PyTorch itself
