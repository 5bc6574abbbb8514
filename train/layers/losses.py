"""The classification losses that models share. Those of MultiEMO are in `contrastive` and `soft_hgr`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_GAMMA = 2.5  # of `released_loss`
_TINY = 1e-12  # a sum of weights below it is an empty sum


def weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy as a weighted mean over the labelled utterances: sum of w_y (-log p_y) over the sum of w_y.

    Args:
        logits: [N, C].
        labels: [N] int64; -1 where there is none.
        class_weights: [C], or None for equal ones.

    Returns:
        a scalar; 0 if nothing is labelled.
    """
    return _mean(F.cross_entropy(logits, labels.clamp_min(0), reduction="none"), labels, class_weights)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float, class_weights: Tensor | None = None, detach: bool = True
) -> Tensor:
    """Focal loss, -w_y (1 - p_y)^gamma log p_y, a mean over the labelled utterances that is not divided by the weights.

    Args:
        logits, labels, class_weights: as for `weighted_loss`.
        gamma: exponent; with 0 this is the cross-entropy.
        detach: whether (1 - p_y)^gamma is a constant for the gradient.
    """
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    log_p = logits.log_softmax(-1).gather(-1, labels.clamp_min(0)[:, None])[:, 0]
    p = log_p.detach().exp() if detach else log_p.exp()
    counted = (labels >= 0).to(logits.dtype)
    weight = counted if class_weights is None else counted * class_weights.to(logits.dtype)[labels.clamp_min(0)]
    return -(weight * (1 - p) ** gamma * log_p).sum() / counted.sum().clamp_min(1)


def released_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """What the code of MMGCN, M3NET and CFN-ESA minimises on MELD in place of a focal loss.

    The mean over labelled utterances and all classes c of -(1 - [c = y] log p_c)^2.5 log p_c, without class weights. A
    focal loss would have p where this has log p, and only the label's class.

    Args:
        logits, labels: as for `weighted_loss`.

    Returns:
        a scalar; 0 if nothing is labelled.
    """
    log_p = (logits.float() if logits.dtype == torch.bfloat16 else logits).log_softmax(-1)
    own = torch.zeros_like(log_p).scatter(1, labels.clamp_min(0)[:, None], 1)
    losses = (-((1 - own * log_p) ** _GAMMA) * log_p).mean(1)
    counted = (labels >= 0).to(losses.dtype)
    return (counted * losses).sum() / counted.sum().clamp_min(1)


def _mean(losses: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    counted = (labels >= 0).to(losses.dtype)
    weight = counted if class_weights is None else counted * class_weights.to(losses.dtype)[labels.clamp_min(0)]
    return (weight * losses).sum() / weight.sum().clamp_min(_TINY)
