"""Differential graph attention and AMB-DSGDN's block built from it (paper section 4.5)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dropout import Dropout
from .graph import Graph
from .graph_attention import GraphAttention

LAMBDA_STD = 0.1  # the paper has variance 0.1 (its exponentials then reach hundreds); the released code has std 0.1


def lambda_init(depth: int = 1) -> float:
    """Initial differential coefficient (text below equation 14); 0.355509 at depth 1, used in every layer."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


class DiffGraphAttention(GraphAttention):
    """Concatenated heads of differential graph attention, equations 9 to 17.

    Projected features of a head are split into a positive and a negative half of k = d_out / 2 channels. Each half
    scores the edges on its own; the weights are the difference of the two softmaxes. If a parameter has two rows, the
    first belongs to the positive branch, the second to the negative one.

    Args:
        d_in, d_out, heads, dropout: as for `GraphAttention`; `d_out` is even.
        normalised: whether LayerNorm, the factor 1 - lambda_init and GELU follow the aggregation, as in the released
            code; the paper does not mention them.
    """

    branches = 2
    scale = 1 - lambda_init()

    def __init__(self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool = True) -> None:
        super().__init__(d_in, d_out, heads, dropout, normalised)
        # Here the two rows are the exponentials of equation 13.
        self.lambda_left = nn.Parameter(torch.empty(heads, 2, d_out // 2).normal_(std=LAMBDA_STD))
        self.lambda_right = nn.Parameter(torch.empty(heads, 2, d_out // 2).normal_(std=LAMBDA_STD))

    def coefficient(self) -> Tensor:
        """lambda of every head, [heads] (equations 13 and 14); `combine` is equation 15."""
        first, second = (self.lambda_left * self.lambda_right).sum(-1).exp().unbind(-1)
        return first - second + lambda_init()


class DiffRGCN(nn.Module):
    """Heads of differential graph attention, an output attention layer, a linear map, residual and LayerNorm.

    Equation 18 and the text below it. Every head has the full width, so their concatenation is `heads` times as wide.

    Args:
        size: channels in and out.
        heads: number of attention heads (2 in the released code, regardless of its options).
        dropout: probability on the concatenated heads and, with `dropout_everywhere`, on input and attention weights.
        normalised: of every attention layer, see `DiffGraphAttention`; with it a GELU follows the output layer.
        dropout_everywhere: as in the released code.
        layer: a class or function that replaces differential attention in an ablation and takes the same arguments.
    """

    def __init__(
        self,
        size: int,
        heads: int = 2,
        dropout: float = 0.2,
        normalised: bool = True,
        dropout_everywhere: bool = True,
        layer: Callable[..., nn.Module] = DiffGraphAttention,
    ) -> None:
        super().__init__()
        self.normalised = normalised
        inner = dropout if dropout_everywhere else 0.0
        self.heads = layer(size, size, heads, inner, normalised)
        self.output = layer(heads * size, size, 1, inner, normalised)
        self.input_dropout = Dropout(inner)
        self.linear = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Node features [N, size] to the same shape."""
        y = self.input_dropout(x)
        y = self.dropout(self.heads(y, graph))  # equation 18
        y = self.output(y, graph)
        if self.normalised:
            y = F.gelu(y)
        return self.norm(x + self.linear(y))
