"""The sample-weighted focal contrastive loss of MultiEMO (ACL 2023, section 3.5), all anchors at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12  # lower bound of 1 - p: with a fractional exponent, the gradient at 0 would be infinite


def sample_weights(class_counts: Tensor, rho: float) -> Tensor:
    """Weights of anchors by class, [C]: (N / n_c)^rho, normalised to sum to 1; 0 for a class without examples."""
    weights = torch.where(class_counts > 0, (class_counts.sum() / class_counts.clamp_min(1)) ** rho, 0)
    return weights / weights.sum().clamp_min(_TINY)


def focal_contrastive_loss(x: Tensor, labels: Tensor, weights: Tensor, temperature: float, gamma: float) -> Tensor:
    """Pulls utterances of one class together, hard pairs and rare classes more than others.

    Over the labelled utterances: p_ij is the softmax over j != i of <x_i, x_j> / temperature of the normalised
    representations; an anchor's loss is -w_{y_i} times the mean over j of its class, j != i, of (1 - p_ij)^gamma log
    p_ij, and 0 if there is none; the result is the mean over anchors (as in their code, which keeps the gradient of (1
    - p_ij)^gamma).

    Args:
        x: [N, D].
        labels: [N] int64; -1 where there is none.
        weights: [C] of `sample_weights`.
        temperature, gamma: see above.

    Returns:
        a scalar; 0 if fewer than two utterances are labelled.
    """
    counted = labels >= 0
    x = F.normalize(x, dim=-1)
    other = counted[None] & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    alike = other & counted[:, None] & (labels[:, None] == labels[None])
    # A softmax over nothing would be NaN; such an anchor has no pairs.
    scores = (x @ x.T / temperature).masked_fill(~other & other.any(1, keepdim=True), -torch.inf)
    log_p = scores.log_softmax(-1).masked_fill(~alike, -1.0)  # any finite value: it is masked below
    pairs = torch.where(alike, (-torch.expm1(log_p)).clamp_min(_TINY) ** gamma * log_p, 0)
    loss = -pairs.sum(1) / alike.sum(1).clamp_min(1) * weights.to(x.dtype)[labels.clamp_min(0)]
    return loss.sum() / counted.sum().clamp_min(1)
