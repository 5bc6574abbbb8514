"""Boards: rows that can be made again, tuning on validation alone, ranks against a slow count, joining, bad files."""

import copy
import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from test_train_support import write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.train.config import load_config
from erc_toolkit.train.leaderboard.merging import merged
from erc_toolkit.train.leaderboard.record import read_board, scores_of_runs
from erc_toolkit.train.leaderboard.running import SPACE, space_of
from erc_toolkit.train.leaderboard.standing import command_of, standings
from erc_toolkit.train.loop.seeds import spread_of
from erc_toolkit.train.reports.comparison import compare
from erc_toolkit.train.scores.coded import coded, decoded
from erc_toolkit.train.scores.predictions import read_predictions
from erc_toolkit.train.scores.tables import mean_and_spread
from erc_toolkit.train.studies.search import Range

FAST = ("--set", "train.epochs=3", "--device", "cpu")


def board(*arguments):
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store and the folder of a tuned board of two models on it."""
    folder = tmp_path_factory.mktemp("board")
    store = write_store(folder / "s.h5", noise=2, sizes={"train": 16, "val": 6, "test": 8})
    arguments = (store, "--out", folder / "board", "--seeds", 2, "--tune", 2, *FAST)
    done = board(*arguments, "--models", "bigru,logistic-regression")
    assert done.exit_code == 0, done.output
    return store, folder / "board", done.output


def test_every_file_is_there_and_says_the_same(made):
    _, out, output = made
    found = read_board(out)
    assert {row["model"] for row in found["rows"]} == {"bigru", "logistic-regression"}
    (one,) = standings(found)
    assert f"s: {one.headline()}" in output
    with open(out / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [r.name for r in one.ranked]
    for text in ("leaderboard.md", "leaderboard.tex", "leaderboard.html"):
        content = (out / text).read_text(encoding="utf-8")
        assert all(r.name in content for r in one.ranked), text
        assert f"{100 * one.ranked[0].scores['weighted_f1']['mean']:.2f}" in content
    assert one.headline() in (out / "leaderboard.html").read_text(encoding="utf-8")


def test_scores_equal_scikit_learns(made):
    _, out, _ = made
    found = read_board(out)
    for row in found["rows"]:
        values = scores_of_runs(found["stores"][0], row)["weighted_f1"]
        for run, value in zip(row["runs"], values, strict=True):
            folder = next(out.glob(f"s-*/{row['model']}/runs/runs/seed-{run['seed']}"))
            tested = read_predictions(folder)
            kept = tested.true >= 0
            assert value == pytest.approx(f1_score(tested.true[kept], tested.predicted[kept], average="weighted"))
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert run["best_on_test"] == max(line["test"]["weighted_f1"] for line in lines) >= value - 1e-12
            selected = [line["val"]["weighted_f1"] for line in lines]
            assert selected[run["epoch"] - 1] == max(selected)


def test_differences_are_those_of_compare(made):
    _, out, _ = made
    (one,) = standings(read_board(out))
    first, second = (next(out.glob(f"s-*/{r.row['model']}/runs/runs")) for r in (one.ranked[0], one.ranked[1]))
    compared = compare([second, first])
    behind = one.ranked[1].behind
    assert behind == compared.differences[0]["weighted_f1"]
    assert one.ranked[0].interval == compared.runs[1].intervals["weighted_f1"]
    assert one.ranked[1].p == pytest.approx(min(1, behind.p * len(one.pairs)), abs=1e-9) or len(one.ranked) > 2


def test_a_row_is_made_again_from_its_line(made, tmp_path, monkeypatch):
    store, out, _ = made
    found = read_board(out)
    (row,) = (row for row in found["rows"] if row["model"] == "bigru")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.h5").symlink_to(store)
    with open(out / "leaderboard.csv", newline="") as file:
        (line,) = (line["command"] for line in csv.DictReader(file) if line["model"] == "bigru")
    assert shlex.split(line) == command_of(row, found["stores"][0])
    again = CliRunner().invoke(main, [*shlex.split(line)[1:], "--device", "cpu"])
    assert again.exit_code == 0, again.output
    for run in row["runs"]:
        tested = read_predictions(tmp_path / "runs/bigru" / f"seed-{run['seed']}")
        assert coded(tested.predicted) == run["predicted"]


def test_tuning_never_looks_at_the_test_split(made, tmp_path):
    """With other test labels and features the same settings are chosen, epoch by epoch the same weights."""
    store, out, _ = made
    trials = sorted(out.glob("s-*/bigru/tuning/*/seed-0/metrics.jsonl"))
    assert len(trials) == 2 and not list(out.glob("s-*/*/tuning/**/model.safetensors"))
    assert all("test" not in json.loads(line) for path in trials for line in path.read_text().splitlines())
    first, best = [], None
    for path in trials:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        first.append(max(line["val"]["weighted_f1"] for line in lines))
    best = max(first)
    (row,) = (row for row in read_board(out)["rows"] if row["model"] == "bigru")
    assert row["tuned"] is not None and row["tuned"]["value"] == pytest.approx(best)
    assert row["tuned"]["space"] == SPACE and row["changes"][-3:] == row["tuned"]["settings"]


def test_the_same_command_continues_and_adds_models(made):
    store, out, _ = made
    arguments = (store, "--out", out, "--seeds", 2, "--tune", 2, *FAST)
    before = {row["model"]: row["runs"] for row in read_board(out)["rows"]}
    done = board(*arguments, "--models", "bigru,transformer")
    assert done.exit_code == 0, done.output
    assert "1 done, 0 skipped, 0 to do" in done.output or "2 done, 0 skipped, 0 to do" in done.output
    after = {row["model"]: row["runs"] for row in read_board(out)["rows"]}
    assert set(after) == {"bigru", "logistic-regression", "transformer"}
    assert after["bigru"] == before["bigru"] and after["logistic-regression"] == before["logistic-regression"]
    other = board(store, "--out", out, "--seeds", 3, "--tune", 2, *FAST)
    assert other.exit_code == 1 and "was begun with other seeds" in other.output and "Traceback" not in other.output


def test_boards_of_two_machines_are_joined(made, tmp_path):
    store, out, _ = made
    other = ("--models", "logistic-regression", "--set", "train.lr=0.01")
    done = board(store, "--out", tmp_path / "b", "--seeds", 1, *FAST, *other)
    assert done.exit_code == 0, done.output
    joined = board("--merge", out, "--merge", tmp_path / "b" / "board.json", "--out", tmp_path / "joined")
    assert joined.exit_code == 0, joined.output
    found = read_board(tmp_path / "joined")
    names = [one.name for one in standings(found)[0].ranked]
    # Its settings are other ones than the tuned row's, so both are there.
    assert "logistic regression (1)" in names and "logistic regression (2)" in names
    assert (tmp_path / "joined" / "leaderboard.html").is_file()


def test_joining_adds_seeds_and_refuses_contradictions(made, tmp_path):
    one = read_board(made[1])
    other = copy.deepcopy(one)
    for row in other["rows"]:
        for run in row["runs"]:
            run["seed"] += 2
    both = merged([(tmp_path / "a", one), (tmp_path / "b", other)])
    assert [run["seed"] for run in both["rows"][0]["runs"]] == [0, 1, 2, 3] and len(both["stores"]) == 1
    assert [run["seed"] for run in one["rows"][0]["runs"]] == [0, 1]  # what was given is as it was
    failed = copy.deepcopy(one)
    failed["rows"][0].update(runs=[], reason="no memory", config={})
    done = merged([(tmp_path / "a", failed), (tmp_path / "b", one)])["rows"]
    assert len(done) == len(one["rows"]) and all(row["runs"] and not row["reason"] for row in done)
    run = other["rows"][0]["runs"][0]
    run["seed"], run["predicted"] = 0, run["predicted"][::-1]
    with pytest.raises(UserError, match="predicts otherwise"):
        merged([(tmp_path / "a", one), (tmp_path / "b", other)])
    other["stores"][0]["true"] = other["stores"][0]["true"][::-1]
    with pytest.raises(UserError, match="its test split"):
        merged([(tmp_path / "a", one), (tmp_path / "b", other)])


def test_a_clear_lead_is_told_from_luck(made):
    """A model that is always right, one that is right as often by chance in other places, and a poor one."""
    found = copy.deepcopy(read_board(made[1]))
    rng = np.random.default_rng(0)
    store, classes, dialogues = found["stores"][0], len(found["stores"][0]["labels"]), 60
    true = rng.integers(0, classes, 5 * dialogues)
    store["dialogues"], store["true"] = [5] * dialogues, coded(true)
    rows = [copy.deepcopy(found["rows"][0]) for _ in range(3)]
    for row, title, rate in zip(rows, ("good", "as good", "poor"), (0.8, 0.79, 0.4), strict=True):
        row["title"] = title
        row["runs"] = [dict(row["runs"][0], seed=seed) for seed in range(3)]
        for run in row["runs"]:
            wrong = rng.random(len(true)) > rate
            run["predicted"] = coded(np.where(wrong, (true + 1) % classes, true))
    found["rows"] = rows
    (one,) = standings(found)
    assert {r.name for r in one.ranked[:2]} == {"good", "as good"} and one.ranked[2].name == "poor"
    assert one.ranked[1].tied and not one.ranked[2].tied
    assert "may be luck; it is better than the other." in one.headline()


def test_a_model_that_cannot_run_gets_its_reason(tmp_path):
    store = write_store(tmp_path / "s.h5", dims={"audio": 6})
    done = board(store, "--out", tmp_path / "b", "--seeds", 1, *FAST, "--models", "bigru", "--set", "data.text=no-such")
    assert done.exit_code == 0 and "no result" in done.output
    (row,) = read_board(tmp_path / "b")["rows"]
    assert not row["runs"] and "no-such" in row["reason"] and str(tmp_path) not in row["reason"]
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "no-such"], "no-such"),
        (["--set", "train.protocol=best-on-test"], "validation split"),
        (["--set", "model.hiden=4"], "model.hidden"),
        (["--set", "train.ephocs=4"], "train.epochs"),
        (["--space", "train.lr=5..1", "--tune", "2"], "lower bound"),
        (["--merge", "elsewhere"], "either stores, or boards"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(made, tmp_path, arguments, said):
    done = board(made[0], "--out", tmp_path / "b", *arguments)
    assert done.exit_code != 0 and said in done.output and "Traceback" not in done.output
    assert not (tmp_path / "b" / "board.json").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"erc_toolkit_board": 99}', '{"erc_toolkit_board": 1, "stores": [{}]}'])
def test_a_damaged_board_is_one_line(tmp_path, damage):
    (tmp_path / "board.json").write_text(damage)
    done = board("--merge", tmp_path, "--out", tmp_path / "joined")
    assert done.exit_code == 1 and "board.json" in done.output and "Traceback" not in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_the_space_fits_the_model():
    config = load_config("meld", ["model.name=logistic-regression"])
    space, first = space_of(config, SPACE)
    assert "model.dropout" not in space and first["train.lr"] == config.train.lr
    assert isinstance(space["train.lr"], Range) and space["train.lr"].low <= config.train.lr <= space["train.lr"].high
    config.train.lr = 0.5  # the recipe's own value is always in reach
    assert space_of(config, SPACE)[0]["train.lr"] == Range(1e-5, 0.5, True)


def test_our_board_is_what_its_json_says():
    docs = Path(__file__).resolve().parents[1] / "docs"
    page, found = (docs / "leaderboard.md").read_text(encoding="utf-8"), read_board(docs / "leaderboard.json")
    for row in found["rows"]:
        (store,) = (one for one in found["stores"] if one["content_sha256"] == row["store"])
        if row["runs"]:
            shown = mean_and_spread(spread_of(scores_of_runs(store, row)["weighted_f1"]))
            assert f"| {row['title']} | {shown} |" in page
        else:
            assert row["reason"] in page


@given(st.lists(st.integers(-1, 60)))
def test_classes_survive_as_text(classes):
    values = np.array(classes, np.int64)
    assert decoded(coded(values)).tolist() == values.tolist()
