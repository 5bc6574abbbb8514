"""Adaptive modality dropout (AMB-DSGDN, section 4.6; equations 19 to 27), without leaving the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5


def weighted_f1(predicted: Tensor, labels: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Support-weighted F1, with 0 for undefined values; equals scikit-learn's with `zero_division=0`.

    Args:
        predicted, labels: int64 of one shape; `labels` may have any value where `counted` is False.
        counted: bool of that shape, which entries take part.
        classes: number of classes.

    Returns:
        A float32 scalar in [0, 1]; 0 if nothing is counted.
    """
    correct, support, chosen = _counts(predicted, labels, counted, classes)
    f1 = 2 * correct / (support + chosen).clamp_min(1)
    return (f1 * support).sum() / support.sum().clamp_min(1)


def precision_times_recall(predicted: Tensor, labels: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Mean over classes of precision times recall, weighted by inverse frequency: p_m of equation 19.

    The weight N / count is infinite for a class without a label in the batch; such classes are excluded from both sums.
    Arguments and result are those of `weighted_f1`.
    """
    correct, support, chosen = _counts(predicted, labels, counted, classes)
    weight = torch.where(support > 0, 1 / support.clamp_min(1), 0)  # N cancels
    product = correct / chosen.clamp_min(1) * (correct / support.clamp_min(1))
    total = weight.sum()
    return (weight * product).sum() / torch.where(total > 0, total, 1)


def _counts(predicted: Tensor, labels: Tensor, counted: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Correct predictions, labels and predictions of every class, [C] float32 each, among the counted entries."""
    # A product of indicators: unlike with bincount, the host need not wait for the data. Counts are exact.
    index = torch.arange(classes, device=labels.device)
    is_label = ((labels[..., None] == index) & counted[..., None]).flatten(0, -2).float()
    is_predicted = (predicted[..., None] == index).flatten(0, -2).float()
    confusion = is_label.T @ is_predicted
    return confusion.diagonal(), confusion.sum(1), confusion.sum(0)


def dropout_ratios(
    performance: Tensor, base: float, scale: float, *, clipped: bool = True, guarded: bool = True
) -> Tensor:
    """Probability of dropping each modality (equations 20 to 24).

    Args:
        performance: [M] p_m of every modality (equation 19), M of them; for `guarded=False` at least two.
        base: q_base.
        scale: lambda of equation 24.
        clipped: equation 23 averages max(r, 0) in place of r, as in the released code.
        guarded: as in the released code, a modality with (nearly) zero performance is not a reference, and one whose
            mean ratio is not above 0 is never dropped. With both options the weakest modality is never dropped.

    Returns:
        [M] q_m in [0, 1].
    """
    ratio = performance[:, None] / (performance[None, :] + EPSILON) - 1  # equations 20 and 21, [m, j]
    used = ~torch.eye(len(performance), dtype=torch.bool, device=performance.device)
    if guarded:
        used = used & (performance >= EPSILON)[None, :]
    positive = ratio.clamp_min(0)
    # Equation 22; NaN if there is no reference.
    weight = positive.masked_fill(~used, -torch.inf).softmax(1).nan_to_num(0)
    averaged = positive if clipped else ratio
    mean = (weight * averaged).sum(1) / used.sum(1).clamp_min(1)  # equation 23
    q = base * (1 + scale * mean)  # equation 24
    if guarded:
        q = torch.where(mean > 0, q, 0)
    return q.clamp(0, 1)


class DroppedModalities(NamedTuple):
    """What modality dropout did to a batch.

    Attributes:
        factor: [M, B] factor on each dialogue's features of each modality: 0 or 1 / (1 - theta).
        kept: [M, B] bool, where the factor is not 0.
        ratios: [M] q_m.
    """

    factor: Tensor
    kept: Tensor
    ratios: Tensor


def drop_modalities(ratios: Tensor, dialogues: int) -> DroppedModalities:
    """Draws which dialogue loses which modality (equations 25 to 27), one draw per dialogue and modality.

    All modalities have the same width here, so theta is the mean of the ratios. Ratios have no gradient, so a plain
    product with `factor` has the backward rule of equation 27.
    """
    draw = torch.rand(len(ratios), dialogues, device=ratios.device)
    kept = draw >= ratios[:, None]
    theta = ratios.mean().clamp_max(1 - EPSILON)
    return DroppedModalities(kept / (1 - theta), kept, ratios)
