"""Measures worked out by hand, and the table that shows them."""

import io

import numpy as np
import pytest
from rich.console import Console

from erc_toolkit.train.scores.metrics import evaluate
from erc_toolkit.train.scores.results_table import print_report


def test_measures_of_an_example_worked_out_by_hand():
    #       a a a a b b c       a: tp 3 fp 1 fn 1;  b: tp 1 fp 1 fn 1;  c: tp 0 fp 1 fn 1 (no hit);  d never occurs
    true = [0, 0, 0, 0, 1, 1, 2]
    got = evaluate(np.array(true), np.array([0, 0, 0, 1, 1, 2, 0]), ["a", "b", "c", "d"], majority=0)
    assert got["utterances"] == 7
    assert got["accuracy"] == pytest.approx(4 / 7)
    assert got["per_class"]["a"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4}
    assert got["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert got["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert got["per_class"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert got["weighted_f1"] == pytest.approx((4 * 0.75 + 2 * 0.5) / 7)
    assert got["weighted_precision"] == pytest.approx((4 * 0.75 + 2 * 0.5) / 7)
    assert got["macro_f1"] == pytest.approx((0.75 + 0.5 + 0) / 3)  # d has no support
    # Always a: precision 4/7, recall 1, F1 8/11, support 4 of 7.
    assert got["majority_class"] == "a" and got["majority_weighted_f1"] == pytest.approx(4 / 7 * 8 / 11)


def test_weighted_precision_is_not_accuracy():
    got = evaluate(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), ["a", "b"], majority=0)
    assert got["accuracy"] == 0.5 and got["weighted_precision"] == pytest.approx(0.75 * 1 + 0.25 / 3)


def test_majority_class_is_that_of_training_even_if_absent_from_the_test_split():
    got = evaluate(np.array([0, 0]), np.array([0, 0]), ["a", "b"], majority=1)
    assert got["majority_class"] == "b" and got["majority_weighted_f1"] == 0 and got["weighted_f1"] == 1


def test_a_single_class_and_no_utterances():
    got = evaluate(np.array([0]), np.array([0]), ["a"], majority=0)
    assert got["accuracy"] == got["weighted_f1"] == got["macro_f1"] == got["majority_weighted_f1"] == 1
    with pytest.raises(ValueError):
        evaluate(np.array([], int), np.array([], int), ["a"], majority=0)


def test_report_fits_eighty_columns_and_shows_every_number():
    labels = ["anger", "joy [/bold]", "a very long name of an emotion that somebody wrote into a manifest of theirs"]
    measures = evaluate(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), labels, majority=0)
    out = io.StringIO()
    result = {**measures, "corpus": "x", "split": "test", "protocol": "best-on-test (optimistic)", "seed": 7}
    print_report(result, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["anger", "100.00", "50.00", "66.67", "2"] in rows and [
        "joy",
        "[/bold]",
        "50.00",
        "100.00",
        "66.67",
        "1",
    ] in rows
    assert ["accuracy", "75.00"] in rows and ["macro", "F1", "77.78"] in rows and ["weighted", "F1", "75.00"] in rows
    assert ["weighted", "precision", "87.50"] in rows
    assert "majority baseline    33.33  weighted F1 of always predicting 'anger'" in text
    assert "selected by: best-on-test (optimistic); seed 7" in text
