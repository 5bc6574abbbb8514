"""One optimisation step, shared by training and by the measurement of its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...toolkit.base.device import matrix_precision, products_in
from ..data.batch import Batch
from ..models.base import Model
from ..settings import TrainConfig


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of a step, kept on the device so that nothing waits for it.

    Attributes:
        loss: a scalar.
        grad_norm: a scalar, norm of the gradient before clipping; None if train.max_grad_norm is None.
        ratios: (M,) dropout probability of each modality; None if the step used no modality dropout.
    """

    loss: Tensor
    grad_norm: Tensor | None
    ratios: Tensor | None


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of `train.optimizer` for the trainable parameters."""
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def training_step(
    model: Model[Any], optimizer: torch.optim.Optimizer, batch: Batch, epoch: int, settings: TrainConfig
) -> StepOutcome:
    """Forward, backward, clipping and an update at the optimizer's learning rate.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        batch: some dialogues.
        epoch: counted from 0, for schedules within the model.
        settings: `precision` and `max_grad_norm`.
    """
    device = batch.labels.device
    optimizer.zero_grad(set_to_none=True)
    with products_in(settings.precision, device):
        with matrix_precision(settings.precision, device):
            output = model(batch, epoch)
            loss = model.loss(output, batch)
        loss.backward()
    norm = None
    if settings.max_grad_norm is not None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).detach()
    optimizer.step()
    return StepOutcome(loss.detach(), norm, getattr(output, "ratios", None))
