"""`train` and `study`, disturbed."""

from __future__ import annotations

import pytest
from chaos_support import Command, attempt, tries
from test_train_support import write_store

pytestmark = pytest.mark.slow
SETTINGS = ("model.hidden=16", "model.heads=2", "train.epochs=6", "train.lr=3e-3", "model.dropout_warm_up=2")
CHANGES = ["--device", "cpu", *(part for setting in SETTINGS for part in ("--set", setting))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


@pytest.fixture(scope="module")
def training(store, tmp_path_factory):
    return Command(
        "train", lambda root: ["train", store, "--out", root / "run", *CHANGES], again=("--resume",), locks=True
    ).learn(tmp_path_factory.mktemp("train"))


@tries(kill=2, stop=1, fill=2, twice=1)
def test_train(training, kind, place, tmp_path, record_property):
    attempt(training, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def ranking(store, tmp_path_factory):
    chosen = ["--models", "bigru,logistic-regression", "--seeds", "1", "--tune", "1", *CHANGES[:2]]
    chosen += ["--set", "train.epochs=3"]
    return Command("leaderboard", lambda root: ["leaderboard", store, "--out", root / "board", *chosen]).learn(
        tmp_path_factory.mktemp("board")
    )


@tries(kill=2)
def test_leaderboard(ranking, kind, place, tmp_path, record_property):
    attempt(ranking, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def studying(store, tmp_path_factory):
    grid = ["--grid", "model.window=0,1", "--jobs", "2"]
    return Command("study", lambda root: ["study", store, *grid, "--out", root / "study", *CHANGES]).learn(
        tmp_path_factory.mktemp("study")
    )


@tries(kill=2, stop=1, worker=1, fill=2, twice=1)
def test_study(studying, kind, place, tmp_path, record_property):
    attempt(studying, kind, place, tmp_path, record_property)
