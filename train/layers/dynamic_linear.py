"""A linear map whose matrix is an input-dependent mixture of trainable matrices (as in HAIR, arXiv 2408.08091)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DynamicLinear(nn.Module):
    """x_i W_i with W_i = sum over k of s_ik Box_k and s_i = softmax(MLP(g_i) / temperature).

    The MLP halves the width, applies GELU and outputs one number per matrix. With a single matrix the map is static and
    there is no MLP.

    Args:
        size: channels of x, of the result and of g.
        boxes: number of matrices.
        temperature: values below 1 make the mixture sharper, values above 1 more even.
    """

    def __init__(self, size: int, boxes: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.mlp = None
        if boxes > 1:
            self.mlp = nn.Sequential(nn.Linear(size, size // 2), nn.GELU(), nn.Linear(size // 2, boxes))
        self.boxes = nn.Parameter(torch.empty(boxes, size, size))
        for box in self.boxes:
            nn.init.xavier_uniform_(box)

    def weights(self, g: Tensor) -> Tensor:
        """Prompts [N, size] to the weights of the matrices, [N, boxes]; each row sums to 1."""
        if self.mlp is None:
            return g.new_ones(len(g), 1)
        return (self.mlp(g) / self.temperature).softmax(-1)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """[N, size] to [N, size] with the `weights` of each row."""
        # One product of boxes * size columns, so that no matrix is built per row.
        return (weights[..., None] * x[:, None]).flatten(1) @ self.boxes.flatten(0, 1)
