"""Learning rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The defaults of torch's ReduceLROnPlateau: a score is better if it exceeds the best one by this much (relative), and a
# learning rate that would change by less than this (absolute) is kept.
_THRESHOLD, _SMALLEST_CHANGE = 1e-4, 1e-8


def lr_factor(schedule: str, step: int, steps: int, warm_up: float) -> float:
    """The factor by which the learning rate of a step is multiplied.

    Args:
        schedule: "constant"; "linear", a linear decay; "cosine", a decay along half a cosine. Both decay from 1 after
            the warm-up to 0 after the last step, whose own factor is still above 0.
        step: counted from 0 over the whole run.
        steps: total number of steps.
        warm_up: number of steps in which the factor rises linearly; the last of them has factor 1. May be fractional.

    Returns:
        A factor above 0 and at most 1.
    """
    if step + 1 < warm_up:
        return (step + 1) / warm_up
    done = max(0.0, step + 1 - max(warm_up, 1)) / max(1.0, steps - max(warm_up, 1) + 1)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1.0


def fairseq_linear_factor(update: int, updates: int, warm_up: float) -> float:
    """The factor for the learning rate of an update: linear warm-up, then linear decay, counted as in fairseq.

    The update after the warm-up has the full rate a second time, whereas `lr_factor` is already decaying.

    Args:
        update: counted from 0.
        updates: total number of updates.
        warm_up: the fraction of them in which the factor rises.

    Returns:
        A factor from 0 (for updates after the last one) to 1.
    """
    rising = max(1, int(updates * warm_up))
    return (update + 1) / rising if update < rising else max(0.0, (updates - update) / (updates - rising))


def lr_on_plateau(lr: float, scores: Sequence[float], patience: int) -> float:
    """The learning rate after some epochs, halved whenever more than `patience` in a row did not improve the score.

    Args:
        lr: of the first epoch.
        scores: of the completed epochs; higher is better.
        patience: number of epochs without improvement that are tolerated.

    Returns:
        The rate that torch's ReduceLROnPlateau with mode "max" and factor 0.5 sets after the same scores.
    """
    best, bad = -math.inf, 0
    for score in scores:
        if score > best * (1 + _THRESHOLD):
            best, bad = score, 0
        else:
            bad += 1
        if bad > patience:
            bad = 0
            if lr - lr / 2 > _SMALLEST_CHANGE:
                lr /= 2
    return lr
