"""Differential graph attention and the block that AMB-DSGDN builds from it (paper section 4.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.layers.dropout import Dropout, dropout
from train.layers.graph import RELATIONS, Graph

RELATION_SIZE = 10
SLOPE = 0.2  # of the leaky ReLU on attention scores
GAIN = 1.414  # of the Xavier initialisation
LAMBDA_STD = 0.1  # the paper says variance 0.1 (its exponentials then reach hundreds); the released code has std 0.1


def lambda_init(depth: int = 1) -> float:
    """Start of the differential coefficient (text below equation 14); 0.355509 at depth 1, where every layer stands."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


class DiffGraphAttention(nn.Module):
    """Heads of differential graph attention, equations 9 to 17, side by side.

    Projected features of a head are split into a positive and a negative half of k = d_out / 2 channels. Each half
    scores the edges on its own; the weights are the difference of the two softmaxes.

    Args:
        d_in, d_out: channels, the latter of each head; `d_out` is even.
        heads: how many heads, each with parameters of its own.
        dropout: probability on the attention weights.
        normalised: whether LayerNorm, the factor 1 - lambda_init and GELU follow the aggregation, as in the released
            code; the paper does not mention them.
    """

    def __init__(self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool = True) -> None:
        super().__init__()
        half = d_out // 2
        self.lambda_init = lambda_init()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(d_in, heads, d_out))
        # Of two rows, the first belongs to the positive branch, the second to the negative one.
        self.left = nn.Parameter(torch.empty(heads, 2, half))
        self.right = nn.Parameter(torch.empty(heads, 2, half))
        self.relation = nn.Parameter(torch.empty(heads, RELATIONS, RELATION_SIZE))
        self.relation_score = nn.Parameter(torch.empty(heads, 2, RELATION_SIZE))
        # Here the two rows are the exponentials of equation 13.
        self.lambda_left = nn.Parameter(torch.empty(heads, 2, half))
        self.lambda_right = nn.Parameter(torch.empty(heads, 2, half))
        self.norm_weight = nn.Parameter(torch.empty(heads, d_out)) if normalised else None
        self.norm_bias = nn.Parameter(torch.empty(heads, d_out)) if normalised else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every parameter anew; score vectors as if each were a matrix of one column."""
        for head in range(self.weight.shape[1]):
            nn.init.xavier_uniform_(self.weight[:, head], gain=GAIN)
        for score in (self.left, self.right, self.relation_score):
            bound = GAIN * math.sqrt(6 / (score.shape[-1] + 1))
            nn.init.uniform_(score, -bound, bound)
        nn.init.normal_(self.relation)
        for vector in (self.lambda_left, self.lambda_right):
            nn.init.normal_(vector, std=LAMBDA_STD)
        if self.norm_weight is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)

    def coefficient(self) -> Tensor:
        """lambda of every head, [heads] (equations 13 and 14)."""
        first, second = (self.lambda_left * self.lambda_right).sum(-1).exp().unbind(-1)
        return first - second + self.lambda_init

    def attention(self, projected: Tensor, graph: Graph) -> Tensor:
        """Differential weights (equations 10 to 15) of projected features [N, heads * d_out].

        Returns:
            [heads, count, size, span], block by block as the graph's mask; 0 where there is no edge.
        """
        heads, blocks = self.weight.shape[1], graph.blocks
        # A column for the query and one for the key of every branch, 0 outside its own channels: one narrow product.
        own = torch.eye(2 * heads, dtype=projected.dtype, device=projected.device)[:, None]
        columns = [(score.flatten(0, 1)[..., None] * own).flatten(0, 1) for score in (self.left, self.right)]
        query, key = (projected @ torch.cat(columns, 1)).T[..., None].chunk(2)  # [2 heads, N, 1] each
        # A relation's score is one of six numbers per branch; nothing of ten channels per edge is needed.
        table = torch.einsum("hrc,hsc->rhs", self.relation, self.relation_score).flatten(1)
        by_relation = F.embedding(graph.relation, table).permute(2, 0, 1)[:, None]  # [2 heads, 1, size, span]
        scores = F.leaky_relu(blocks.own(query) + blocks.seen(key).transpose(2, 3) + by_relation, SLOPE)
        weights = scores.masked_fill(~graph.mask, -torch.inf).softmax(-1).unflatten(0, (heads, 2))
        return weights[:, 0] - self.coefficient()[:, None, None, None] * weights[:, 1]

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Node features [N, d_in] to [N, heads * d_out]."""
        projected = x @ self.weight.flatten(1)  # equation 9
        weights = dropout(self.attention(projected, graph), self.dropout, self.training)
        # Values of both halves side by side (equations 11 and 16) are the projected features again.
        y = graph.blocks.gather(weights, projected.unflatten(1, self.weight.shape[1:]).transpose(0, 1))  # equation 17
        if self.norm_weight is not None:
            scale = 1 - self.lambda_init
            y = F.layer_norm(y, y.shape[-1:])
            y = F.gelu(torch.addcmul(scale * self.norm_bias[:, None], y, scale * self.norm_weight[:, None]))
        return y.transpose(0, 1).flatten(1)


class DiffRGCN(nn.Module):
    """Heads of differential graph attention, an output attention layer, a linear map, residual and LayerNorm.

    Equation 18 and the text below it. Every head has the full width, so their concatenation is `heads` times as wide.

    Args:
        size: channels in and out.
        heads: how many attention heads (2 in the released code, whatever its options say).
        dropout: probability on the concatenated heads and, with `dropout_everywhere`, on input and attention weights.
        normalised: of every attention layer, see `DiffGraphAttention`; with it a GELU follows the output layer.
        dropout_everywhere: as in the released code.
    """

    def __init__(
        self, size: int, heads: int = 2, dropout: float = 0.2, normalised: bool = True, dropout_everywhere: bool = True
    ) -> None:
        super().__init__()
        self.normalised = normalised
        inner = dropout if dropout_everywhere else 0.0
        self.heads = DiffGraphAttention(size, size, heads, inner, normalised)
        self.output = DiffGraphAttention(heads * size, size, 1, inner, normalised)
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
