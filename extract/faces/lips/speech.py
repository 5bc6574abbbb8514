"""How much faces speak, and how sure it is which of them is the speaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Slope of the softmax over evidences: chosen such that a confidence of 0.8 means right four times of five
# (benchmarks/speaking_faces.py).
SLOPE = 8.0


@dataclass(frozen=True)
class Speech:
    """How much one face speaks.

    Attributes:
        score: LR-ASD's mean score; positive where the face speaks what is heard.
        evidence: what the faces of an utterance are compared by (`scoring.py`).
        frames: number of frames scored; 0 for a face that is nowhere while there is audio.
    """

    score: float
    evidence: float
    frames: int


def confidences(speeches: Sequence[Speech]) -> np.ndarray:
    """For each face the probability that it is the speaker, if one of them is; float (faces,)."""
    x = SLOPE * np.array([one.evidence for one in speeches])
    x = np.exp(x - x.max())
    return x / x.sum()
