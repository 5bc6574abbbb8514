"""One optimisation step, shared by training and by the measurement of its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...toolkit.base.device import matrix_precision, products_in
from ..data.batch import Batch
from ..models.base import Model, ModelOutput
from ..models.layer_mixed import LayerMixed
from ..settings import TrainConfig

# Learning rate of layer weights. With Adam a number moves by about the rate in each step, and a softmax needs
# differences of one or more: with a model's rate (1e-5 to 2e-3) it would still be the mean after a few hundred steps.
LAYER_LR = 0.01


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


# Forward and backward pass of a batch in an epoch: the loss and the ratios of `StepOutcome`; gradients are in the
# parameters' `grad`.
Gradients = Callable[[Batch, int], tuple[Tensor, Tensor | None]]


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of `train.optimizer` for the trainable parameters; layer weights are a group of their own."""
    groups = [{"params": [p for p in part.parameters() if p.requires_grad], **own} for part, own in _parts(model)]
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _parts(model: nn.Module) -> list[tuple[nn.Module, dict[str, float]]]:
    """The groups of an optimizer in order, with what differs from the run's settings."""
    if isinstance(model, LayerMixed):
        return [(model.model, {}), (model.mix, {"lr": LAYER_LR, "weight_decay": 0.0})]
    return [(model, {})]


def set_learning_rates(optimizer: torch.optim.Optimizer, settings: TrainConfig, factor: float) -> float:
    """Gives each group of an optimizer of `make_optimizer` its rate times a factor; returns the model's."""
    rates = settings.lr * factor, LAYER_LR * factor
    for group, rate in zip(optimizer.param_groups, rates, strict=False):  # the second one only with layer weights
        group["lr"] = rate
    return rates[0]


def gradients(
    model: Model[Any], settings: TrainConfig, batch: Batch, forward: Callable[[], ModelOutput]
) -> tuple[Tensor, Tensor | None]:
    """Loss and backward pass of what `forward` returns for a batch; see `Gradients`."""
    model.zero_grad(set_to_none=True)
    with products_in(settings.precision, batch.device):
        with matrix_precision(settings.precision, batch.device):
            output = forward()
            loss = model.loss(output, batch)
        loss.backward()
    return loss.detach(), getattr(output, "ratios", None)


def training_step(
    model: Model[Any],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    epoch: int,
    settings: TrainConfig,
    computed: Gradients | None = None,
) -> StepOutcome:
    """Forward, backward, clipping and an update at the optimizer's learning rate.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        batch: some dialogues.
        epoch: counted from 0, for schedules within the model.
        settings: `precision` and `max_grad_norm`.
        computed: how the gradients are computed (`erc_toolkit.train.loop.execution`); None is one operation after the
            other.
    """
    if computed is None:
        loss, ratios = gradients(model, settings, batch, lambda: model(batch, epoch))
    else:
        loss, ratios = computed(batch, epoch)
    norm = None
    if settings.max_grad_norm is not None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).detach()
    optimizer.step()
    return StepOutcome(loss, norm, ratios)
