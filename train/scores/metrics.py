"""Measures of a classification, as the field reports them (scikit-learn computes them)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def evaluate(y_true: np.ndarray, y_pred: np.ndarray, labels: Sequence[str], *, majority: int) -> dict[str, object]:
    """Scores predictions against true labels. Every measure is a fraction; what is undefined (0 / 0) counts as 0.

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
        per_class: name to precision, recall, f1, support (utterances that truly are of the class), in index order.

    Raises:
        ValueError: there are no utterances.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if len(y_true) == 0:
        raise ValueError("no utterances to evaluate")
    index = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(y_true, y_pred, labels=index, zero_division=0)
    baseline = f1_score(y_true, np.full_like(y_true, majority), labels=index, average="weighted", zero_division=0)
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
            for name, p, r, f, s in zip(labels, precision, recall, f1, support)
        },
    }
