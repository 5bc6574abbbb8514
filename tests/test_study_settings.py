"""What a study varies can act: settings of the study and of the corpus, idle settings, pinned features, reused runs."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner
from test_feature_choice import LAYERS, store_with
from test_study import SMALL
from test_train_support import DIMS, one_after_the_other, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.train.config import idle_settings, load_config, recipe_names
from erc_toolkit.train.studies.applied import idle_notes
from erc_toolkit.train.studies.definition import load_study, parse_study, study_names
from erc_toolkit.train.studies.runs import threads_per_run


@pytest.fixture
def here(monkeypatch):
    """Runs are trained in this process."""
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)


def run(*arguments):
    return CliRunner().invoke(main, ["study", *map(str, arguments)])


def test_no_shipped_recipe_has_idle_settings():
    for name in recipe_names():
        idle = idle_settings(load_config(name))
        if name == "graphsmile-general":  # whose auxiliary tasks wait for the sentiments of the user's own classes
            assert idle and all("model.sentiments is null" in reason for reason in idle.values())
        else:
            assert idle == {}, name


@pytest.mark.parametrize("corpus", ["iemocap", "meld", "demo"])
@pytest.mark.parametrize("name", study_names())
def test_every_variant_of_every_study_is_a_run_of_its_own(name, corpus):
    """With the recipe of each corpus: no varied setting is idle, and no two variants are the same run."""
    study = load_study(name, corpus)
    configs = [variant.config(corpus, study.shared) for variant in study.variants]
    assert idle_notes(study.variants, configs, study.shared) == []


def test_the_papers_grids():
    def values(name, corpus, key):
        return list(dict.fromkeys(v.changes[key] for v in load_study(name, corpus).variants))

    assert values("dropout-grid", "IEMOCAP", "model.q_base") == [0.1, 0.3, 0.5]
    assert values("dropout-grid", "IEMOCAP", "model.p_exe") == [0.3, 0.5, 0.7]
    assert values("dropout-grid", "meld", "model.q_base") == values("dropout-grid", "meld", "model.p_exe")
    assert values("dropout-grid", "meld", "model.p_exe") == [0.1, 0.2, 0.3]
    epochs = {c: load_config(c, load_study("warmup", c).shared).train.epochs for c in ("iemocap", "meld", "demo")}
    for corpus, count in epochs.items():
        assert max(values("warmup", corpus, "model.dropout_warm_up")) < count


def test_settings_of_a_study_and_of_a_corpus():
    text = """
title: t
settings: {train.epochs: 7, train.lr: 0.1}
corpora: {meld: {settings: {train.epochs: 3}, grid: {model.window: [1, 2]}}}
runs: {one: {}, two: {train.epochs: 9}}
"""
    plain, own = (parse_study(text, "t", "t.yaml", corpus) for corpus in ("other", "MELD"))
    assert [v.name for v in own.variants] == ["window 1", "window 2"] and [v.name for v in plain.variants][0] == "one"
    one, two = (variant.config("demo", plain.shared) for variant in plain.variants)
    assert (one.train.epochs, one.train.lr, two.train.epochs) == (7, 0.1, 9)
    assert plain.variants[0].config("demo", [*plain.shared, "train.epochs=2"]).train.epochs == 2
    assert own.variants[0].config("demo", own.shared).train.epochs == 3
    for bad in ("settings: 3", "corpora: {meld: 3}", "corpora: {meld: {title: x}}"):
        with pytest.raises(UserError, match=r"t\.yaml"):
            parse_study(f"title: t\nruns: {{one: {{}}}}\n{bad}\n", "t", "t.yaml")


def test_what_cannot_act_is_said(tmp_path, here):
    store = write_store(tmp_path / "s.h5")
    late = ["--set", "train.epochs=2", "--grid", "model.p_exe=0.1,0.5", "--recipe", "demo"]
    result = run(store, "--out", tmp_path / "out", *SMALL, *late)
    assert result.exit_code == 0, result.output
    assert "model.p_exe has no effect" in result.output and "the same run under several names" in result.output
    assert len(json.loads((tmp_path / "out/study.json").read_text())["notes"]) >= 2
    arguments = [str(store), "--recipe", "demo", "--out", str(tmp_path / "run"), *SMALL, "--set", "train.epochs=2"]
    found = CliRunner().invoke(main, ["train", *arguments])
    assert found.exit_code == 0 and "without effect" in found.output and "model.dropout_warm_up=2" in found.output


def test_a_setting_that_some_models_lack(tmp_path, here):
    store = write_store(tmp_path / "s.h5")
    file = tmp_path / "two.yaml"
    file.write_text("title: t\nruns: {gru: {model.name: bigru}, ours: {model.name: amb-dsgdn}}\n")
    options = ["--recipe", "demo", "--device", "cpu", "--set", "train.epochs=1", "--set", "model.hidden=16"]
    result = run(store, "--study", file, "--out", tmp_path / "out", *options, "--set", "model.window=3")
    assert result.exit_code == 0, result.output
    assert "model.window=3: left out" in result.output and "gru" in result.output
    shown = json.loads((tmp_path / "out/study.json").read_text())
    assert all(one["runs"][0]["status"] == "done" for one in shown["variants"])
    result = run(store, "--study", file, "--out", tmp_path / "no", *options, "--set", "model.widnow=3")
    assert result.exit_code == 1 and "widnow" in result.output and not (tmp_path / "no").exists()


def test_a_study_pins_its_features(tmp_path, here):
    """When the store gains a feature that the recipe prefers, finished runs stay, and new seeds use the old one."""
    store = store_with(tmp_path / "s.h5", ["bert"])
    arguments = [store, "--grid", "model.window=1,2", "--recipe", "demo", "--out", tmp_path / "out", *SMALL]
    assert run(*arguments).exit_code == 0
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("model.safetensors")}
    store_with(tmp_path / "s.h5", ["bert", "roberta-1"])
    result = run(*arguments, "--seeds", "2")
    assert result.exit_code == 0, result.output
    assert len(times) == 2 and all(p.stat().st_mtime_ns == at for p, at in times.items())
    study = json.loads((tmp_path / "out/study.json").read_text())
    assert all(pins["text"] == "text/bert" for pins in study["features"].values())
    configs = [p.read_text() for p in (tmp_path / "out").rglob("config.yaml")]
    assert len(configs) == 4 and all("text/bert" in one and "roberta" not in one for one in configs)
    both = [str(next((tmp_path / "out").rglob(f"seed-{i}"))) for i in (0, 1)]
    compared = CliRunner().invoke(main, ["compare", *both])
    assert compared.exit_code == 0 and "store" not in compared.output.partition("difference")[0], compared.output
    store_with(tmp_path / "s.h5", ["roberta-1"])
    result = run(*arguments)
    assert result.exit_code == 1 and "text/bert" in result.output and "began with" in result.output


def test_runs_are_reused(tmp_path, here):
    store = store_with(tmp_path / "s.h5", LAYERS)
    options = ["--recipe", "demo", *SMALL]
    assert run(store, "--grid", "model.window=1,2", "--out", tmp_path / "a", *options).exit_code == 0
    result = run(store, "--grid", "model.window=2,3", "--out", tmp_path / "b", *options, "--reuse", tmp_path / "a")
    assert result.exit_code == 0 and "1 training taken over" in result.output, result.output
    first, second = (tmp_path / name / "window-2/seed-0" for name in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert json.loads((second / "result.json").read_text())["result"]["run"] == str(second)
    assert CliRunner().invoke(main, ["eval", str(second), "--device", "cpu"]).exit_code == 0


def test_the_estimate_counts_runs_and_bytes(tmp_path):
    store = write_store(tmp_path / "s.h5", dims={m: DIMS[m] for m in ("text", "audio")})
    result = run(store, "--study", "modalities", "--recipe", "demo", *SMALL, "--seeds", "3", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["runs"] == 3 * 3 and found["seconds"] > 0 and not list(tmp_path.glob("*/"))
    runs = run(store, "--study", "modalities", "--recipe", "demo", *SMALL, "--out", tmp_path / "out")
    assert runs.exit_code == 0
    size = sum(p.stat().st_size for p in (tmp_path / "out").rglob("model.safetensors"))
    assert found["bytes"] / 3 == pytest.approx(size, rel=0.5)


def test_threads_are_the_users(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_run(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_per_run(1) == len(os.sched_getaffinity(0))
