"""Convolutions over the directed speaker graph of packed dialogues, with learned edge weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..blocks import Blocks
from .graph import speaker_graphs

KINDS = 5  # of edges: to itself; to the same speaker's past and future; to another speaker's past and future


def edge_kinds(speakers: Tensor, dialogue: Tensor, window: int, longest: int) -> tuple[Tensor, Blocks]:
    """The kinds of the speaker graph's edges.

    Args:
        speakers, dialogue, window, longest: as for `speaker_graphs`.

    Returns:
        [KINDS, count, size, span] bool in the order of KINDS, at most one of them True for a pair, and the blocks.
        Every row has its self-loop, including those that only pad the last block.
    """
    inter, intra = speaker_graphs(speakers, dialogue, window, longest)
    blocks = inter.blocks
    past, future = blocks.distance > 0, blocks.distance < 0
    own = intra.mask & (blocks.distance == 0)
    return torch.stack([own, intra.mask & past, intra.mask & future, inter.mask & past, inter.mask & future]), blocks


class EdgeWeights(nn.Module):
    """Weight of the edge from i to j: the softmax over the neighbours j of i of x_i W x_j (as DialogueGCN, equation 3).

    It differs from that of the edge from j to i, so the graph is directed.

    Args:
        size: channels of the nodes.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bilinear = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, kinds: Tensor, blocks: Blocks) -> Tensor:
        """Nodes [N, size] to weights [count, size, span], 0 where there is no edge."""
        scores = blocks.own(self.bilinear(x)[None])[0] @ blocks.seen(x[None])[0].transpose(1, 2)
        return scores.masked_fill(~kinds.any(0), -torch.inf).softmax(-1)


class KindConvolution(nn.Module):
    """Relational graph convolution: a matrix for each kind of edge, and weighted edges.

    y_i = sum over j of weight_ij W_kind(i, j) x_j, plus a bias.

    Args:
        d_in, d_out: channels.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_in, KINDS * d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor, weights: Tensor, kinds: Tensor, blocks: Blocks) -> Tensor:
        """Nodes [N, d_in] and weights [count, size, span] to [N, d_out]."""
        values = self.linear(x).unflatten(-1, (KINDS, -1)).transpose(0, 1)
        return blocks.gather(weights * kinds, values).sum(0) + self.bias


class WeightedConvolution(nn.Module):
    """Graph convolution with weights but no kinds of edges: y_i = W_0 x_i + sum over j of weight_ij W x_j, plus a bias.

    Args:
        d_in, d_out: channels.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(d_in, d_out), nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Tensor, weights: Tensor, blocks: Blocks) -> Tensor:
        """Nodes [N, d_in] and weights [count, size, span] to [N, d_out]."""
        return self.own(x) + blocks.gather(weights[None], self.others(x)[None])[0]
