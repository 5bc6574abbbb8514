"""Which frames of an utterance can be stored: every number of a stored frame is finite."""

from __future__ import annotations

import numpy as np


def finite_frames(frames: np.ndarray) -> np.ndarray:
    """Which frames consist of numbers that float32 can hold.

    One bad frame does not make the others unusable: whoever stores frames leaves out those that are not finite, counts
    them, and masks the utterance only if none remains.

    Args:
        frames: numbers (T, width).

    Returns:
        bool (T,).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.isfinite(frames.astype(np.float32, copy=False)).all(axis=1))


def without_padding(frames: np.ndarray) -> slice:
    """The frames between the first and the last one that is not all zeros; all frames if there is no such frame.

    Args:
        frames: numbers (T, width), with zeros before or after the frames to make sequences equally long.
    """
    used = np.flatnonzero((frames != 0).any(1))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(None)
