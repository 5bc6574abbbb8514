"""`--engine`: what it accepts, what is said without Ray, and what may come back from a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from erc_toolkit.extract.run.remote.parts import PartResult, packed, unpacked_part
from erc_toolkit.extract.run.rows.origins import FileFacts
from erc_toolkit.extract.run.rows.parts import Rows
from erc_toolkit.toolkit.base import extras, processes
from erc_toolkit.toolkit.base.cluster import Engine, parse_engine
from erc_toolkit.toolkit.base.cluster.bundle import files_in, pack, unpack
from erc_toolkit.toolkit.base.errors import FaultError, UserError
from erc_toolkit.toolkit.base.processes import run_tasks
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.reproduce.paper import load_paper
from erc_toolkit.toolkit.reproduce.sources import RAW, Source
from erc_toolkit.toolkit.reproduce.steps import Choices, make_steps


def test_engines():
    assert parse_engine("local") == Engine()
    assert parse_engine("ray").ray and parse_engine("ray").address is None
    assert parse_engine("ray:10.0.0.1:6379").address == "10.0.0.1:6379"
    assert parse_engine("ray://head.example:10001").address == "ray://head.example:10001"
    assert parse_engine("ray:[::1]:6379").address == "[::1]:6379"


@pytest.mark.parametrize("text", ["", "slurm", "ray:", "ray://", "ray:host", "ray:host:port", "ray:a b:1", "local:1"])
def test_others_are_refused(text):
    with pytest.raises(UserError, match="--engine"):
        parse_engine(text)


def test_the_shared_folder_is_for_ray_and_must_exist(tmp_path):
    with pytest.raises(UserError, match="--shared"):
        parse_engine("local", tmp_path)
    with pytest.raises(UserError, match="--shared"):
        parse_engine("ray", tmp_path / "none")
    assert parse_engine("ray", tmp_path).shared == tmp_path


def test_without_ray_one_line_says_which_package(tmp_path, monkeypatch, store_path):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    calls = [
        ["study", store_path, "--grid", "model.window=2", "--recipe", "demo", "--out", tmp_path / "a"],
        ["leaderboard", store_path, "--recipe", "demo", "--models", "bigru", "--out", tmp_path / "b"],
    ]
    for call in calls:
        done = CliRunner().invoke(main, [*map(str, call), "--engine", "ray"])
        assert done.exit_code == 1 and "erc-toolkit[ray]" in done.output.splitlines()[-1], done.output


def test_extraction_without_ray(tmp_path, monkeypatch, intact):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    call = ["extract", "meld", intact, "--modalities", "audio", "--out", tmp_path / "s.h5", "--engine", "ray"]
    done = CliRunner().invoke(main, [*map(str, call)])
    assert done.exit_code == 1 and "erc-toolkit[ray]" in done.output.splitlines()[-1], done.output


def test_kept_workers_do_a_later_call_too(monkeypatch):
    kept = processes._Kept
    monkeypatch.setattr(kept, "on", False)
    monkeypatch.setattr(kept, "pools", {})
    processes.keep_workers()
    calls = [{pid for _, pid in run_tasks(range(3), _process, 1)} for _ in range(2)]
    assert calls[0] == calls[1] and len(calls[0]) == 1
    unfinished = run_tasks(range(3), _process, 1)
    next(unfinished)
    cast(Any, unfinished).close()  # whose workers are in the middle of something
    assert not any(kept.pools.values())


def _process(task: int) -> int:
    return os.getpid()


def part(width: int) -> Rows:
    rows = Rows(4, np.zeros((3, 2), np.float32), [""] * 3, ["k"] * 3, frozenset([4, 6]), {"n": np.arange(3)})
    rows.frame_width = width
    rows.put(4, np.array([1, 2], np.float32), "", np.ones((5, 3), np.float32), np.arange(5.0))
    rows.put(6, None, "no audio track")
    return rows


@pytest.mark.parametrize("width", [0, 3])
def test_a_part_on_its_way(width):
    result = PartResult({"audio/x": part(width)}, [FileFacts("i", 3, "c")], ["u: died"], {"decoding": 1.5}, {"a": b"1"})
    found = unpacked_part(packed(result, {"audio/x": [4, 6]}))
    rows = found.rows["audio/x"]
    assert rows.values.tolist() == [[1, 2], [0, 0]] and rows.reasons == ["", "no audio track"]
    assert rows.details["n"].tolist() == [0, 2]
    assert (None if rows.frames is None else [len(times) for _, times in rows.frames]) == ([5, 0] if width else None)
    assert (found.files, found.faults, found.seconds) == ([FileFacts("i", 3, "c")], ["u: died"], {"decoding": 1.5})
    assert found.crops == {"a": b"1"}


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04."])
def test_damaged_answers_are_faults(data):
    with pytest.raises(FaultError):
        unpacked_part(data)
    with pytest.raises(FaultError):
        unpack(data)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:\\a", "a\\b", "", ".", "a//b", "a\0b"])
def test_no_name_leaves_the_folder(name):
    with pytest.raises(FaultError):
        unpack(pack(None, {name: b""}))


def test_files_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.json").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert files_in(tmp_path) == {"a/b.json": b"1"} == unpack(pack(3, files_in(tmp_path)))[1]


def test_a_reproduction_hands_the_engine_to_its_steps(tmp_path):
    paper = load_paper("amb-dsgdn")
    sources = [Source("meld", tmp_path / "raw", RAW)]
    given = {"out": tmp_path, "budget": paper.budget("quick"), "seeds": 1, "text_model": "x", "finetune": True}
    given |= {"faces": None, "visual_weights": "random", "face_model": None, "preset": paper.preset, "jobs": 1}
    steps = make_steps(paper, sources, Choices(**given, device="cpu", engine="ray", shared=tmp_path))
    on = {step.arguments[0]: step.arguments[-4:] == ("--engine", "ray", "--shared", str(tmp_path)) for step in steps}
    assert on["extract"] and on["study"] and not on["finetune-text"]
    steps = make_steps(paper, sources, Choices(**given, device="cpu"))
    assert not any("--engine" in step.arguments for step in steps)


def test_the_simulation_of_large_clusters(tmp_path):
    """Twice the nodes take half the time, until the driver has no rest; then the time stays."""
    fields = {"work": [20.0, 30.0], "bytes": 1e5, "driver": 0.02, "efficiency": 1.0, "begin": 0.0, "assembly": 0.0}
    (tmp_path / "m.json").write_text(json.dumps({**fields, "utterances": 32, "seconds": 3.0, "media": 3e5}))
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "cluster.py"
    call = [sys.executable, script, "simulate", tmp_path / "m.json", "--hours", "1000", "--cores", "2"]
    done = subprocess.run([*map(str, call)], capture_output=True, text=True, check=True)
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.count("|") == 7][1:]
    speed_up = {int(row[0]): float(row[6]) for row in rows}
    assert speed_up[16] > 15.5 and speed_up[64] > 58
    # 37,500 parts of 20.8 ms each.
    assert int(rows[-1][4].rstrip("%")) > 95 and rows[-1][2] == "0.22 h" and "from 601 nodes" in done.stdout
