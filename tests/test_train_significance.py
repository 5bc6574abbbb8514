"""Predictions on disk, breakdowns, calibration, intervals and significance against slow or hand-worked examples."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.scores.breakdown import FIRST, GROUPS, SAME, SHIFT, breakdown, confusion_matrix
from erc_toolkit.train.scores.calibration import calibrate
from erc_toolkit.train.scores.metrics import evaluate
from erc_toolkit.train.scores.predictions import PREDICTIONS, Predictions, read_predictions
from erc_toolkit.train.scores.resampling import differences, intervals, mcnemar, measures_of

LABELS = ["anger", 'joy, "quoted"', "neutral"]
MEASURES = ("accuracy", "weighted_f1", "weighted_precision", "macro_f1", "uar")


def predictions(lengths, true=None, predicted=None, seed=0, own=None, speakers="ab"):
    """Predictions for the given numbers of utterances per dialogue; whatever is not given is drawn at random."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    probabilities = rng.dirichlet(np.ones(3), n).round(6)
    if predicted is not None:
        probabilities = np.full((n, 3), 0.2)
        probabilities[np.arange(n), predicted] = 0.6
    dialogue = np.repeat([f"d{i}" for i in range(len(lengths))], lengths).astype(object)
    position = np.concatenate([np.arange(length) for length in lengths])
    return Predictions(
        LABELS,
        ["text", "audio"],
        np.array([f"{d}_{i}" for d, i in zip(dialogue, position, strict=True)], object),
        dialogue,
        np.array([speakers[i % len(speakers)] for i in position], object),
        position,
        rng.integers(-1, 3, n) if true is None else np.array(true),
        probabilities.argmax(1),
        probabilities,
        rng.integers(-1, 3, (n, 2)) if own is None else np.array(own),
    )


def test_predictions_are_read_back_from_their_file(tmp_path):
    wrote = predictions([3, 1, 5])
    wrote.id[0], wrote.speaker[1] = 'a,"b"\nc', "Zoë"
    wrote.write(tmp_path)
    got = read_predictions(tmp_path)
    for name in Predictions.__slots__:
        assert np.array_equal(getattr(got, name), getattr(wrote, name)), name


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace("p_anger", "anger"),
        lambda text: text.replace("0.", "nan", 1),
        lambda text: text + "x,y\n",
        lambda text: text.replace("neutral", "bliss", 3),
        lambda text: text.replace("0.", "zero", 1),
        lambda text: text.replace("predicted", "said", 1),
    ],
)
def test_damaged_predictions_are_reported(tmp_path, damage):
    predictions([3, 2]).write(tmp_path)
    path = tmp_path / PREDICTIONS
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*--overwrite"):
        read_predictions(tmp_path)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / 'none' / PREDICTIONS))}: "):
        read_predictions(tmp_path / "none")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
@settings(deadline=None)
def test_measures_of_a_confusion_matrix_equal_those_of_the_utterances(pairs):
    true, predicted = np.array(pairs).T
    expected = evaluate(true, predicted, LABELS, majority=0)
    confusion = confusion_matrix(predictions([len(pairs)], true, predicted))
    got = measures_of(confusion)
    assert {name: pytest.approx(expected[name]) for name in MEASURES} == got
    assert all(v.shape == (2,) and v[1] == 0 for v in measures_of(np.stack([confusion, 0 * confusion])).values())


def bootstrap_by_hand(runs, draws, seed=0):
    """Weighted F1 of drawn dialogues, draw by draw."""
    rng, found = np.random.default_rng(seed), []
    names = sorted(set(runs[0].dialogue))
    for _ in range(draws):
        rows = np.concatenate(
            [np.flatnonzero(runs[0].dialogue == names[d]) for d in rng.integers(len(names), size=len(names))]
        )
        rows = rows[runs[0].true[rows] >= 0]
        picked = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        found.append(
            np.mean([evaluate(p.true[rows], p.predicted[rows], LABELS, majority=0)["weighted_f1"] for p in picked])
        )
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_intervals_equal_those_of_drawing_dialogues_and_seeds(seeds):
    lengths = np.random.default_rng(5).integers(1, 15, 40).tolist()
    true = np.random.default_rng(6).integers(0, 3, sum(lengths))
    rng = np.random.default_rng(7)
    runs = [
        predictions(lengths, true, np.where(rng.random(len(true)) < 0.5 + 0.1 * i, true, rng.integers(0, 3, len(true))))
        for i in range(seeds)
    ]
    got, expected = intervals(runs, 4000)["weighted_f1"], bootstrap_by_hand(runs, 600)
    assert np.allclose(got, expected, atol=0.02), (got, expected)
    assert intervals(runs, 500) == intervals(runs, 500) and intervals(runs, 500) != intervals(runs, 500, seed=1)
    wider = intervals(runs, 4000, level=0.99)["weighted_f1"]
    assert wider[0] < got[0] < got[1] < wider[1]


def test_whole_dialogues_are_drawn():
    # All correct in half of the dialogues, all wrong in the others: drawing utterances would give intervals a fifth as
    # wide.
    lengths, true = [25] * 20, np.zeros(500, int)
    run = predictions(lengths, true, np.repeat([0, 1] * 10, 25))
    low, high = intervals([run])["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 20), abs=0.06)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    lengths, true = [10] * 50, rng.integers(0, 3, 500)
    easy = rng.random(50).repeat(10)  # dialogues differ a lot, runs little
    base = np.where(rng.random(500) < easy, true, (true + 1) % 3)
    better = np.where((base != true) & (rng.random(500) < 0.2), true, base)
    first, second = predictions(lengths, true, base), predictions(lengths, true, better)
    got = differences([first], [second])["accuracy"]
    assert got.value == pytest.approx((better == true).mean() - (base == true).mean())
    assert 0 < got.low < got.value < got.high and got.p < 0.01
    low, high = intervals([first])["accuracy"]
    assert high - low > 3 * (got.high - got.low)  # unpaired, the difference would be lost in the noise
    back = differences([second], [first])["accuracy"]
    assert (back.value, back.low, back.high, back.p) == pytest.approx((-got.value, -got.high, -got.low, got.p))
    same = differences([first], [first])["accuracy"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_differences_are_rarely_found_where_there_are_none():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true = rng.integers(0, 3, 300)
        pair = [
            predictions([10] * 30, true, np.where(rng.random(300) < 0.6, true, rng.integers(0, 3, 300))) for _ in "12"
        ]
        found.append(differences([pair[0]], [pair[1]], 500)["accuracy"].p)
    assert sum(p < 0.05 for p in found) <= 9  # 3 are expected; the probability of 10 or more is 0.1 %
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)


def test_mcnemar_of_a_worked_example():
    true = np.zeros(20, int)
    first, second = np.zeros(20, int), np.zeros(20, int)
    second[:8], first[8:10] = 1, 1  # 8 that only the first predicts correctly, 2 that only the second does
    got = mcnemar(predictions([20], true, first), predictions([20], true, second))
    assert got == (8, 2, pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10))
    assert mcnemar(predictions([20], true, first), predictions([20], true, first)) == (0, 0, 1.0)


def test_only_the_same_utterances_are_compared():
    one = predictions([4, 4])
    for other, message in (
        (predictions([4, 5]), "same utterances"),
        (predictions([3, 5]), "same utterances"),
        (predictions([4, 4], true=(one.true + 2) % 4 - 1), "true emotions differ"),
    ):
        with pytest.raises(ValueError, match=message):
            mcnemar(one, other)
        with pytest.raises(ValueError, match=message):
            differences([one], [one, other])
    with pytest.raises(ValueError, match="no labelled utterance"):
        intervals([predictions([3], true=[-1, -1, -1])])


def test_groups_of_a_worked_example():
    run = predictions(
        [1, 12],
        true=[0, 1, 1, -1, 2, 0, 2, 2, 0, 0, 0, 0, 1],
        predicted=[0, 1, 0, 0, 2, 0, 0, 2, 0, 0, 0, 1, 1],
        own=[[0, 0]] * 4 + [[1, -1]] * 5 + [[-1, -1]] * 4,
    )
    counts = {by: {name: row["utterances"] for name, row in breakdown(run, by).items()} for by in GROUPS}
    assert counts["length"] == {"1 to 5": 1, "11 to 15": 11}
    assert counts["position"] == {"1 to 5": 5, "6 to 10": 5, "11 to 15": 2}
    assert counts["speaker"] == {"a": 6, "b": 6}
    assert counts["modalities"] == {"text + audio": 3, "text": 5, "none": 4}
    # In d1, the labels of a are 1 . 0 2 0 0 (the dot is unlabelled and skipped), those of b 1 2 2 0 0 1.
    assert counts["shift"] == {FIRST: 3, SAME: 3, SHIFT: 6}
    assert breakdown(run, "length")["1 to 5"]["accuracy"] == 1
    assert breakdown(run, "modalities")["none"]["accuracy"] == 0.75


def shift_by_loops(run):
    """The group of every utterance, looking back for the speaker's last label."""
    for i in range(len(run)):
        before = [
            run.true[j]
            for j in range(i)
            if run.dialogue[j] == run.dialogue[i] and run.speaker[j] == run.speaker[i] and run.true[j] >= 0
        ]
        yield FIRST if not before else SAME if before[-1] == run.true[i] else SHIFT


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 100), st.sampled_from(["a", "ab", "abca"]))
@settings(deadline=None, max_examples=40)
def test_groups_divide_the_labelled_utterances(lengths, seed, speakers):
    run = predictions(lengths, seed=seed, speakers=speakers)
    labelled = run.true >= 0
    assert list(GROUPS["shift"](run)[0]) == list(shift_by_loops(run))
    for by in GROUPS:
        found = breakdown(run, by)
        assert sum(row["utterances"] for row in found.values()) == labelled.sum()
        right = sum(row["utterances"] * row["accuracy"] for row in found.values())
        assert right == pytest.approx((run.predicted == run.true)[labelled].sum())


def test_calibration_of_a_worked_example():
    run = predictions([5], true=[0, 0, 1, -1, 2])
    run.probabilities[:] = [[0.9, 0.05, 0.05], [0.86, 0.1, 0.04], [0.5, 0.3, 0.2], [1, 0, 0], [0, 0, 1]]
    run.predicted[:] = [0, 0, 0, 0, 2]
    got = calibrate(run, 10)
    assert got.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 1, 2]
    assert got.accuracy[[5, 8, 9]].tolist() == [0, 1, 1] and np.isnan(got.confidence[0])
    assert got.confidence[[5, 8, 9]] == pytest.approx([0.5, 0.86, 0.95])
    assert got.ece == pytest.approx((0.5 + 0.14 + 2 * 0.05) / 4)
    with pytest.raises(ValueError, match="no labelled"):
        calibrate(predictions([2], true=[-1, -1]))


def test_confident_and_correct_is_calibrated():
    rng = np.random.default_rng(0)
    run = predictions([20_000], true=np.zeros(20_000, int))
    top = run.probabilities.max(1)
    drawn = [rng.choice(3, p=p / p.sum()) for p in run.probabilities]
    run.true[:] = drawn
    assert calibrate(run).ece < 0.02
    run.true[:] = (run.predicted + 1) % 3
    assert calibrate(run).ece == pytest.approx(top.mean())
