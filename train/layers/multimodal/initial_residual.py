"""Graph convolution for deep stacks, with the stack's input and an identity in every layer (GCNII, arXiv 2007.02133).

It follows MMGCN and MM-DFN, whose code differs from GCNII: propagated and initial features have separate weights, and
alpha does not scale them in the weighted part.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class InitialResidualConvolution(nn.Module):
    """theta [P x; x0] W + (1 - theta) ((1 - alpha) P x + alpha x0) with theta = ln(lam / depth + 1).

    Args:
        size: channels in and out.
        depth: number of the layer in its stack, from 1.
        alpha: share of the initial features.
        lam: strength of the weights in the first layers; deeper layers are closer to the identity.
    """

    def __init__(self, size: int, depth: int, alpha: float, lam: float) -> None:
        super().__init__()
        self.theta, self.alpha = math.log(lam / depth + 1), alpha
        self.weight = nn.Parameter(torch.empty(2 * size, size).uniform_(-(size**-0.5), size**-0.5))  # as in their code

    def forward(self, propagated: Tensor, initial: Tensor) -> Tensor:
        """P x [..., size] and x0 [..., size] to [..., size], without an activation."""
        kept = torch.lerp(propagated, initial, self.alpha)
        return self.theta * (torch.cat([propagated, initial], -1) @ self.weight) + (1 - self.theta) * kept
