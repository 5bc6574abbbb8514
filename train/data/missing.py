"""Features hidden at random, as if cameras and microphones had failed: in training, and in the study `missing`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SEED = 0  # the same features are hidden in every run, so that runs are comparable


def hidden_at_random(present: Mapping[str, np.ndarray], rate: float) -> dict[str, np.ndarray]:
    """Which features are hidden: each with the same probability, but never the last one that an utterance has.

    What is hidden at a rate is hidden at every higher one. The draw of an utterance that would lose everything keeps
    its modality with the largest number, as in studies of incomplete multimodal learning, where an utterance has at
    least one modality; so the share that is hidden is below `rate`, which matters for high rates.

    Args:
        present: modality to (N,) bool. The draw depends on the modalities' order and on N.
        rate: from 0 to 1.

    Returns:
        Modality to (N,) bool.
    """
    there = np.stack(list(present.values()))
    drawn = np.random.default_rng(SEED).random(there.shape)
    hidden = there & (drawn < rate)
    keep = np.where(there, drawn, -1).argmax(0)
    hidden[keep, np.arange(there.shape[1])] = False
    return dict(zip(present, hidden, strict=True))
