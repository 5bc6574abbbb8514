"""Learning rates over the steps of a training: functions of their arguments, without any state to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The defaults of torch's ReduceLROnPlateau: a score is better when it is so much above the best one (relative), and a
# rate that would change by less than this (absolute) stays.
_THRESHOLD, _SMALLEST_CHANGE = 1e-4, 1e-8


def lr_factor(schedule: str, step: int, steps: int, warm_up: float) -> float:
    """What the learning rate of a step is multiplied by.

    Args:
        schedule: "constant"; "linear", which falls in equal parts; "cosine", which falls along half a cosine. Both fall
            from 1 after the warm-up to 0 after the last step, which is itself still above 0.
        step: counted from 0 over the whole training.
        steps: of the whole training.
        warm_up: steps in which the factor rises in equal parts; the last of them is the first at 1. May be a fraction.

    Returns:
        Above 0, at most 1.
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
    """What the learning rate of an update is multiplied by: linear warm-up, then linear decay, as fairseq counts them.

    The update after the warm-up has the full rate a second time, where `lr_factor` has begun to fall.

    Args:
        update: counted from 0.
        updates: of the whole training.
        warm_up: the share of them in which the factor rises.

    Returns:
        From 0 (from the update after the last one on) to 1.
    """
    rising = max(1, int(updates * warm_up))
    return (update + 1) / rising if update < rising else max(0.0, (updates - update) / (updates - rising))


def lr_on_plateau(lr: float, scores: Sequence[float], patience: int) -> float:
    """The learning rate after some epochs, halved whenever more than `patience` in a row brought no better score.

    Args:
        lr: of the first epoch.
        scores: of the epochs that are done; higher is better.
        patience: epochs without a better score that are allowed.

    Returns:
        What torch's ReduceLROnPlateau with mode "max" and factor 0.5 gives after the same scores.
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
