"""`extract --engine ray` on a real cluster of several raylets: the same stores, whatever is lost on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
from cluster_support import add_node, engine_of, kill_node, ray_cluster
from kill_support import run_until

import erc_toolkit
from erc_toolkit.extract.run.remote import compute
from erc_toolkit.extract.run.remote.worker import ROOT
from erc_toolkit.extract.run.rows.parts import PartsFolder
from erc_toolkit.toolkit.base.cluster import team
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SMALL = {
    "audio_set": "eGeMAPSv02",
    "visual_model": "denseface",
    "visual_weights": "random",
    "face_detector": "haar",
    "part_size": 3,
    "workers": 1,
}


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(2) as found:
        yield found


@pytest.fixture(scope="module")
def manifest(raw):
    from erc_toolkit.extract.corpora.registry import read_corpus

    return read_corpus("meld", raw)


@pytest.fixture(scope="module")
def options(text_encoder):
    return {"modalities": ("text", "audio"), "text_model": str(text_encoder), **SMALL}


@pytest.fixture(scope="module")
def here(manifest, options, tmp_path_factory):
    """The store of the local engine."""
    out = tmp_path_factory.mktemp("here") / "s.h5"
    erc_toolkit.extract(manifest, out, notify=lambda line: None, **options)
    return out


def content(path) -> str:
    with FeatureStore.open(path) as store:
        store.verify()
        return store.content_hash


def on(cluster, manifest, out, options, **more) -> list[str]:
    lines: list[str] = []
    erc_toolkit.extract(manifest, out, engine=engine_of(cluster), notify=lines.append, **options, **more)
    return lines


def test_a_cluster_makes_the_same_store(cluster, manifest, here, options, tmp_path, capfd):
    shared = tmp_path / "shared"
    shared.mkdir()
    lines = on(cluster, manifest, tmp_path / "s.h5", {**options, "log_json": True}, shared=shared)
    assert content(tmp_path / "s.h5") == content(here)
    assert any(cluster.address in line and "3 nodes" in line for line in lines)
    assert not list(shared.iterdir())
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    last = {event["stage"]: event for event in events if event["event"] == "progress"}
    assert all(last[stage]["done"] == last[stage]["total"] for stage in ("media", "text"))
    # Rows that are there are recognised by the local engine as its own, as the files are the same ones.
    erc_toolkit.extract(manifest, tmp_path / "s.h5", notify=lines.append, **options)
    assert "nothing to do" in lines[-1]


def test_faces_too(cluster, manifest, options, tmp_path):
    few = dataclasses.replace(manifest, utterances=manifest.utterances[-8:])
    changed = {**options, "modalities": ("text", "visual")}
    erc_toolkit.extract(few, tmp_path / "here.h5", notify=lambda line: None, **changed)
    on(cluster, few, tmp_path / "there.h5", changed)
    assert content(tmp_path / "there.h5") == content(tmp_path / "here.h5")


def test_a_killed_node_is_done_again_elsewhere(cluster, manifest, here, options, tmp_path, monkeypatch):
    node, written, write = add_node(cluster), [], PartsFolder.write

    def counted(folder, name, *more):
        written.append(name)
        if len(written) == 1:  # when every node has three parts, most of which it has not begun
            kill_node(node)
        write(folder, name, *more)

    monkeypatch.setattr(PartsFolder, "write", counted)
    monkeypatch.setattr(compute, "Team", lambda *given, **more: team.Team(*given, **{**more, "together": True}))
    lines = on(cluster, manifest, tmp_path / "s.h5", options)
    assert content(tmp_path / "s.h5") == content(here)
    assert any("lost" in line and node.node_id[:8] in line for line in lines)
    assert len(written) == len(set(written)) > 4
    cluster.remove_node(node, allow_graceful=False)


def test_an_interrupted_run_keeps_its_parts_for_any_engine(cluster, raw, here, options, text_encoder, tmp_path):
    out = tmp_path / "s.h5"
    call = ["extract", "meld", raw, "--out", out, "--modalities", "text,audio", "--text-model", text_encoder]
    call += ["--audio-set", "eGeMAPSv02", "--part-size", "3"]
    on_it = [*call, "--engine", engine_of(cluster)]
    done = run_until(on_it, "finish", r"audio--[^/]+/\d+-\w+\.npz$", 2, how=signal.SIGINT)
    assert done.returncode == 130 and len(list(tmp_path.glob("s.h5.parts/audio--*/*.npz"))) >= 2, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "erc_toolkit", *map(str, call)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    assert content(out) == content(here)


def test_a_node_without_the_corpus_is_named_and_not_used(cluster, manifest, here, options, tmp_path):
    (tmp_path / "empty").mkdir()
    node = add_node(cluster, **{ROOT: str(tmp_path / "empty")})
    try:
        lines = on(cluster, manifest, tmp_path / "s.h5", options)
        assert [line for line in lines if "not used" in line and node.node_id[:8] in line and "lacks" in line]
        assert content(tmp_path / "s.h5") == content(here)
    finally:
        cluster.remove_node(node)


def test_a_node_with_another_version_is_named(cluster, manifest, options, tmp_path, monkeypatch):
    monkeypatch.setattr(team, "__version__", "0.0")
    with pytest.raises(UserError, match=r"no node can be used: .*, not 0\.0"):
        on(cluster, manifest, tmp_path / "s.h5", {**options, "modalities": ("text",)})
    assert not (tmp_path / "s.h5").exists()


POISON = """
import os, signal, sys
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("dia1_utt1.mp4"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def test_a_clip_that_kills_its_process_is_masked_with_the_same_reason(raw, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    # A new cluster, all of whose processes have it.
    environ = {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": "local"}
    found = {}
    for engine in ("local", "ray"):
        out = tmp_path / f"{engine}.h5"
        call = [sys.executable, "-m", "erc_toolkit", "extract", "meld", raw, "--out", out, "--engine", engine]
        call += ["--modalities", "audio", "--audio-set", "eGeMAPSv02", "--part-size", 3, "--workers", 1]
        done = subprocess.run([*map(str, call)], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with FeatureStore.open(out) as store:
            rows = dict(zip(store.column("id").tolist(), store.feature("audio/eGeMAPSv02").reasons(), strict=True))
        found[engine] = {row: reason for row, reason in rows.items() if "worker" in reason}, content(out)
    assert len(found["local"][0]) == 1 and found["ray"] == found["local"]
