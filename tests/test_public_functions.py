"""`study` and `compare` from Python: the same results as the commands, in a notebook's few lines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from test_train_support import write_store

import erc_toolkit
from erc_toolkit import UserError
from erc_toolkit.toolkit.commands.main import main

NOTEBOOK = """
import erc_toolkit
small = {"model.hidden": 8, "model.heads": 2, "train.epochs": 1}
erc_toolkit.study("s.h5", "study", grid={"model.window": [1, 3]}, recipe="demo", settings=small, seeds=2, device="cpu")
compared = erc_toolkit.compare("study/window-1", "study/window-3")
print(compared.settings["model.window"], sorted(compared.differences[0]))
"""


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "s.h5")


def test_a_notebooks_five_lines_are_the_commands(store, tmp_path):
    # Without `if __name__ == "__main__"`: a notebook has none.
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == "[1, 3] ['accuracy', 'macro_f1', 'uar', 'weighted_f1', 'weighted_precision']"
    words = "study s.h5 --out other --grid model.window=1,3 --recipe demo --seeds 2 --device cpu".split()
    words += "--set model.hidden=8 --set model.heads=2 --set train.epochs=1".split()
    run = subprocess.run([sys.executable, "-m", "erc_toolkit", *words], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    ours, theirs = (json.loads((tmp_path / folder / "study.json").read_text()) for folder in ("study", "other"))
    assert [v["test"] for v in ours["variants"]] == [v["test"] for v in theirs["variants"]]
    assert ours["study"] == theirs["study"] and ours["title"] == theirs["title"]


def test_a_study_continues_and_reports_what_is_impossible(store, tmp_path):
    lines: list[str] = []
    options = {"recipe": "demo", "model": "bigru", "device": "cpu", "notify": lines.append, "first_seed": 4}
    grid = {"data.text": ["text_x", "no-such-feature"]}
    found = erc_toolkit.study(store, tmp_path / "out", grid=grid, settings=["train.epochs=1"], **options)
    good, bad = found["variants"]
    assert [run["status"] for run in good["runs"]] == ["done"] and good["runs"][0]["seed"] == 4
    assert good["test"]["weighted_f1"]["values"] == [good["runs"][0]["result"]["test"]["weighted_f1"]]
    assert [run["status"] for run in bad["runs"]] == ["skipped"] and "no-such-feature" in bad["runs"][0]["reason"]
    assert bad["test"] is None
    assert json.loads((tmp_path / "out/study.json").read_text()) == found
    weights = tmp_path / "out" / good["runs"][0]["folder"] / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert erc_toolkit.study(store, tmp_path / "out", grid=grid, settings=["train.epochs=1"], **options) == found
    assert weights.stat().st_mtime_ns == before


def test_mistakes_are_user_errors(store, tmp_path):
    for arguments in ({}, {"name": "heads", "grid": {"model.window": [1]}}, {"name": "no-such-study"}, {"grid": {}}):
        with pytest.raises(UserError):
            erc_toolkit.study(store, tmp_path / "out", recipe="demo", **arguments)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.json").write_text("[]")
    with pytest.raises(UserError, match="mine"):
        erc_toolkit.study(store, tmp_path / "mine", grid={"model.window": [1]}, recipe="demo")
    for runs in ((), (tmp_path / "mine",), (tmp_path / "mine", tmp_path / "mine")):
        with pytest.raises(UserError):
            erc_toolkit.compare(*runs)


def test_compare_is_the_command(store, tmp_path):
    quiet = {"recipe": "demo", "device": "cpu", "notify": lambda line: None}
    small = {"model.hidden": 8, "model.heads": 2, "train.epochs": 1}
    for seed in (0, 1):
        erc_toolkit.train(store, tmp_path / f"r{seed}", seed=seed, settings=small, **quiet)
    folders = [tmp_path / "r0", tmp_path / "r1"]
    compared = erc_toolkit.compare(*folders)
    result = CliRunner().invoke(main, ["compare", *map(str, folders), "--json"], catch_exceptions=False)
    printed = json.loads(result.output)
    assert [run["measures"] for run in printed["runs"]] == [run.measures for run in compared.runs]
    evaluated = erc_toolkit.evaluate(tmp_path / "r1", device="cpu", notify=lambda line: None)
    assert compared.runs[1].measures["weighted_f1"] == pytest.approx(evaluated["weighted_f1"])
