"""Graph convolution for deep stacks, with the stack's input and an identity in every layer (GCNII, arXiv 2007.02133).

The form is that of MMGCN and MM-DFN, whose code differs from GCNII: propagated and initial features have weights of their
own, and inside the weighted part alpha does not scale them.
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
        lam: how much the weights do in the first layers; the deeper, the nearer to the identity.
    """

    def __init__(self, size: int, depth: int, alpha: float, lam: float) -> None:
        super().__init__()
        self.theta, self.alpha = math.log(lam / depth + 1), alpha
        self.weight = nn.Parameter(torch.empty(2 * size, size).uniform_(-(size**-0.5), size**-0.5))  # their code

    def forward(self, propagated: Tensor, initial: Tensor) -> Tensor:
        """P x [..., size] and x0 [..., size] to [..., size], without an activation."""
        kept = torch.lerp(propagated, initial, self.alpha)
        return self.theta * (torch.cat([propagated, initial], -1) @ self.weight) + (1 - self.theta) * kept
