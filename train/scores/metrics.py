"""Measures of classification, as usually reported in the field; scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np


class ClassMeasures(TypedDict):
    """Measures of one class, as fractions, and its support: the number of utterances with this true label."""

    precision: float
    recall: float
    f1: float
    support: int


class Measures(TypedDict):
    """What `evaluate` returns; see there."""

    utterances: int
    accuracy: float
    weighted_f1: float
    weighted_precision: float
    macro_f1: float
    uar: float
    majority_class: str
    majority_weighted_f1: float
    per_class: dict[str, ClassMeasures]


class Evaluation(Measures):
    """What `erc_toolkit.train.loop.evaluation.evaluate_run` returns; see there."""

    run: str
    store: str
    corpus: str
    split: str
    protocol: str
    seed: int
    model: str
    device: str
    labels: list[str]
    dialogues: int
    intervals: dict[str, list[float]]
    ece: float
    confusion: list[list[int]]
    by: dict[str, dict[str, dict[str, float | int]]]


class Spread(TypedDict):
    """A measure over runs with different seeds: mean, sample standard deviation (None for one run), all values."""

    mean: float
    std: float | None
    values: list[float]


def evaluate(y_true: np.ndarray, y_pred: np.ndarray, labels: Sequence[str], *, majority: int) -> Measures:
    """Scores predictions against true labels. Every measure is a fraction; undefined values (0 / 0) count as 0.

    Args:
        y_true, y_pred: int (n,), class indices; n is at least 1.
        labels: names of the classes in index order.
        majority: index of the most frequent class of the training split, for the baseline that always predicts it.

    Returns:
        utterances: n.
        accuracy: share of correct predictions.
        weighted_f1, weighted_precision: mean over classes, weighted by support (some papers print the latter as
            "weighted accuracy"; weighted recall is the accuracy).
        macro_f1: plain mean of F1 over the classes that have support.
        uar: unweighted average recall, the plain mean of recall over the same classes.
        majority_class, majority_weighted_f1: name of that class, weighted F1 of always predicting it.
        per_class: name to precision, recall, f1, support (utterances with this true label), in index order.

    Raises:
        ValueError: there are no utterances.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if len(y_true) == 0:
        raise ValueError("no utterances to evaluate")
    index = np.arange(len(labels))
    undefined: Any = 0  # scikit-learn annotates the parameter as a string but accepts this number
    scored: Any = precision_recall_fscore_support(y_true, y_pred, labels=index, zero_division=undefined)
    precision, recall, f1, support = scored
    baseline = f1_score(
        y_true, np.full_like(y_true, majority), labels=index, average="weighted", zero_division=undefined
    )
    return {
        "utterances": len(y_true),
        "accuracy": float((y_true == y_pred).mean()),
        "weighted_f1": float((f1 * support).sum() / support.sum()),
        "weighted_precision": float((precision * support).sum() / support.sum()),
        "macro_f1": float(f1[support > 0].mean()),
        "uar": float(recall[support > 0].mean()),
        "majority_class": labels[majority],
        "majority_weighted_f1": float(baseline),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
        },
    }
