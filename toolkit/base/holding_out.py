"""Which training dialogues validate where a corpus has no validation split: one rule for training and fine-tuning."""

from __future__ import annotations

import numpy as np

VALIDATION_SEED = 0  # not the run's seed, so that runs with different seeds share their split
VALIDATION_FRACTION = 0.1


def held_out(dialogues: int, fraction: float = VALIDATION_FRACTION) -> np.ndarray:
    """The dialogues to hold out: at least one, and not all.

    Args:
        dialogues: number of labelled training dialogues, at least 2, in the corpus's order.
        fraction: share to hold out.

    Returns:
        int64 indices in 0 to dialogues - 1, in random order.
    """
    count = min(max(1, round(fraction * dialogues)), dialogues - 1)
    return np.random.default_rng(VALIDATION_SEED).permutation(dialogues)[:count]
