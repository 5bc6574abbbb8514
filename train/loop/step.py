"""One optimisation step: the same for a training and for what measures its cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...toolkit.base.device import matrix_precision
from ..data.batch import Batch
from ..settings import TrainConfig


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step leaves, on the device, so that nothing waits for it.

    Attributes:
        loss: a scalar.
        grad_norm: a scalar, norm of the gradient before it was shortened; None where train.max_grad_norm is.
        ratios: (M,) dropout probability of each modality; None where the step used no modality dropout.
    """

    loss: Tensor
    grad_norm: Tensor | None
    ratios: Tensor | None


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of `train.optimizer` for the parameters that are trained."""
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, epoch: int, settings: TrainConfig
) -> StepOutcome:
    """Forward, backward, clipping and an update at the optimizer's learning rate.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        batch: some dialogues.
        epoch: counted from 0, for what the model changes during training.
        settings: `precision` and `max_grad_norm`.
    """
    with matrix_precision(settings.precision, batch.labels.device):
        output = model(batch, epoch)
        loss = model.loss(output, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = None
    if settings.max_grad_norm is not None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).detach()
    optimizer.step()
    return StepOutcome(loss.detach(), norm, getattr(output, "ratios", None))
