"""Adaptive modality dropout (AMB-DSGDN, section 4.6) as the released code has it, without leaving the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5


def weighted_f1(predicted: Tensor, labels: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Support-weighted F1, with 0 for what is undefined; equals scikit-learn's with `zero_division=0`.

    Args:
        predicted, labels: int64 of one shape; `labels` may hold anything where `counted` is False.
        counted: bool of that shape, which entries take part.
        classes: number of classes.

    Returns:
        A float32 scalar in [0, 1]; 0 where nothing is counted.
    """
    # A product of indicators: unlike a bincount it needs no look at the data from the host. Counts are exact in float32.
    index = torch.arange(classes, device=labels.device)
    is_label = ((labels[..., None] == index) & counted[..., None]).flatten(0, -2).float()
    is_predicted = (predicted[..., None] == index).flatten(0, -2).float()
    confusion = is_label.T @ is_predicted
    support, chosen = confusion.sum(1), confusion.sum(0)
    f1 = 2 * confusion.diagonal() / (support + chosen).clamp_min(1)
    return (f1 * support).sum() / support.sum().clamp_min(1)


def dropout_ratios(performance: Tensor, base: float, scale: float) -> Tensor:
    """Probability of dropping each modality (equations 20 to 24).

    As in the released code, and unlike equation 23, negative ratios are clipped before they are averaged, a modality
    that performs (nearly) at zero is no yardstick, and a modality that outperforms none is never dropped: so no
    dialogue loses its weakest modality.

    Args:
        performance: [M] p_m, each modality's weighted F1.
        base: q_base.
        scale: lambda of equation 24.

    Returns:
        [M] q_m in [0, 1].
    """
    ratio = (performance[:, None] / (performance[None, :] + EPSILON) - 1).clamp_min(0)  # [m, j]
    others = ~torch.eye(len(performance), dtype=torch.bool, device=performance.device)
    used = others & (performance >= EPSILON)[None, :]
    weight = ratio.masked_fill(~used, -torch.inf).softmax(1).nan_to_num(0)  # NaN where there is no yardstick at all
    mean = (weight * ratio).sum(1) / used.sum(1).clamp_min(1)
    return torch.where(mean > 0, base * (1 + scale * mean), 0).clamp(0, 1)


class Dropped(NamedTuple):
    """What modality dropout did to a batch.

    Attributes:
        factor: [M, B] what each dialogue's features of each modality are multiplied with: 0 or 1 / (1 - theta).
        kept: [M, B] bool, where that is not 0.
        ratios: [M] q_m.
    """

    factor: Tensor
    kept: Tensor
    ratios: Tensor


def drop_modalities(ratios: Tensor, dialogues: int) -> Dropped:
    """Draws which dialogue loses which modality (equations 25 and 26), one draw per dialogue and modality.

    All modalities are equally wide here, so theta is the mean of the ratios.
    """
    draw = torch.rand(len(ratios), dialogues, device=ratios.device)
    kept = draw >= ratios[:, None]
    theta = ratios.mean().clamp_max(1 - EPSILON)
    return Dropped(kept / (1 - theta), kept, ratios)
