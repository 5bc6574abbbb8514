"""Parallel runs on one machine: each on cores of its own, all with one copy of the features."""

import os

import numpy as np
import pytest
from test_study import SMALL, study
from test_train_support import write_store

from erc_toolkit.toolkit.base import cores
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.processes import work_off
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data import shared
from erc_toolkit.train.data.features import read_feature
from erc_toolkit.train.data.shared import FOLDER, prepared_feature, sharing
from erc_toolkit.train.loop.plan import make_plan, training_data
from erc_toolkit.train.loop.trainer import train

SETTINGS = [SMALL[i] for i in range(1, len(SMALL) - 2, 2)]


@pytest.mark.parametrize(
    ("own", "processes", "threads", "shares"),
    [
        ([0, 1], 2, 1, [[0], [1]]),
        ([1, 2, 5, 6, 7], 2, 2, [[1, 2], [5, 6, 7]]),
        ([0, 1, 2, 3], 3, 1, [[0], [1], [2, 3]]),
        ([0, 1], 3, 1, None),  # more processes than cores: the system divides them
        ([0, 1], 2, 2, None),  # more threads than cores
        ([], 2, 1, None),  # a system that does not bind processes
    ],
)
def test_shares_of_the_cores(monkeypatch, own, processes, threads, shares):
    monkeypatch.setattr(cores, "own_cores", lambda: own)
    assert cores.core_shares(processes, threads) == shares


@pytest.mark.parametrize(("numbers", "words"), [([0, 1, 2, 5], "0-2, 5"), ([3], "3"), ([1, 3], "1, 3"), ([], "")])
def test_cores_in_words(numbers, words):
    assert cores.cores_in_words(numbers) == words


def own_share(task):
    """The cores of this worker, and how many tasks wait for another."""
    import time

    time.sleep(0.2)  # so that each worker gets one
    return cores.own_cores()


@pytest.mark.skipif(len(cores.own_cores()) < 2, reason="needs two cores that processes can be bound to")
def test_each_worker_is_bound_to_its_share():
    before = os.sched_getaffinity(0)
    found = {tuple(result) for _, result in work_off(own_share, [(0,)] * 6, 2, 1)}
    assert found == {tuple(share) for share in cores.core_shares(2, 1)}
    alone = {tuple(result) for _, result in work_off(own_share, [(0,)] * 2, 1, 1)}
    assert alone == {tuple(sorted(before))} and os.sched_getaffinity(0) == before


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


def test_shared_features_are_those_that_a_run_prepares_itself(path, tmp_path):
    config = load_config("demo", SETTINGS)
    with FeatureStore.open(path) as store:
        plan = make_plan(store, config)
        matrices = {m: read_feature(store, f) for m, f in plan.features.items()}
        _, normalisers = training_data(plan, matrices)
        rows = np.flatnonzero(
            np.isin(np.repeat(np.arange(len(store.offsets) - 1), np.diff(store.offsets)), plan.division.train)
        )
        for m, feature in plan.features.items():
            for _ in range(2):  # prepared, and then only mapped
                found = prepared_feature(store, feature, rows, config.data, tmp_path)
                assert np.array_equal(found.values, matrices[m][0]) and np.array_equal(found.present, matrices[m][1])
                assert np.array_equal(found.normaliser.mean, normalisers[m].mean)
                assert np.array_equal(found.normaliser.scale, normalisers[m].scale)
                assert found.normaliser.clip == normalisers[m].clip
                assert isinstance(found.values, np.memmap)


def test_a_second_run_reads_no_matrix_and_other_settings_are_not_taken_for_the_same(path, tmp_path, monkeypatch):
    config = load_config("demo", SETTINGS)
    other = load_config("demo", [*SETTINGS, "data.normalise=none"])
    reads = []
    monkeypatch.setattr(shared, "read_feature", lambda store, f: reads.append(f.name) or read_feature(store, f))
    with FeatureStore.open(path) as store:
        feature = make_plan(store, config).features["audio"]
        rows = np.arange(20)
        first = prepared_feature(store, feature, rows, config.data, tmp_path)
        again = prepared_feature(store, feature, rows, config.data, tmp_path)
        assert len(reads) == 1
        again.values[0, 0] = 7  # a process's own page: the file and the other mapping stay
        assert first.values[0, 0] != 7
        raw = prepared_feature(store, feature, rows, other.data, tmp_path)
        fewer = prepared_feature(store, feature, rows[:10], config.data, tmp_path)
        assert len(reads) == 3
        assert not np.array_equal(raw.values, first.values) and not np.array_equal(fewer.values, first.values)


def test_a_run_with_shared_features_has_the_same_numbers(path, tmp_path):
    results = []
    for name, folder in (("own", None), ("first", tmp_path / FOLDER), ("second", tmp_path / FOLDER)):
        with FeatureStore.open(path) as store:
            config = load_config("demo", [*SETTINGS, "train.epochs=2"])
            train(store, config, tmp_path / name, "cpu", lambda line: None, shared=folder)
        results.append((tmp_path / name / "model.safetensors").read_bytes())
    assert results[0] == results[1] == results[2]
    assert list((tmp_path / FOLDER).glob("*.npy"))


def test_hidden_features_are_not_shared(path, tmp_path):
    with FeatureStore.open(path) as store:
        config = load_config("demo", [*SETTINGS, "train.epochs=1", "data.missing=0.3"])
        train(store, config, tmp_path / "run", "cpu", lambda line: None, shared=tmp_path / FOLDER)
    assert not (tmp_path / FOLDER).exists()


def test_a_shared_folder_is_empty_first_and_gone_in_the_end(tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "old.npy").write_bytes(b"left by a process that was killed")
    with pytest.raises(UserError), sharing(folder):
        assert not folder.exists()
        folder.mkdir()
        raise UserError("an end in the middle")
    assert not folder.exists()


def test_a_parallel_study_says_where_its_runs_compute(path, tmp_path):
    out = tmp_path / "study"
    result = study(path, "--grid", "model.window=0,4", "--jobs", "2", "--out", out, *SMALL, "--set", "train.epochs=1")
    assert result.exit_code == 0, result.output
    assert "2 runs at a time, 1 thread each" in result.output
    assert not (out / FOLDER).exists()
    logs = {(path.parent / "train.log").read_text() for path in out.glob("*/seed-*/result.json")}
    said = {line for log in logs for line in log.splitlines() if line.startswith("processor cores: ")}
    shares = cores.core_shares(2, 1)
    if shares is not None:
        assert said <= {f"processor cores: {cores.cores_in_words(share)}" for share in shares} and said
        assert " | ".join(map(cores.cores_in_words, shares)) in result.output
