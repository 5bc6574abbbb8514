"""Relational graph attention with one softmax over the neighbours (the "standard GAT"), and the base of DiffRGCN's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import is_fusible
from ..dropout import dropout, dropout_factor
from .fused_attention import Constants, graph_attention
from .graph import RELATIONS, Graph

RELATION_SIZE = 10
SLOPE = 0.2  # of the leaky ReLU on attention scores
GAIN = 1.414  # of the Xavier initialisation


class GraphAttention(nn.Module):
    """Concatenated heads of graph attention.

    Projected features of a head are split into as many branches as the class has; each scores the edges on its own,
    from the query's and the key's channels and from the relation (equations 9 to 12 of AMB-DSGDN). Here there is one
    branch of the full width, whose softmax is the weight of an edge.

    Args:
        d_in, d_out: channels, the latter of each head; a multiple of the number of branches.
        heads: number of heads, each with its own parameters.
        dropout: probability on the attention weights.
        normalised: whether LayerNorm (times `scale`) and GELU follow the aggregation.
    """

    branches = 1
    scale = 1.0

    def __init__(self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool = True) -> None:
        super().__init__()
        width = d_out // self.branches
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(d_in, heads, d_out))
        self.left = nn.Parameter(torch.empty(heads, self.branches, width))
        self.right = nn.Parameter(torch.empty(heads, self.branches, width))
        self.relation = nn.Parameter(torch.empty(heads, RELATIONS, RELATION_SIZE))
        self.relation_score = nn.Parameter(torch.empty(heads, self.branches, RELATION_SIZE))
        self.norm_weight = nn.Parameter(torch.empty(heads, d_out)) if normalised else None
        self.norm_bias = nn.Parameter(torch.empty(heads, d_out)) if normalised else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialises every parameter; score vectors like matrices of one column."""
        for head in range(self.weight.shape[1]):
            nn.init.xavier_uniform_(self.weight[:, head], gain=GAIN)
        for score in (self.left, self.right, self.relation_score):
            bound = GAIN * math.sqrt(6 / (score.shape[-1] + 1))
            nn.init.uniform_(score, -bound, bound)
        nn.init.normal_(self.relation)
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)

    def coefficient(self) -> Tensor | None:
        """The share of the second branch that is subtracted from the first, [heads]; None for one branch."""
        return None

    def combine(self, weights: Tensor) -> Tensor:
        """The branches' softmaxes [heads, branches, ...] to one weight per head [heads, ...]."""
        coefficient = self.coefficient()
        return (
            weights[:, 0] if coefficient is None else weights[:, 0] - coefficient[:, None, None, None] * weights[:, 1]
        )

    def relations(self, graph: Graph) -> Tensor:
        """A vector for each relation and head, [heads, RELATIONS, RELATION_SIZE]."""
        return self.relation

    def attention(self, projected: Tensor, graph: Graph) -> Tensor:
        """Weights of projected features [N, heads * d_out].

        Returns:
            [heads, count, size, span], block by block as the graph's mask; 0 where there is no edge.
        """
        return self.combine(self.softmaxes(projected, graph))

    def softmaxes(self, projected: Tensor, graph: Graph) -> Tensor:
        """As `attention`, of each branch: [heads, branches, count, size, span]."""
        heads, blocks, rows = self.weight.shape[1], graph.blocks, self.weight.shape[1] * self.branches
        # A column for the query and one for the key of every branch, 0 outside its own channels: one narrow product.
        own = torch.eye(rows, dtype=projected.dtype, device=projected.device)[:, None]
        columns = [(score.flatten(0, 1)[..., None] * own).flatten(0, 1) for score in (self.left, self.right)]
        query, key = (projected @ torch.cat(columns, 1)).T[..., None].chunk(2)  # [rows, N, 1] each
        table = self.scores_of_relations(graph)
        by_relation = (graph.which(table.dtype) @ table.T).permute(2, 0, 1)[:, None]  # [rows, 1, size, span]
        scores = F.leaky_relu(blocks.own(query) + blocks.seen(key).transpose(2, 3) + by_relation, SLOPE)
        return scores.masked_fill(~graph.mask, -torch.inf).softmax(-1).unflatten(0, (heads, self.branches))

    def scores_of_relations(self, graph: Graph) -> Tensor:
        """The score of each relation, [heads * branches, RELATIONS]."""
        # One of six numbers per branch, so no ten channels per edge are needed.
        return (self.relation_score @ self.relations(graph).transpose(1, 2)).flatten(0, 1)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Node features [N, d_in] to [N, heads * d_out]."""
        if is_fusible(x, self.weight):
            return self._fused(x, graph)
        projected = x @ self.weight.flatten(1)  # equation 9
        weights = dropout(self.attention(projected, graph), self.dropout, self.training)
        # The concatenated values of all branches (equations 11 and 16) are the projected features again.
        y = graph.blocks.gather(weights, projected.unflatten(1, self.weight.shape[1:]).transpose(0, 1))  # equation 17
        if self.norm_weight is not None and self.norm_bias is not None:
            y = F.layer_norm(y, y.shape[-1:])
            y = F.gelu(torch.addcmul(self.scale * self.norm_bias[:, None], y, self.scale * self.norm_weight[:, None]))
        return y.transpose(0, 1).flatten(1)

    def _fused(self, x: Tensor, graph: Graph) -> Tensor:
        """The same in one operation."""
        heads, factor = self.weight.shape[1], None
        if self.training and self.dropout:
            factor = dropout_factor((heads, *graph.mask.shape), self.dropout, x.dtype)
        scale = None if self.norm_weight is None else self.scale
        constants = Constants(
            ~graph.mask, graph.which(x.dtype), graph.blocks, heads, self.branches, SLOPE, factor, scale
        )
        return graph_attention(
            x,
            self.weight.flatten(1),
            self.left,
            self.right,
            self.scores_of_relations(graph),
            self.coefficient(),
            self.norm_weight,
            self.norm_bias,
            constants,
        )
