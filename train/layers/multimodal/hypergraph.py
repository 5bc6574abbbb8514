"""A graph over the utterances and modalities of dialogues, and M3NET's two convolutions over it, after its code.

Every node is an utterance in one modality. Its hyperedges are the dialogue in that modality and the utterance in all
modalities; two nodes that share a hyperedge are neighbours. Nodes of absent features are in none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Hypergraph:
    """The nodes of B dialogues of up to L utterances in M modalities, and the weights of an M3NET batch.

    Attributes:
        there: [B, M, L] bool, which nodes exist.
        nodes: [B, M, L] float, weights of the nodes in the mean over a hyperedge.
        dialogues: [B, M, 1] float, weights of the hyperedges of a modality.
        utterances: [B, 1, L] float, weights of the hyperedges of an utterance.
    """

    there: Tensor
    nodes: Tensor
    dialogues: Tensor
    utterances: Tensor

    def degrees(self) -> Tensor:
        """The number of every node's neighbours, [B, M, L] int64; meaningless for nodes that do not exist."""
        return self.there.sum(1, keepdim=True) + self.there.sum(2, keepdim=True) - 2


class HypergraphConvolution(nn.Module):
    """Nodes to hyperedges and back, then a bias and LeakyReLU; there is no weight matrix in M3NET's.

    A hyperedge has the sum of its nodes over the sum of their weights; a node the sum of its hyperedges over the sum of
    theirs. Hyperedges' weights do not weigh the sum, as in the authors' code.

    Args:
        size: channels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, graph: Hypergraph) -> Tensor:
        """[B, M, L, size] to the same; nodes that do not exist have values, which are never read."""
        x = torch.where(graph.there[..., None], x, 0)
        weights = torch.where(graph.there, graph.nodes, 0)
        # The hyperedges of a modality [B, M, 1, size] and of an utterance [B, 1, L, size].
        edges = [x.sum(at, keepdim=True) * _inverse(weights.sum(at, keepdim=True))[..., None] for at in (2, 1)]
        y = (edges[0] + edges[1]) * _inverse(graph.dialogues + graph.utterances)[..., None]
        return F.leaky_relu(y + self.bias)


class FrequencyConvolution(nn.Module):
    """Messages of neighbours, each with a coefficient from -1 to 1 that passes low or high frequencies.

    The sum over neighbours j of tanh(a^T [x_i; x_j] + b) x_j / sqrt(d_i d_j), d the number of neighbours.

    Args:
        size: channels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * size, 1)

    def forward(self, x: Tensor, graph: Hypergraph) -> Tensor:
        """[B, M, L, size] to the same; 0 where a node does not exist."""
        left, right = self.gate.weight.view(2, -1)
        own, other = x @ left + self.gate.bias, x @ right  # [B, M, L] each
        scale = torch.where(graph.there, graph.degrees().clamp_min(1).to(x.dtype).rsqrt(), 0)
        within = _messages(x, own, other, scale)
        across = _messages(*(y.transpose(1, 2) for y in (x, own, other, scale)))
        return within + across.transpose(1, 2)


def _messages(x: Tensor, own: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """Messages among the S nodes of each group: x [..., S, D], the others [..., S]."""
    weights = torch.tanh(own[..., :, None] + other[..., None, :]) * scale[..., :, None] * scale[..., None, :]
    itself = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    return weights.masked_fill(itself, 0).to(x.dtype) @ torch.where(scale[..., None] > 0, x, 0)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0, also in the gradient."""
    zero = x == 0
    return torch.where(zero, 0, 1 / x.masked_fill(zero, 1))
