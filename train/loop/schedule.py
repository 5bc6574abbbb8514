"""Learning rate over the steps of a training."""

from __future__ import annotations

import math


def lr_factor(schedule: str, step: int, steps: int, warm_up: float) -> float:
    """What the learning rate of a step is multiplied by. It depends on nothing but these numbers, so it has no state.

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
