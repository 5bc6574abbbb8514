"""Predicted classes as short texts, for files that keep the predictions of many runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .predictions import Predictions

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NONE = "-"  # an utterance without a label


def coded(classes: np.ndarray) -> str:
    """Class indices (n,) as text, -1 as a hyphen: a character each for at most 36 classes, else a space before each."""
    values = np.asarray(classes).tolist()
    if max(values, default=0) < len(_DIGITS):
        return "".join(_NONE if value < 0 else _DIGITS[value] for value in values)
    return "".join(f" {_NONE if value < 0 else value}" for value in values)


def decoded(text: str) -> np.ndarray:
    """What `coded` was given, (n,) int64.

    Raises:
        ValueError: the text is not of this form.
    """
    if text.startswith(" "):
        return np.array([-1 if part == _NONE else int(part) for part in text[1:].split(" ")], np.int64)
    return np.array([-1 if c == _NONE else _DIGITS.index(c) for c in text], np.int64)


def dialogue_lengths(tested: Predictions) -> list[int]:
    """Number of utterances of each dialogue, in the order of the predictions."""
    starts = np.flatnonzero(np.r_[True, tested.dialogue[1:] != tested.dialogue[:-1]])
    return np.diff(np.r_[starts, len(tested)]).tolist()


def from_coded(labels: Sequence[str], dialogues: Sequence[int], true: str, predicted: str) -> Predictions:
    """Predictions of which only the classes are known: numbers for ids, no probabilities, speakers and texts.

    Args:
        labels: names of the C classes.
        dialogues: number of utterances of each dialogue.
        true, predicted: the classes of all utterances, as `coded`.
    """
    classes = decoded(true)
    n = len(classes)
    dialogue = np.repeat(np.arange(len(dialogues)), dialogues).astype(str).astype(object)
    blank, numbers = np.full(n, "", object), np.arange(n).astype(str).astype(object)
    empty = np.zeros((n, 0))
    own = empty.astype(np.int64)
    return Predictions(
        list(labels), [], numbers, dialogue, blank, np.arange(n), classes, decoded(predicted), empty, own
    )
