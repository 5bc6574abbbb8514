"""Learning rates against the schedulers of torch and transformers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit.toolkit.base.schedule import fairseq_linear_factor, lr_factor, lr_on_plateau


def rates(make_scheduler, steps: int, lr: float = 1.0) -> list[float]:
    """The learning rates of the first steps under a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    scheduler, found = make_scheduler(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 500), st.floats(0, 1))
def test_learning_rates(schedule, steps, share):
    warm_up = share * steps
    factors = [lr_factor(schedule, step, steps, warm_up) for step in range(steps)]
    assert all(0 < f <= 1 + 1e-12 for f in factors)
    top = max(range(steps), key=factors.__getitem__)
    assert factors[: top + 1] == sorted(factors[: top + 1]) and factors[top:] == sorted(factors[top:], reverse=True)
    assert schedule != "constant" or all(f == 1 for f in factors[math.ceil(warm_up) :])


@pytest.mark.parametrize("warm_up", [1, 7])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_equal_those_of_transformers(schedule, warm_up):
    """Ours is theirs shifted by one step, so that neither the first nor the last step has a rate of 0."""
    transformers = pytest.importorskip("transformers")
    get = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
    }
    theirs = rates(lambda optimizer: get[schedule](optimizer, warm_up, 31), 31)
    assert [lr_factor(schedule, step, 30, warm_up) for step in range(30)] == pytest.approx(theirs[1:])


def test_schedules_equal_those_of_torch():
    cosine = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20), 20)
    assert [lr_factor("cosine", step, 20, 0) for step in range(20)] == pytest.approx(cosine)
    linear = rates(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 20), 20)
    assert [lr_factor("linear", step, 20, 0) for step in range(20)] == pytest.approx(linear)
    warm_up = rates(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 8, 1.0, 7), 20)
    assert [lr_factor("constant", step, 20, 8) for step in range(20)] == pytest.approx(warm_up)


@pytest.mark.parametrize("share", [0.06, 0.3, 1.0])
def test_fairseq_linear_equals_that_of_transformers(share):
    """During warm-up, one update ahead, as counted by fairseq."""
    transformers = pytest.importorskip("transformers")
    updates, rising = 100, int(100 * share)
    theirs = rates(lambda o: transformers.get_linear_schedule_with_warmup(o, rising, updates), updates + 1)
    ours = [fairseq_linear_factor(update, updates, share) for update in range(updates + (share < 1))]
    assert ours[:rising] == pytest.approx(theirs[1 : rising + 1] if share < 1 else [*theirs[1:rising], 1.0])
    assert ours[rising:] == pytest.approx(theirs[rising : len(ours)])


def test_fairseq_linear_without_a_whole_update_of_warm_up():
    assert fairseq_linear_factor(0, 1, 0.06) == 1


@pytest.mark.parametrize("lr", [1e-3, 1e-7])
@given(scores=st.lists(st.sampled_from([0.0, 0.3, 0.30002, 0.31, 0.5, 0.9]), max_size=120), patience=st.integers(0, 6))
def test_plateau_equals_that_of_torch(lr, scores, patience):
    """Exactly, down to the rate below which torch no longer changes it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience)
    for done, score in enumerate(scores):
        assert lr_on_plateau(lr, scores[:done], patience) == optimizer.param_groups[0]["lr"]
        scheduler.step(score)
    assert lr_on_plateau(lr, scores, patience) == optimizer.param_groups[0]["lr"]
