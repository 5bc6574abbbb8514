"""The paired permutation test over dialogues, and intervals beside cluster-robust standard errors."""

from __future__ import annotations

import csv
import itertools
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import write_store

from erc_toolkit.extract.reduce import reduce_store
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.api import train
from erc_toolkit.train.commands.compare import compare_command
from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.scores.metrics import evaluate
from erc_toolkit.train.scores.predictions import Predictions, read_predictions
from erc_toolkit.train.scores.resampling import differences, few_dialogues, intervals, p_text

LABELS = ["anger", "joy", "neutral"]
MEASURES = ("accuracy", "weighted_f1", "weighted_precision", "macro_f1", "uar")


def predictions(lengths, true, predicted) -> Predictions:
    n = sum(lengths)
    dialogue = np.repeat([f"d{i}" for i in range(len(lengths))], lengths).astype(object)
    names = np.array([str(i) for i in range(n)], object)
    return Predictions(
        LABELS,
        [],
        names,
        dialogue,
        names,
        np.concatenate([np.arange(length) for length in lengths]),
        np.asarray(true),
        np.asarray(predicted),
        np.full((n, 3), 1 / 3),
        np.zeros((n, 0), int),
    )


def exact_p(first: list[Predictions], second: list[Predictions], measure: str) -> float:
    """Every way to swap the two systems' predictions for a dialogue, one after the other."""
    true, dialogues = first[0].true, sorted(set(first[0].dialogue))

    def difference(swapped: tuple[str, ...]) -> float:
        here, total = np.isin(first[0].dialogue, swapped), 0.0
        for a, b in zip(first, second, strict=True):
            one, other = np.where(here, b.predicted, a.predicted), np.where(here, a.predicted, b.predicted)
            kept = true >= 0
            scores = [evaluate(true[kept], p[kept], LABELS, majority=0)[measure] for p in (one, other)]
            total += scores[1] - scores[0]
        return total / len(first)

    ways = [c for k in range(len(dialogues) + 1) for c in itertools.combinations(dialogues, k)]
    observed = abs(difference(()))
    return sum(abs(difference(way)) >= observed - 1e-9 for way in ways) / len(ways)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(0, 10_000),
    st.sampled_from(MEASURES),
)
@settings(deadline=None, max_examples=30)
def test_p_is_that_of_every_way_to_swap_dialogues(lengths, seed, measure):
    rng, n = np.random.default_rng(seed), sum(lengths)
    true = rng.integers(-1, 3, n)
    if not (true >= 0).any():
        true[0] = 1
    first, second = (predictions(lengths, true, rng.integers(0, 3, n)) for _ in "12")
    assert differences([first], [second], 200)[measure].p == pytest.approx(exact_p([first], [second], measure))


def test_several_seeds_are_swapped_together_and_never_gain_significance():
    rng = np.random.default_rng(3)
    lengths, true = [5] * 6, rng.integers(0, 3, 30)
    first = [predictions(lengths, true, np.where(rng.random(30) < 0.4, true, 0)) for _ in "123"]
    second = [predictions(lengths, true, np.where(rng.random(30) < 0.8, true, 0)) for _ in "123"]
    got = differences(first, second)["weighted_f1"].p
    assert got >= exact_p(first, second, "weighted_f1") - 1e-12
    # Runs given twice are the same runs; the bootstrap's p, which counts seeds, may be the larger one.
    twice = differences(first, [run for run in second for _ in "12"], 2000)["weighted_f1"].p
    assert twice >= exact_p(first, second, "weighted_f1") - 0.05


@pytest.mark.parametrize("count", [2, 4, 14, 15, 40])
def test_no_p_is_below_what_the_dialogues_can_give(count):
    lengths, true = [3] * count, np.tile([0, 1, 2], count)
    worst, best = predictions(lengths, true, (true + 1) % 3), predictions(lengths, true, true)
    p = differences([worst], [best])["weighted_f1"].p
    least = 2 / 2**count
    assert p == pytest.approx(least) if count <= 14 else least < p <= 1 / 10_001
    shown = p_text(p)
    assert float(shown.removeprefix("< ")) >= least and float(shown.removeprefix("< ")) > 0
    warning = few_dialogues(count)
    assert (warning is None) == (count >= 20) and (count != 4 or "0.125" in str(warning))


def test_monte_carlo_agrees_with_enumeration(monkeypatch):
    rng = np.random.default_rng(8)
    lengths, true = [8] * 10, rng.integers(0, 3, 80)
    first = predictions(lengths, true, np.where(rng.random(80) < 0.5, true, rng.integers(0, 3, 80)))
    second = predictions(lengths, true, np.where(rng.random(80) < 0.6, true, rng.integers(0, 3, 80)))
    exact = {name: d.p for name, d in differences([first], [second]).items()}
    monkeypatch.setattr("erc_toolkit.train.scores.resampling._EXACT", 2)
    drawn = {name: d.p for name, d in differences([first], [second], 20_000).items()}
    assert drawn == {name: pytest.approx(p, abs=0.015) for name, p in exact.items()}


@pytest.mark.parametrize(("p", "shown"), [(1.0, "1"), (0.125, "0.125"), (0.05, "0.05"), (2**-13, "0.000123")])
def test_p_values_are_rounded_up(p, shown):
    assert p_text(p) == shown and p_text(9.999e-5) == "< 0.0001" == p_text(0)


def clustered_error(run: Predictions) -> float:
    """Standard error of the accuracy with one cluster per dialogue, with the correction C / (C - 1), term by term."""
    hit = (run.predicted == run.true).astype(float)
    mean, names, total = hit.mean(), sorted(set(run.dialogue)), 0.0
    for name in names:
        own = hit[run.dialogue == name] - mean
        total += sum(float(a * b) for a in own for b in own)
    return math.sqrt(total * len(names) / (len(names) - 1)) / len(hit)


@pytest.mark.parametrize(("count", "tolerance"), [(31, 0.06), (280, 0.03)])
def test_intervals_are_as_wide_as_clustered_standard_errors_say(count, tolerance):
    """31 dialogues as IEMOCAP's test split, 280 as MELD's; how easy a dialogue is differs between dialogues."""
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(20, 70, count) if count == 31 else rng.integers(1, 25, count)
        easy = np.repeat(rng.beta(4, 2, count), lengths)
        true = rng.integers(0, 3, lengths.sum())
        run = predictions(lengths.tolist(), true, np.where(rng.random(len(true)) < easy, true, (true + 1) % 3))
        low, high = intervals([run])["accuracy"]
        ratios.append((high - low) / (2 * 1.959964 * clustered_error(run)))
    print(count, np.mean(ratios), min(ratios), max(ratios))
    assert np.mean(ratios) == pytest.approx(1, abs=tolerance) and max(ratios) < 1.1


def test_texts_are_in_the_table_and_files_of_earlier_versions_are_read(tmp_path):
    run = predictions([2, 1], [0, 1, 2], [0, 0, 2])
    text = np.array(['=HYPERLINK("x")', "two\nlines, and a comma\r", "مرحبا"], object)
    (tmp_path / "old").mkdir()
    run.write(tmp_path / "old")
    assert read_predictions(tmp_path / "old").text is None
    new = Predictions(*(getattr(run, name) for name in Predictions.__slots__[:-1]), text)
    new.write(tmp_path)
    rows = list(csv.reader((tmp_path / "predictions.csv").open(encoding="utf-8", newline="")))
    assert rows[0][3:6] == ["speaker", "text", "true"] and rows[1][4].startswith("'=")
    back = read_predictions(tmp_path)
    assert back.text is not None and back.text.tolist() == [text[0], "two\nlines, and a comma ", text[2]]
    assert back.select(back.true > 0).text.tolist() == back.text[1:].tolist()  # pyright: ignore
    for name in ("id", "true", "predicted"):
        assert getattr(back, name).tolist() == getattr(run, name).tolist()


def _call(command, *arguments) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_store_that_gained_a_feature_is_the_same_data_and_few_dialogues_are_said(tmp_path):
    store = write_store(tmp_path / "s.h5")
    small = {"train.epochs": 1, "model.hidden": 8, "model.heads": 2}
    train(store, tmp_path / "a", recipe="demo", settings=small, notify=lambda _: None)
    with FeatureStore.open(store) as opened:
        names, content = opened.feature_names(), opened.content_hash
        before = opened.content_of(names)
        splits = zip(opened.column("dialogue"), opened.column("split"), strict=True)
        dialogues = len({dialogue for dialogue, split in splits if split == "test"})
    reduce_store(store, names[1], 2)
    with FeatureStore.open(store) as opened:
        assert opened.content_hash != content
        assert opened.content_of(names) == before
    chosen = {f"data.{modality}": name for modality, name in (name.split("/") for name in names)}
    train(store, tmp_path / "b", recipe="demo", settings=small | chosen, notify=lambda _: None)
    found = json.loads(_call(compare_command, tmp_path / "a", tmp_path / "b", "--json"))
    assert not {"data", "store"} & set(found["settings"])
    assert all(d["p"] == 1 for d in found["differences"][0].values())
    assert dialogues < 20 and f"only {dialogues} dialogue" in found["warning"]
    shown = _call(compare_command, tmp_path / "a", tmp_path / "b")
    assert "warning: only" in shown and "0.0000" not in shown
    evaluated = _call(eval_command, tmp_path / "a")
    assert "warning: only" in evaluated and "is not the data" not in evaluated
