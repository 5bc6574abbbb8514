"""`train` and `eval` end to end: learning, reproducibility, contents of a run, and one-line messages for mistakes."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from kill_support import run_until
from safetensors.numpy import load_file, save_file
from sklearn.metrics import f1_score
from store_support import replace_values
from test_train_support import DIMS, LABELS, SIZES, write_store

from erc_toolkit.train.commands.compare import compare_command
from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.commands.train import train_command

SMALL = (
    "model.hidden=16",
    "model.heads=2",
    "train.epochs=12",
    "train.lr=3e-3",
    "model.dropout=0.4",  # with less, a single epoch learns much of the small store
    "model.dropout_warm_up=3",
    "train.batch_size=6",
)


def call(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def train_on(store, out, *options, settings=SMALL):
    changes = [part for setting in settings for part in ("--set", setting)]
    return call(train_command, store, "--out", out, "--device", "cpu", *changes, *options)


def one_line(result):
    """The message of a failed command, after checking that it is one line without a traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    result = train_on(store, out, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return out, json.loads(result.stdout)


def test_training_learns_and_eval_agrees_with_it(run):
    out, trained = run
    result = call(eval_command, out, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert got["weighted_f1"] > got["majority_weighted_f1"] + 0.3 and got["accuracy"] > 0.75
    assert set(got["per_class"]) == set(got["labels"]) == set(LABELS)
    assert got["utterances"] == sum(row["support"] for row in got["per_class"].values())
    assert (got["split"], got["protocol"], got["seed"], got["run"]) == ("test", "validation", 0, str(out))
    assert {k: got[k] for k in trained["test"]} == trained["test"]
    assert trained["selected"]["split"] == "val" and trained["parameters"] > 0


def test_scores_follow_from_the_predictions_file(run):
    out, trained = run
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert list(rows[0]) == [
        "id",
        "dialogue",
        "position",
        "speaker",
        "text",
        "true",
        "predicted",
        *(f"predicted_{m}" for m in DIMS),
        *(f"p_{label}" for label in LABELS),
    ]
    labelled = [row for row in rows if row["true"]]
    assert len(labelled) == trained["test"]["utterances"] < len(rows)
    f1 = f1_score(
        [r["true"] for r in labelled], [r["predicted"] for r in labelled], average="weighted", zero_division=0
    )
    assert f1 == pytest.approx(trained["test"]["weighted_f1"])
    for row in rows:
        p = [float(row[f"p_{label}"]) for label in LABELS]
        assert sum(p) == pytest.approx(1, abs=1e-4) and LABELS[int(np.argmax(p))] == row["predicted"]
        assert row["id"].startswith(row["dialogue"]) and row["dialogue"].startswith("test")


def test_run_records_what_was_used(run, store):
    out, trained = run
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml",
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.csv",
        "result.json",
    ]
    config = yaml.safe_load((out / "config.yaml").read_text())
    facts = config["run"]
    assert config["model"]["hidden"] == 16 and facts["store"]["path"] == str(store.resolve())
    assert facts["features"] == {m: {"name": f"{m}/{m}_x", "dim": d, "made": {}} for m, d in DIMS.items()}
    assert facts["labels"] == LABELS and facts["protocol"] == "validation" and facts["device"].startswith("cpu")
    assert facts["selected"]["epoch"] == trained["selected"]["epoch"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    best = max(lines, key=lambda line: (line["val"]["weighted_f1"], -line["val"]["loss"]))
    assert (
        best["epoch"] == facts["selected"]["epoch"] and best["val"]["weighted_f1"] == facts["selected"]["weighted_f1"]
    )
    assert all(line["modality_dropout"] is None for line in lines[:3])  # warm-up
    assert any(set(line["modality_dropout"] or ()) == set(DIMS) for line in lines[3:])
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_same_seed_gives_identical_runs_and_config_is_a_recipe(run, store, tmp_path):
    out, _ = run
    result = call(train_command, store, "--out", tmp_path / "again", "--recipe", out / "config.yaml", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()


def test_another_seed_changes_the_run_but_not_the_validation_dialogues(tmp_path):
    store = write_store(tmp_path / "s.h5", sizes={"train": 20, "test": 3})
    short = (*SMALL, "train.epochs=1")
    for seed in (1, 2):
        assert train_on(store, tmp_path / f"{seed}", "--seed", seed, settings=short).exit_code == 0
    one, two = (tmp_path / s / "model.safetensors" for s in "12")
    assert one.read_bytes() != two.read_bytes()
    facts = [yaml.safe_load((tmp_path / s / "config.yaml").read_text())["run"] for s in "12"]
    assert facts[0]["validation"] == facts[1]["validation"] and len(facts[0]["validation"]["held_out"]) == 2
    assert facts[0]["validation"]["source"] == "held out of the train split (fraction 0.1, seed 0)"
    assert [f["seed"] for f in facts] == [1, 2]
    got = json.loads(call(eval_command, tmp_path / "1", "--split", "val", "--json").stdout)
    assert got["weighted_f1"] == facts[0]["selected"]["weighted_f1"]


def test_best_on_test_is_labelled_optimistic_everywhere(store, tmp_path):
    out = tmp_path / "run"
    result = train_on(store, out, "--set", "train.protocol=best-on-test", "--set", "train.epochs=2")
    assert result.exit_code == 0 and result.stdout.count("best-on-test (optimistic)") >= 2
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["run"]["protocol"] == config["run"]["selected"]["protocol"] == "best-on-test (optimistic)"
    assert all(json.loads(x)["protocol"] == "best-on-test (optimistic)" for x in (out / "metrics.jsonl").open())
    assert config["run"]["splits"]["train"]["dialogues"] == SIZES["train"] + SIZES["val"]
    assert json.loads(call(eval_command, out, "--json").stdout)["protocol"] == "best-on-test (optimistic)"
    assert "best-on-test (optimistic)" in call(eval_command, out).stdout
    assert "trained on the val split" in call(eval_command, out, "--split", "val", "--json").stderr


def test_table_output_and_streams_of_json_output(run):
    out, _ = run
    shown = call(eval_command, out)
    assert "majority baseline" in shown.stdout and all(label in shown.stdout for label in LABELS)
    result = call(eval_command, out, "--json")
    json.loads(result.stdout)
    assert "device: cpu" in result.stderr and "device:" not in result.stdout


def test_dry_run_builds_the_published_model_and_trains_nothing(tmp_path):
    dims = {"text": 1024, "audio": 1582, "visual": 342}
    labels = ["happy", "sad", "neutral", "angry", "excited", "frustrated"]
    store = write_store(tmp_path / "i.h5", corpus="iemocap", dims=dims, labels=labels, speakers=("F", "M"))
    result = call(train_command, store, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert got["parameters"] == 13_133_234 and got["trainable_parameters"] == 13_131_186
    assert got["features"]["audio"] == {"name": "audio/audio_x", "dim": 1582} and got["config"]["model"]["window"] == 20
    assert "recipe: iemocap" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.h5"]
    dims["audio"], labels = 300, [*labels, "seventh"]
    store = write_store(tmp_path / "m.h5", corpus="MELD", dims=dims, labels=labels, sizes={"train": 2, "val": 2})
    got = json.loads(call(train_command, store, "--dry-run", "--json").stdout)
    assert got["parameters"] == 12_481_973 and got["speaker_slots"] == 9
    shown = call(train_command, store, "--dry-run")
    assert shown.exit_code == 0 and "parameters: 12481973" in shown.stdout


@pytest.mark.parametrize("kept", [("text",), ("audio",), ("text", "visual")], ids="+".join)
def test_a_store_with_missing_modalities(kept, tmp_path):
    store = write_store(tmp_path / "s.h5", dims={m: DIMS[m] for m in kept})
    result = train_on(store, tmp_path / "run")
    assert result.exit_code == 0, (result.output, result.exception)
    missing = next(m for m in DIMS if m not in kept)
    assert any(line.startswith(f"{missing}: ") and "not used" in line for line in result.stdout.splitlines())
    got = json.loads(call(eval_command, tmp_path / "run", "--json").stdout)
    assert got["weighted_f1"] > got["majority_weighted_f1"] + 0.15
    message = one_line(train_on(store, tmp_path / "other", "--set", "data.modalities=text,audio,visual"))
    assert (
        f"{store}: " in message
        and f"--set data.modalities={','.join(kept)}" in message
        and not (tmp_path / "other").exists()
    )


def test_modalities_left_out_by_choice(store, tmp_path):
    result = train_on(store, tmp_path / "run", "--set", "data.modalities=text", "--set", "train.epochs=1")
    assert result.exit_code == 0 and "audio: left out by data.modalities; not used" in result.stdout
    assert call(eval_command, tmp_path / "run").exit_code == 0


@pytest.mark.slow
def test_training_in_bfloat16_learns_and_is_recorded(store, tmp_path):
    result = train_on(store, tmp_path / "run", settings=(*SMALL, "train.precision=bfloat16"))
    assert result.exit_code == 0 and "matrix products in bfloat16" in result.stdout, (result.output, result.exception)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["train"]["precision"] == "bfloat16"
    got = json.loads(call(eval_command, tmp_path / "run", "--json").stdout)
    assert got["weighted_f1"] > got["majority_weighted_f1"] + 0.15


def test_a_single_class(tmp_path):
    for name, labels, used in (("one", ["joy"], 1), ("used", LABELS, 1)):
        store = write_store(tmp_path / f"{name}.h5", labels=labels, used_labels=used)
        settings = (*SMALL, "train.epochs=2", "train.class_weights=balanced")
        result = train_on(store, tmp_path / name, settings=settings)
        assert result.exit_code == 0, (result.output, result.exception)
        got = json.loads(call(eval_command, tmp_path / name, "--json").stdout)
        assert got["majority_weighted_f1"] == 1 and got["weighted_f1"] > (0.99 if name == "one" else 0.8)


def test_empty_and_unlabelled_splits(tmp_path):
    no_test = write_store(tmp_path / "a.h5", sizes={"train": 6, "val": 2})
    result = train_on(no_test, tmp_path / "a", "--set", "train.epochs=1")
    assert result.exit_code == 0 and "no test split" in result.stdout and not (tmp_path / "a/predictions.csv").exists()
    message = one_line(call(eval_command, tmp_path / "a"))
    assert str(no_test) in message and "test split" in message and "--split" in message
    no_train = write_store(tmp_path / "b.h5", sizes={"val": 2, "test": 2})
    message = one_line(train_on(no_train, tmp_path / "b"))
    assert str(no_train) in message and "train split" in message
    unlabelled = write_store(tmp_path / "c.h5", unlabelled=1.1)
    message = one_line(train_on(unlabelled, tmp_path / "c"))
    assert str(unlabelled) in message and "train split" in message


def test_diverging_training_stops_with_its_epoch_and_dialogues(store, tmp_path):
    message = one_line(train_on(store, tmp_path / "run", "--set", "train.lr=1e30"))
    assert (
        str(store) in message and "epoch 1 " in message and re.search(r"\btrain\d", message) and "train.lr" in message
    )
    message = one_line(call(eval_command, tmp_path / "run"))
    assert str(tmp_path / "run") in message and "model.safetensors" in message and "--overwrite" in message


def test_run_folder_is_not_overwritten_by_default(run, store, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    (out / "notes.txt").write_text("mine")
    before = (out / "model.safetensors").read_bytes()
    message = one_line(train_on(store, out))
    assert str(out) in message and "--overwrite" in message and "--resume" in message
    assert (out / "model.safetensors").read_bytes() == before
    result = train_on(store, out, "--overwrite", "--seed", "5", "--set", "train.epochs=1")
    assert result.exit_code == 0 and (out / "notes.txt").read_text() == "mine"
    assert (out / "model.safetensors").read_bytes() != before and len(
        (out / "metrics.jsonl").read_text().splitlines()
    ) == 1
    message = one_line(train_on(store, out / "notes.txt"))
    assert str(out / "notes.txt") in message and "--out" in message


def test_an_interrupted_training_leaves_no_model_and_can_be_repeated(store, tmp_path):
    out = tmp_path / "run"
    changes = [part for setting in SMALL for part in ("--set", setting)]
    run_until(["train", store, "--out", out, "--device", "cpu", *changes], "append", r"metrics\.jsonl$", 2)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (out / "model.safetensors").exists()
    message = one_line(call(eval_command, out))
    assert str(out) in message and "model.safetensors" in message and "--overwrite" in message
    assert train_on(store, out, "--overwrite", "--set", "train.epochs=1").exit_code == 0
    assert call(eval_command, out).exit_code == 0


def test_eval_rejects_a_store_that_does_not_fit_the_run(run, store, tmp_path):
    out, _ = run
    wider = write_store(tmp_path / "w.h5", dims={**DIMS, "audio": 11})
    message = one_line(call(eval_command, out, "--store", wider))
    assert all(fact in message for fact in (str(wider), "audio/audio_x", "11 dimensions", "10", "--store"))
    fewer = write_store(tmp_path / "f.h5", dims={"text": 12, "audio": 10})
    message = one_line(call(eval_command, out, "--store", fewer))
    assert all(fact in message for fact in (str(fewer), "visual/visual_x", "no visual feature", "--store"))
    other = write_store(tmp_path / "l.h5", labels=["anger", "joy", "sadness"])
    message = one_line(call(eval_command, out, "--store", other))
    assert all(fact in message for fact in (str(other), "anger, joy, sadness", "--store"))
    crowd = write_store(tmp_path / "c.h5", speakers=[f"s{i}" for i in range(30)])
    result = call(eval_command, out, "--store", crowd)  # whoever the model does not know gets the mean, which is said
    assert result.exit_code == 0 and "the mean of what it learned" in result.output
    copied = tmp_path / "copied.h5"
    shutil.copy(store, copied)
    result = call(eval_command, out, "--store", copied, "--json")
    assert result.exit_code == 0 and "note: " not in result.stderr
    fresh = write_store(tmp_path / "fresh.h5", seed=1)
    result = call(eval_command, out, "--store", fresh, "--json")
    assert result.exit_code == 0 and f"note: {fresh} " in result.stderr and "content hash" in result.stderr


def test_eval_without_the_store_names_the_option(tmp_path):
    store = write_store(tmp_path / "s.h5", sizes={"train": 4, "val": 2, "test": 2})
    assert train_on(store, tmp_path / "run", "--set", "train.epochs=1").exit_code == 0
    store.rename(tmp_path / "moved.h5")
    message = one_line(call(eval_command, tmp_path / "run"))
    assert str(store) in message and "--store" in message
    assert call(eval_command, tmp_path / "run", "--store", tmp_path / "moved.h5").exit_code == 0


def test_eval_of_damaged_runs(run, tmp_path):
    message = one_line(call(eval_command, tmp_path))
    assert str(tmp_path) in message and "config.yaml" in message
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    weights, good = out / "model.safetensors", (out / "model.safetensors").read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    message = one_line(call(eval_command, out))
    assert str(weights) in message and "safetensors" in message
    tensors = load_file(run[0] / "model.safetensors")
    tensors["streams.audio.projection.weight"] = np.zeros((16, 11), np.float32)
    save_file(tensors, weights)
    message = one_line(call(eval_command, out))
    assert all(fact in message for fact in (str(weights), "streams.audio.projection.weight", "(16, 11)", "(16, 10)"))
    del tensors["normalise.text.mean"]
    save_file(tensors, weights)
    message = one_line(call(eval_command, out))
    assert str(weights) in message and "text normalisation" in message and "12" in message
    weights.write_bytes(good)
    text = (out / "config.yaml").read_text()
    for damaged in ("", "run: 3\n", text.replace("dim: 12", "dim: many"), text.replace("seed: 0", "seed: x"), "a: [\n"):
        (out / "config.yaml").write_text(damaged)
        message = one_line(call(eval_command, out))
        assert str(out / "config.yaml") in message and "--overwrite" in message


def test_mistakes_on_the_command_line(store, tmp_path):
    assert call(train_command, store).exit_code == 2  # --out is missing
    out = tmp_path / "run"
    assert str(tmp_path / "none.h5") in one_line(train_on(tmp_path / "none.h5", out))
    (tmp_path / "text.h5").write_text("no HDF5")
    message = one_line(train_on(tmp_path / "text.h5", out))
    assert str(tmp_path / "text.h5") in message and "HDF5" in message
    other = write_store(tmp_path / "o.h5", corpus="podcast")
    message = one_line(train_on(other, out))
    assert str(other) in message and "podcast" in message and "--recipe" in message
    assert "demo" in message  # the recipe for a corpus of this size
    message = one_line(train_on(store, out, "--set", "model.windwo=3"))
    assert "--set model.windwo=3" in message and "'model.window'" in message
    assert call(eval_command, tmp_path / "nowhere").exit_code == 1
    assert not out.exists()


def test_labels_out_of_range_are_rejected(tmp_path):
    store = write_store(tmp_path / "s.h5", sizes={"train": 4, "val": 2, "test": 2})
    with h5py.File(store, "r+") as file:
        file["utterances/label"][2] = 3
    message = one_line(train_on(store, tmp_path / "run"))
    assert str(store) in message and "label" in message and "3" in message.removeprefix(f"Error: {store}")


def test_infinite_features_stop_training_and_are_named(tmp_path):
    store = write_store(tmp_path / "s.h5", absent=0.0)
    with h5py.File(store, "r+") as file:
        matrix = file["features/audio/audio_x/values"][:]
        matrix[3, 2] = np.nan
        replace_values(file["features/audio/audio_x"], matrix)
    message = one_line(train_on(store, tmp_path / "run"))
    assert all(fact in message for fact in (str(store), "audio/audio_x", "NaN", "1 utterance (train0_u3)"))


def test_help_shows_defaults_and_loads_nothing_heavy():
    for command in (train_command, eval_command):
        assert "default: auto" in call(command, "--help").output
    heavy = {"torch", "numpy", "h5py", "sklearn", "rich"}
    code = f"import sys, erc_toolkit.train.commands.train; print(sorted({heavy!r} & set(sys.modules)))"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout.strip() == "[]"


def test_eval_reports_intervals_calibration_and_groups(run):
    out, _ = run
    got = json.loads(call(eval_command, out, "--json", "--by", "shift", "--by", "modalities").stdout)
    low, high = got["intervals"]["weighted_f1"]
    assert low <= got["weighted_f1"] <= high and 0 <= got["ece"] < 1
    assert np.trace(got["confusion"]) == pytest.approx(got["accuracy"] * got["utterances"])
    for groups in got["by"].values():
        assert sum(row["utterances"] for row in groups.values()) == got["utterances"]
    shown = call(eval_command, out, "--by", "shift").stdout
    assert "by shift" in shown and "first of the speaker" in shown
    line = next(line for line in shown.splitlines() if line.startswith("weighted F1"))
    assert line.split() == [
        "weighted",
        "F1",
        f"{100 * got['weighted_f1']:.2f}",
        f"[{100 * low:.2f},",
        f"{100 * high:.2f}]",
    ]


@pytest.mark.slow
def test_compare_reports_settings_and_differences(run, store, tmp_path):
    out, _ = run
    assert train_on(store, tmp_path / "seeds", "--seeds", "2", "--set", "model.window=0").exit_code == 0
    assert train_on(store, tmp_path / "one", "--seed", "5", "--set", "train.epochs=1").exit_code == 0
    got = json.loads(call(compare_command, out, tmp_path / "one", tmp_path / "seeds", "--json").stdout)
    assert got["settings"] == {"train.epochs": [12, 1, 12], "model.window": [5, 5, 0]}
    assert [r["seeds"] for r in got["runs"]] == [[0], [5], [0, 1]]
    summary = json.loads((tmp_path / "seeds/summary.json").read_text())["test"]["weighted_f1"]["mean"]
    assert got["runs"][2]["measures"]["weighted_f1"] == pytest.approx(summary)
    worse = got["differences"][0]["weighted_f1"]
    assert worse["value"] < 0 and worse["high"] < 0  # one epoch versus twelve
    assert worse["p"] == 2 / 2**5  # the least that the five dialogues of the test split can give
    value = got["runs"][2]["measures"]["accuracy"] - got["runs"][0]["measures"]["accuracy"]
    assert got["differences"][1]["accuracy"]["value"] == pytest.approx(value)
    assert got["mcnemar"][0]["only_first"] > got["mcnemar"][0]["only_second"] and got["mcnemar"][1] is None
    shown = call(compare_command, out, tmp_path / "one").stdout
    for text in ("[1] ", "[2] ", "train.epochs", "[2] minus [1]", "weighted F1", "McNemar"):
        assert text in shown, shown
    alone = call(compare_command, out, out).stdout
    assert "settings: " in alone and "train." not in alone and "+0.00" in alone


def test_compare_rejects_runs_that_cannot_be_compared(run, tmp_path):
    out, _ = run
    assert call(compare_command, out).exit_code == 2
    assert str(tmp_path) in one_line(call(compare_command, out, tmp_path))
    other = write_store(tmp_path / "o.h5", seed=9)
    assert train_on(other, tmp_path / "o", "--set", "train.epochs=1").exit_code == 0
    message = one_line(call(compare_command, out, tmp_path / "o"))
    assert str(out) in message and str(tmp_path / "o") in message and "same utterances" in message
    (tmp_path / "o/predictions.csv").unlink()
    assert str(tmp_path / "o/predictions.csv") in one_line(call(compare_command, tmp_path / "o", out))
