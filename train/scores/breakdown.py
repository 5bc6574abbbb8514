"""Measures of a model by dialogue length, position, speaker, available modalities and emotion shift."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .predictions import Predictions
from .resampling import measures_of

EDGES = (1, 6, 11, 16, 21, 31, 51, 101)  # first utterance count or place of each group, counted from 1
FIRST, SAME, SHIFT = "first of the speaker", "as before", "shift"


def breakdown(predictions: Predictions, by: str) -> dict[str, dict[str, float | int]]:
    """Measures of the labelled utterances of each group.

    Args:
        predictions: of some dialogues.
        by: a name in GROUPS.

    Returns:
        Group to `utterances` and the measures of `erc_toolkit.train.scores.resampling.measures_of`, in the groups'
        natural order; groups without a labelled utterance are omitted.
    """
    group, order = GROUPS[by](predictions)
    found = {}
    for name in order:
        chosen = (group == name) & (predictions.true >= 0)
        if chosen.any():
            confusion = confusion_matrix(predictions, chosen)
            found[name] = {"utterances": int(chosen.sum())} | {k: float(v) for k, v in measures_of(confusion).items()}
    return found


def confusion_matrix(predictions: Predictions, chosen: np.ndarray | None = None) -> np.ndarray:
    """Counts (C, C) int64 of true class by predicted class over the labelled utterances, or those of a mask (n,)."""
    chosen = predictions.true >= 0 if chosen is None else chosen & (predictions.true >= 0)
    classes = len(predictions.labels)
    pairs = predictions.true[chosen] * classes + predictions.predicted[chosen]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _by_nothing(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    return np.full(len(predictions), "all", object), ["all"]


def _by_length(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    return _binned(predictions.lengths)


def _by_position(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    return _binned(predictions.position + 1)


def _by_speaker(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    names, counts = np.unique(predictions.speaker.astype(str), return_counts=True)
    return predictions.speaker, names[np.argsort(-counts, kind="stable")].tolist()


def _by_modalities(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    there = predictions.own >= 0
    names = np.array(
        [" + ".join(m for m, t in zip(predictions.modalities, row, strict=True) if t) or "none" for row in there],
        object,
    )
    order = sorted(set(names), key=lambda name: (-(name.count("+") + (name != "none")), name))
    return names, order


def _by_shift(predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    group, last = [], {}
    for dialogue, speaker, true in zip(predictions.dialogue, predictions.speaker, predictions.true, strict=True):
        before = last.get((dialogue, speaker))
        group.append(FIRST if before is None else SAME if before == true else SHIFT)
        if true >= 0:
            last[dialogue, speaker] = true
    return np.array(group, object), [FIRST, SAME, SHIFT]


def _binned(numbers: np.ndarray) -> tuple[np.ndarray, list[str]]:
    names = [f"{a} to {b - 1}" for a, b in pairwise(EDGES)] + [f"{EDGES[-1]} and more"]
    return np.array(names, object)[np.searchsorted(EDGES, numbers, "right") - 1], names


GROUPS: dict[str, Callable[[Predictions], tuple[np.ndarray, list[str]]]] = {
    "all": _by_nothing,
    "length": _by_length,
    "position": _by_position,
    "speaker": _by_speaker,
    "modalities": _by_modalities,
    "shift": _by_shift,
}
