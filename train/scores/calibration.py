"""Calibration: whether a model's confidence matches its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictions import Predictions

BINS = 15


@dataclass(frozen=True, slots=True)
class Calibration:
    """A reliability diagram: the most probable class's probability, in BINS equal bins from 0 to 1.

    Attributes:
        counts: (BINS,) int64, labelled utterances in each bin.
        confidence: (BINS,) mean probability; NaN where a bin is empty.
        accuracy: (BINS,) fraction of correct predictions; NaN where a bin is empty.
        ece: expected calibration error, the mean of |accuracy - confidence| weighted by counts (Guo et al. 2017, eq.
            3).
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def calibrate(predictions: Predictions, bins: int = BINS) -> Calibration:
    """The calibration over labelled utterances.

    Raises:
        ValueError: there are none.
    """
    labelled = predictions.true >= 0
    if not labelled.any():
        raise ValueError("no labelled utterance")
    sure = predictions.probabilities[labelled].max(1)
    right = (predictions.predicted == predictions.true)[labelled]
    step = np.minimum((sure * bins).astype(np.int64), bins - 1)
    counts = np.bincount(step, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(step, sure, bins) / counts
        accuracy = np.bincount(step, right, bins) / counts
    ece = np.nansum(np.abs(accuracy - confidence) * counts) / counts.sum()
    return Calibration(counts, confidence, accuracy, float(ece))
