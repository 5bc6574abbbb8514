"""`study` and `leaderboard` with `--engine ray` on a real cluster: the same runs, and their files here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cluster_support import add_node, engine_of, kill_node, ray_cluster
from test_train_support import write_store

from erc_toolkit.train.commands.leaderboard import leaderboard_command
from erc_toolkit.train.commands.study import study_command
from erc_toolkit.train.studies import remote

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SMALL = ["--set", "model.hidden=16", "--set", "model.heads=2", "--set", "train.epochs=3", "--device", "cpu"]
FILES = ("predictions.csv", "model.safetensors", "config.yaml", "measured.json")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(2) as found:
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


def study(store, out, *more) -> str:
    call = [store, "--grid", "model.window=2,3", "--seeds", "2", "--recipe", "demo", "--jobs", "2", "--out", out]
    done = CliRunner().invoke(study_command, [str(a) for a in (*call, *SMALL, *more)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def here(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("here") / "study"
    study(store, out)
    return out


def files(out: Path) -> dict[str, bytes]:
    return {f"{p.parent.relative_to(out)}/{p.name}": p.read_bytes() for name in FILES for p in sorted(out.rglob(name))}


def test_runs_on_a_cluster_are_the_same_and_come_back(cluster, store, here, tmp_path, monkeypatch):
    monkeypatch.setattr(remote.RunsFactory, "__reduce__", _elsewhere)
    (tmp_path / "shared").mkdir()
    printed = study(store, tmp_path / "out", "--engine", engine_of(cluster), "--shared", tmp_path / "shared")
    assert not list((tmp_path / "shared").iterdir())
    assert files(tmp_path / "out") == files(here) and len(files(here)) == 16
    assert cluster.address in printed
    runs = [json.loads((out / "study.json").read_text()) for out in (here, tmp_path / "out")]
    scores = [[[run["result"]["test"] for run in v["runs"]] for v in one["variants"]] for one in runs]
    assert scores[0] == scores[1] and cluster.address in runs[1]["engine"]
    assert "4 done" in study(store, tmp_path / "out", "--engine", engine_of(cluster))


def test_the_store_goes_to_nodes_without_it_and_a_lost_node_is_replaced(cluster, store, here, tmp_path, monkeypatch):
    node, come, write = add_node(cluster, TMPDIR=str(tmp_path)), [], remote._write

    def counted(folder, files):
        come.append(folder)
        if len(come) == 1:
            kill_node(node)
        write(folder, files)

    monkeypatch.setattr(remote, "_write", counted)
    monkeypatch.setattr(remote.RunsFactory, "__reduce__", _elsewhere)
    study(store, tmp_path / "out", "--engine", engine_of(cluster), "--jobs", "3")
    assert files(tmp_path / "out") == files(here)
    cluster.remove_node(node, allow_graceful=False)


def _elsewhere(factory):
    """What nodes get: the store's path as one that they do not have."""
    return remote.RunsFactory, (Path("/not/there.h5"), factory.content, factory.file)


def test_a_leaderboard_on_a_cluster(cluster, store, tmp_path):
    call = [store, "--models", "logistic-regression", "--recipe", "demo", "--seeds", "1", "--jobs", "2"]
    call += ["--set", "train.epochs=2", "--device", "cpu"]
    for name, engine in (("here", "local"), ("there", engine_of(cluster))):
        words = [str(a) for a in (*call, "--out", tmp_path / name, "--engine", engine)]
        done = CliRunner().invoke(leaderboard_command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    boards = [json.loads((tmp_path / name / "board.json").read_text())["rows"] for name in ("here", "there")]
    found = [[(row["model"], [run["predicted"] for run in row["runs"]]) for row in rows] for rows in boards]
    assert found[0] == found[1] and all(runs for _, runs in found[0])
