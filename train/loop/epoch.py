"""One pass over the training split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...toolkit.base.errors import UserError
from ...toolkit.base.schedule import lr_factor
from ..data.batch import Conversations
from ..models.base import Model
from ..settings import TrainConfig
from .checkpoint import TrainingState
from .epoch_progress import EpochProgress
from .plan import Plan
from .records import EpochMeans
from .step import Gradients, make_optimizer, set_learning_rates, training_step


def new_state(model: Model[Any], settings: TrainConfig) -> TrainingState:
    """The state before the first epoch."""
    return TrainingState(model, make_optimizer(model, settings), torch.Generator().manual_seed(settings.seed))


def train_epoch(
    plan: Plan, state: TrainingState, data: Conversations, progress: EpochProgress, computed: Gradients | None = None
) -> EpochMeans:
    """Trains on every dialogue of the training split once, in an order drawn from `state.shuffle`.

    Args:
        plan, state, data: of the run.
        progress: told about every step.
        computed: how gradients are computed, see `training_step`.

    Raises:
        UserError: the loss becomes infinite or NaN.
    """
    settings, model = plan.config.train, state.model
    model.train()
    dialogues = torch.from_numpy(plan.division.train)
    parts = dialogues[torch.randperm(len(dialogues), generator=state.shuffle)].split(settings.batch_size)
    outcomes, lr = [], settings.lr
    for step, part in enumerate(parts):
        factor = lr_factor(
            settings.schedule,
            state.epoch * len(parts) + step,
            settings.epochs * len(parts),
            settings.lr_warm_up * len(parts),
        )
        lr = set_learning_rates(state.optimizer, settings, factor)
        outcomes.append(training_step(model, state.optimizer, data.batch(part), state.epoch, settings, computed))
        progress.step(step + 1, len(parts))
    # Read all at once, so that not every step waits for the device.
    losses = torch.stack([outcome.loss for outcome in outcomes]).cpu()
    _check_finite(plan, state, losses, parts)
    norms = [outcome.grad_norm for outcome in outcomes if outcome.grad_norm is not None]
    ratios = [outcome.ratios for outcome in outcomes if outcome.ratios is not None]
    return {
        "loss": float(losses.mean()),
        "lr": lr,
        "grad_norm": float(torch.stack(norms).mean()) if norms else None,
        "modality_dropout": dict(zip(plan.features, torch.stack(ratios).mean(0).tolist(), strict=True))
        if ratios
        else None,
    }


def _check_finite(plan: Plan, state: TrainingState, losses: Tensor, parts: tuple[Tensor, ...]) -> None:
    if losses.isfinite().all():
        return
    first = int((~losses.isfinite()).int().argmax())
    names = [plan.store.dialogue_ids[d] for d in parts[first].tolist()]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise UserError(
        f"{plan.store.path}: the loss became {float(losses[first])} in epoch {state.epoch + 1} on the batch of "
        f"dialogues {shown}; a lower train.lr may help"
    )
