"""Studies: their files, parallel runs, failures, interruptions, and measures."""

import csv
import json
import os
import re
import signal

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kill_support import run_until
from test_train_support import DIMS, LABELS, one_after_the_other, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.processes import Failure, work_off
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.commands.compare import compare_command
from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.commands.report import report_command
from erc_toolkit.train.commands.study import study_command
from erc_toolkit.train.config import load_config, recipe_names
from erc_toolkit.train.loop.plan import make_plan
from erc_toolkit.train.loop.trainer import train
from erc_toolkit.train.models.registry import AMB_DSGDN
from erc_toolkit.train.studies.definition import Variant, grid, load_study, parse_study, study_names
from erc_toolkit.train.studies.measures.cost import model_cost
from erc_toolkit.train.studies.measures.models import holm
from erc_toolkit.train.studies.study_text import study_tables

SMALL = [
    "--set",
    "model.hidden=16",
    "--set",
    "model.heads=2",
    "--set",
    "train.epochs=6",
    "--set",
    "train.lr=5e-3",
    "--set",
    "model.dropout=0.4",  # with less, every seed learns the small store by heart
    "--set",
    "model.dropout_warm_up=2",
    "--device",
    "cpu",
]


def study(*arguments):
    return CliRunner().invoke(study_command, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


def test_every_study_fits_every_recipe():
    assert study_names() == sorted(
        [
            "modalities",
            "window",
            "graph",
            "heads",
            "balancing",
            "warmup",
            "dropout-grid",
            "long-dialogues",
            "cost",
            "noise",
            "parameters",
            "imbalance",
            "models",
            "df-gcn-parts",
            "missing",
            "missing-models",
        ]
    )
    recipes = [recipe for recipe in recipe_names() if load_config(recipe).model.name == AMB_DSGDN]
    for name in study_names():
        one = load_study(name)
        assert (
            one.shows.startswith(("Table", "Fig."))
            or name in ("df-gcn-parts", "missing", "missing-models")  # in no table of the paper
        )
        for recipe in recipes:
            configs = [variant.config(recipe, []).as_dict() for variant in one.variants]
            assert len({json.dumps(c) for c in configs}) == len(configs) > 0 or (name == "warmup" and recipe == "demo")


def test_list_prints_the_studies_without_a_store():
    shown = study("--list").stdout
    assert len(shown.splitlines()) == len(study_names()) and "Table 4" in shown


@given(
    st.dictionaries(
        st.sampled_from(["model.x", "train.y"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.sampled_from(["text", "a,b", "null", "1e3", "x: y"])),
            st.dictionaries(st.sampled_from("ab"), st.integers()),
        ),
    )
)
def test_changes_survive_the_round_trip_through_options(changes):
    parsed = dict(setting.split("=", 1) for setting in Variant("v", changes).settings())
    assert {key: yaml.safe_load(value) for key, value in parsed.items()} == changes
    assert all("\n" not in value for value in parsed.values())


def test_a_grid_is_every_combination():
    got = grid({"model.window": [1, None], "train.lr": [0.1]}, "here")
    assert [(v.name, v.changes) for v in got] == [
        ("window 1, lr 0.1", {"model.window": 1, "train.lr": 0.1}),
        ("window null, lr 0.1", {"model.window": None, "train.lr": 0.1}),
    ]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("- 1", "title.* runs .*grid"),
        ("title: x", "runs .*grid"),
        ("runs: {a: {}}\ngrid: {b: [1]}", "runs .*grid"),
        ("runs: {}", "runs must"),
        ("runs: {a: 5}", "run 'a'"),
        ("grid: {a: 1}", "grid must"),
        ("runs: {a: {}}\nmeasure: joy", "measure .*'joy'"),
        ("runs: {a: {}}\nrun: 1", "'run'"),
        ("runs: {a b: {}, a/b: {}}", "'a b' and 'a/b'"),
        ("runs: {a: {}}\nmeasure: [joy]", "measure .*\\['joy'\\]"),
        ("runs: {a: {}}\nmeasure: positions\nlengths: [5, 1]", "lengths"),
        ("runs: {a: {}}\nmeasure: noise\nlevels: [-1]", "levels"),
        ("runs: {a: {}}\nmeasure: noise\nlevels: [.nan]", "levels"),
        ("runs: {a: {}}\nlevels: [1]", "'levels'"),
        ("runs: {a: {}}\nmeasure: noise\nlengths: [1, 5]", "'lengths'"),
        ("runs: [", "YAML"),
        ("title: [1]\nruns: {a: {}}", "title and shows"),
        ("runs: {a: {1: 2}}", "run 'a'"),
    ],
)
def test_invalid_study_files(text, fact):
    with pytest.raises(UserError, match=f"^x.yaml.*{fact}"):
        parse_study(text, "x", "x.yaml")


@given(st.text(max_size=40))
def test_folder_names_of_variants_are_safe(name):
    folder = Variant(name, {}).folder
    assert folder and "/" not in folder and not folder.startswith(".") and len(folder) <= 60


def test_mistakes_are_reported_before_anything_runs(store, tmp_path):
    out = tmp_path / "out"
    for arguments, facts in (
        (["--study", "wimdow"], ["wimdow"]),
        (["--grid", "model.wimdow=1,2"], ["'model.wimdow'", "'model.window'"]),
        (["--grid", "model.window=1,x"], ["model.window", "x"]),
        (["--grid", "model.window"], ["--grid", "model.window"]),
    ):
        result = study(store, "--out", out, *arguments)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.stderr
        assert all(fact in result.stderr for fact in facts), result.stderr
        assert not out.exists()
    for arguments in (["--study", "window"], ["--out", out], ["--out", out, "--study", "window", "--grid", "a.b=1"]):
        assert study(store, *arguments).exit_code == 2


@pytest.mark.slow
def test_a_grid_runs_in_parallel_and_only_once(store, tmp_path):
    arguments = [store, "--grid", "model.window=0,4", "--seeds", "2", "--jobs", "2", "--out", tmp_path / "g", *SMALL]
    result = study(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "g/study.json").read_text())
    assert [row["name"] for row in found["variants"]] == ["window 0", "window 4"] and found["seeds"] == [0, 1]
    for row in found["variants"]:
        values = [run["result"]["test"]["weighted_f1"] for run in row["runs"]]
        assert row["test"]["weighted_f1"]["mean"] == pytest.approx(np.mean(values)) and values[0] != values[1]
        assert row["test"]["weighted_f1"]["std"] == pytest.approx(np.std(values, ddof=1))
    rows = list(csv.DictReader((tmp_path / "g/results.csv").open()))
    assert len(rows) == 4 and all(row["status"] == "done" for row in rows)
    # The same run on its own, in this process, with the same number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, os.cpu_count() // 2))
    with FeatureStore.open(store) as opened:
        config = load_config("demo", [*SMALL[1:-2:2], "model.window=4", "train.seed=1"])
        alone = train(opened, config, tmp_path / "alone", "cpu", lambda line: None)
    torch.set_num_threads(threads)
    assert alone["test"] == found["variants"][1]["runs"][1]["result"]["test"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "g").glob("*/*/*")}
    again = study(*arguments, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout) == found and "4 done, 0 skipped, 0 to do" in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "g").glob("*/*/*")}
    pair = [str(tmp_path / "g" / folder) for folder in ("window-0", "window-4")]
    compared = CliRunner().invoke(compare_command, [*pair, "--json"])
    assert compared.exit_code == 0 and json.loads(compared.stdout)["settings"] == {"model.window": [0, 4]}
    (tmp_path / "g/window-0/seed-7").mkdir()
    compared = CliRunner().invoke(compare_command, pair)
    assert compared.exit_code == 1 and "seed-7" in compared.stderr
    other = study(*arguments, "--set", "train.epochs=5")
    assert other.exit_code == 1 and "window-0" in other.stderr and other.stderr.count("\n") >= 1


def test_neither_a_failed_run_nor_a_missing_modality_stops_the_others(tmp_path):
    store = write_store(tmp_path / "s.h5", dims={m: DIMS[m] for m in ("text", "audio")})
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: Mine\nruns:\n  broken: {train.lr: 1.0e+30}\n  seen: {data.modalities: [visual]}\n  good: {}\n"
    )
    result = study(store, "--study", file, "--out", tmp_path / "out", *SMALL)
    assert result.exit_code == 1 and re.search(r"\b1 runs? failed", result.stderr)
    found = {row["name"]: row for row in json.loads((tmp_path / "out/study.json").read_text())["variants"]}
    assert [found[name]["runs"][0]["status"] for name in ("broken", "seen", "good")] == ["failed", "skipped", "done"]
    assert "not finite" in found["broken"]["runs"][0]["reason"] or "became" in found["broken"]["runs"][0]["reason"]
    assert "visual" in found["seen"]["runs"][0]["reason"]
    assert found["good"]["test"]["weighted_f1"]["mean"] > 0.3 and found["broken"]["test"] is None
    assert "seen: skipped" in result.stdout and "broken (1 failed)" in result.stdout


@pytest.mark.slow
def test_a_killed_study_resumes(store, tmp_path, monkeypatch):
    arguments = [str(a) for a in (store, "--grid", "model.window=0,1,2,3", "--out", tmp_path / "k", *SMALL)]
    # Killed after the first result: the worker may finish the second run before it notices, but starts no third.
    run_until(["study", *arguments], "finish", r"study\.json$", 2)  # the first one is empty
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "k").glob("*/*/result.json")}
    assert 1 <= len(done) <= 2
    result = study(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert all(p.stat().st_mtime_ns == time for p, time in done.items())
    # An uninterrupted study, in this process: the same number of jobs, so the same number of threads.
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    undisturbed = json.loads(
        study(*(str(tmp_path / "u") if a == str(tmp_path / "k") else a for a in arguments), "--json").stdout
    )
    assert [row["test"] for row in json.loads(result.stdout)["variants"]] == [
        row["test"] for row in undisturbed["variants"]
    ]


def misbehave(what):
    """A task that fails in the requested way."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise ValueError("on\npurpose")
    if what == "refuse":
        raise UserError("cannot")
    return what, torch.get_num_threads()


def test_a_failing_task_does_not_affect_others():
    tasks = ["a", "die", "raise", "b", "refuse", "die", "c"]
    found = dict(work_off(misbehave, [(what,) for what in tasks], 2, 1))
    assert [found[i] for i in (0, 3, 6)] == [("a", 1), ("b", 1), ("c", 1)]
    assert found[1] == found[5] and "SIGKILL" in found[1].reason and found[4] == Failure("cannot")
    assert all(fact in found[2].reason for fact in ("ValueError", "on purpose", "misbehave"))


@pytest.mark.slow
def test_noise_positions_and_confusion_are_measured_on_the_trained_model(store, tmp_path, monkeypatch):
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    for name, more in (("noise", "levels: [0, 0.5, 50]"), ("positions", "lengths: [3, 5]"), ("confusion", "")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"measure: {name}\n{more}\nruns: {{whole: {{}}}}\n")
        result = study(
            store, "--study", file, "--out", tmp_path / "out", *SMALL, "--json"
        )  # all three share one training
        assert result.exit_code == 0, result.output
        run = json.loads(result.stdout)["variants"][0]["runs"][0]
        folder, measured, test = tmp_path / "out" / run["folder"], run["measured"], run["result"]["test"]
        if name == "noise":
            assert set(measured) == {"all", *DIMS}
            for row in measured.values():
                assert set(row) == {"0", "0.5", "50"}
                assert row["0"]["weighted_f1"] == pytest.approx(test["weighted_f1"])
            assert measured["all"]["50"]["weighted_f1"] < measured["all"]["0"]["weighted_f1"] - 0.2
        elif name == "confusion":
            got = json.loads(CliRunner().invoke(eval_command, [str(folder), "--json"]).stdout)
            assert measured == {"labels": LABELS, "confusion": got["confusion"]}
        else:
            rows = list(csv.DictReader((folder / "predictions.csv").open()))
            lengths = {row["dialogue"]: sum(r["dialogue"] == row["dialogue"] for r in rows) for row in rows}
            kept = [row for row in rows if 3 <= lengths[row["dialogue"]] <= 5 and row["true"]]
            assert measured["dialogues"] == sum(3 <= n <= 5 for n in lengths.values()) > 0
            assert measured["overall"]["utterances"] == len(kept)
            assert measured["overall"]["accuracy"] == pytest.approx(
                np.mean([r["true"] == r["predicted"] for r in kept])
            )
    shown = study(store, "--study", tmp_path / "noise.yaml", "--out", tmp_path / "out", *SMALL).stdout
    assert "whole: audio" in shown and "0.5" in shown


def test_cost_counts_parameters_and_operations(store):
    with FeatureStore.open(store) as opened:
        found = {}
        for graph in ("differential", "none"):
            config = load_config("demo", ["model.hidden=16", "model.heads=2", f"model.graph={graph}"])
            plan = make_plan(opened, config)
            found[graph] = model_cost(plan, "cpu")
            assert found[graph]["parameters"] == sum(p.numel() for p in plan.model().parameters())
    # Without graphs, little remains but the linear maps: two operations per weight and utterance.
    size = 16
    linear = sum(DIMS.values()) * size + 2 * (6 * size**2 + size**2) + 3 * 3 * size
    assert 2 * linear <= found["none"]["flops"] < 3 * linear < found["differential"]["flops"]
    for row in found.values():
        assert row["throughput"] == pytest.approx(1000 / row["inference_ms"]) and row["batch_ms"] > 0 < row["epoch_s"]


@pytest.mark.slow
def test_search_selects_on_validation_and_resumes(store, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    arguments = [
        store,
        "--search",
        "train.lr=log:1e-9..1e-2",
        "--search",
        "model.window=1,4",
        "--out",
        tmp_path / "s",
        *SMALL,
    ]
    assert study(*arguments, "--trials", "2").exit_code == 0
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*/*/result.json")}
    result = study(*arguments, "--trials", "4", "--jobs", "2", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    assert len(found["variants"]) == 4 and all(p.stat().st_mtime_ns == at for p, at in finished.items())
    assert len(finished) == 2
    values = [row["selected"]["weighted_f1"]["mean"] for row in found["variants"]]
    assert found["best"]["value"] == max(values) and values[found["best"]["number"]] == max(values)
    for row in found["variants"]:
        assert 1e-9 <= row["changes"]["train.lr"] <= 1e-2 and row["changes"]["model.window"] in (1, 4)
        assert row["runs"][0]["result"]["selected"]["split"] == "val"
    lines = [line for line in result.stderr.splitlines() if line.startswith(("note: ", "features: "))]
    assert lines and len({*lines}) == len(lines)  # though every round is a study
    assert "4 trials" in result.stderr and f"{100 * found['best']['value']:.2f}" in result.stderr
    other = study(store, "--search", "model.window=1,2", "--out", tmp_path / "s", *SMALL)
    assert other.exit_code == 1 and str(tmp_path / "s") in other.stderr and "--out" in other.stderr


def test_invalid_searches(store, tmp_path):
    pytest.importorskip("optuna")
    for arguments, message in (
        (["--search", "model.window"], "--search model.window:"),
        (["--search", "train.lr=1..0"], "--search train.lr=1..0:"),
        (["--search", "train.lr=log:0..1"], "above 0"),
        (["--search", "train.lr=a..b"], "'a'"),
        (["--search", "model.wimdow=1,2"], "'model.window'"),
        (["--search", "model.dropout=0..2"], "model.dropout"),
        (["--search", "model.window=1,2", "--set", "train.protocol=best-on-test"], "train.protocol"),
    ):
        result = study(store, "--out", tmp_path / "x", *arguments)
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.slow
def test_comparison_of_models(store, tmp_path):
    """Tables per class, overall, of size and time, and of every pair; the numbers match the runs."""
    file = tmp_path / "two.yaml"
    file.write_text(
        "title: Two\nmeasure: models\nruns:\n"
        "  gru: {model.name: bigru, model.hidden: 8}\n  plain: {model.name: logistic-regression}\n"
        "  plain again: {model.name: logistic-regression, train.weight_decay: 0.0}\n"
    )
    shown = study(
        store,
        "--study",
        file,
        "--recipe",
        "demo",
        "--seeds",
        2,
        "--out",
        tmp_path / "s",
        "--set",
        "train.epochs=4",
        "--device",
        "cpu",
    )
    assert shown.exit_code == 0, shown.output
    record = json.loads((tmp_path / "s" / "study.json").read_text())
    assert len(record["significance"]["pairs"]) == 3 and set(record["significance"]["intervals"]) == {
        "gru",
        "plain",
        "plain again",
    }
    per_class, overall, cost_, pairs = study_tables(record)
    gru = record["variants"][0]
    joy = [run["result"]["test"]["per_class"]["joy"]["f1"] for run in gru["runs"]]
    assert per_class.full_heads()[1:3] == [f"{LABELS[0]} precision", f"{LABELS[0]} F1"]
    assert per_class.rows[0][2 + 2 * LABELS.index("joy")] == f"{100 * np.mean(joy):.2f}"
    assert overall.rows[0][3].startswith(f"{100 * gru['test']['weighted_f1']['mean']:.2f} ±")
    assert cost_.rows[1][1] == f"{(sum(DIMS.values()) + 1) * len(LABELS):,}" and cost_.rows[1][3] == "4"
    first = next(p for p in record["significance"]["pairs"] if (p["first"], p["second"]) == ("gru", "plain"))
    assert first["difference"] == pytest.approx(
        record["variants"][1]["test"]["weighted_f1"]["mean"] - gru["test"]["weighted_f1"]["mean"]
    )
    assert pairs.rows[1][1].rstrip("*") == f"{100 * first['difference']:+.1f}" and pairs.rows[0][1] == ""
    assert pairs.title in shown.stdout and all(column in shown.stdout for column in cost_.head)
    result = CliRunner().invoke(report_command, [str(tmp_path / "s"), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert pairs.title in (tmp_path / "r.html").read_text() and (tmp_path / "r_files" / "pairs.tex").is_file()


def test_holm_by_hand():
    assert (
        holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        and holm([]) == []
        and holm([0.9, 0.8]) == [1.0, 1.0]
    )


@pytest.mark.parametrize("model", ["df-gcn", "sdt", "mm-dfn"])
def test_cost_of_models_with_parametrised_layers(store, model):
    with FeatureStore.open(store) as opened:
        cost = model_cost(make_plan(opened, load_config("demo", [f"model.name={model}"])), "cpu")
    assert cost["flops"] > 0 and cost["spread"]["epoch_s"][0] <= cost["epoch_s"] <= cost["spread"]["epoch_s"][1]
