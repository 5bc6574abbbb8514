"""The weighted sum of an encoder's layers, with learned weights.

Tensors: N utterances, L layers, D columns of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerMix(nn.Module):
    """The weighted sum of an encoder's layers: a softmax over one number per layer, all of them 0 at first (the mean).

    Args:
        layers: L.

    Attributes:
        weight: [L] float, before the softmax.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[N, L * D], the layers one after the other, to [N, D]."""
        shares = self.weight.softmax(0).to(x.dtype)
        # Not a matrix product, which train.precision would round: the weights are about as precise as what they weigh.
        return (x.unflatten(-1, (len(shares), -1)) * shares[:, None]).sum(-2)
