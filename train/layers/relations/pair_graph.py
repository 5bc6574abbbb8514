"""GraphCFC's graph over one or two streams of utterances, and its layers: GATv2 attention and a feed-forward network.

A node is an utterance in one stream. Its sources are the utterances around it in its stream, itself, and the same
utterance in the other stream. Each edge has a vector, given by the speakers of both utterances regardless of order, or
by the fact that it joins two streams. The vector of an edge to oneself is the mean of those of a node's other edges.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ....toolkit.base.device import to_device
from ..dropout import Dropout
from .relational import relations_of_people

# Targets whose edges are in memory at a time: on a CPU few enough for its caches, elsewhere enough to fill the device.
CPU_ROWS, ROWS = 32, 512
SLOPE = 0.2  # of the leaky ReLU on attention scores


def pair_relations(speakers: int) -> int:
    """How many unordered pairs of speakers there are, with those of a speaker with themselves."""
    return speakers * (speakers + 1) // 2


class Edges(NamedTuple):
    """The sources of the nodes of S streams of N utterances.

    Attributes:
        mask: [S, N, K] bool, which of a node's K possible sources it has: the window in its stream, in which its own
            position is always there, and with two streams the same utterance in the other one.
        mix: [S, N, K, R] float, the share of each relation in the vector of an edge.
        past: number of positions in the window before a node's own.
    """

    mask: Tensor
    mix: Tensor
    past: int


class PairGraph:
    """Who is near whom, for any streams of the same utterances.

    Args:
        speakers: [N] int64 on the CPU, whose relations those of each utterance are, from 0; -1 for somebody unknown,
            whose relations are means, see `erc_toolkit.train.layers.relations.relational.relations_of_people`.
        people: [N] int64 on the CPU, who speaks each utterance, from 0.
        dialogue: [N] int64, number of each utterance's dialogue, from 0.
        past, future: how many utterances back and ahead the sources of an utterance reach.
        longest: number of utterances of the longest dialogue, or an upper bound.
        slots: number of speakers S.
        across: whether there will be two streams, which have a relation.
        dtype: of `Edges.mix`.

    Attributes:
        relations: [R] int64, which relations occur: pairs of speakers from 0, (0, 0), (0, 1) to (S - 1, S - 1), and
            after all of them that across two streams.
    """

    def __init__(
        self,
        speakers: Tensor,
        people: Tensor,
        dialogue: Tensor,
        past: int,
        future: int,
        longest: int,
        slots: int,
        across: bool,
        dtype: torch.dtype,
    ) -> None:
        self.past, self._future = min(past, longest - 1), min(future, longest - 1)
        most = speakers.max() + 2  # with -1; the same number in two dialogues may be two people with two speakers
        found, who = (people * most + speakers + 1).unique(return_inverse=True)
        shares = relations_of_people(_one_hot_pairs(slots), found % most - 1)  # on the host, as they decide shapes
        used = shares.flatten(0, 1).any(0).nonzero()[:, 0]
        relations = F.pad(used, (0, int(across)), value=pair_relations(slots))
        self.relations = to_device(relations, dialogue.device)
        shares, who = to_device(shares[..., used].to(dtype), dialogue.device), to_device(who, dialogue.device)
        near = self._windows(dialogue, -1) == dialogue[:, None]
        self._near = near & (torch.arange(near.shape[1], device=dialogue.device) != self.past)
        self._mix = F.pad(shares[self._windows(who, 0), who[:, None]], (0, int(across))) * self._near[..., None]

    def _windows(self, x: Tensor, fill: int | bool) -> Tensor:
        """[N] to [N, past + 1 + future]."""
        return F.pad(x, (self.past, self._future), value=fill).unfold(0, self.past + 1 + self._future, 1)

    def edges(self, present: list[Tensor]) -> Edges:
        """The edges among one or two streams; only utterances that are present ([N] bool of each) are sources."""
        mask = torch.stack([self._near & self._windows(there, False) for there in present])
        mix = self._mix.expand(len(present), -1, -1, -1) * mask[..., None]
        if len(present) == 2:
            both = (present[0] & present[1]).expand(2, -1)[..., None]
            mask = torch.cat([mask, both], 2)
            between = F.pad(mix.new_ones(1), (mix.shape[-1] - 1, 0)) * both[..., None]
            mix = torch.cat([mix, between], 2)
        itself = mix.sum(2, keepdim=True) / mask.sum(2).clamp_min(1)[..., None, None]
        before, after = mix[:, :, : self.past], mix[:, :, self.past + 1 :]
        mask = torch.cat([mask[..., : self.past], torch.ones_like(mask[..., :1]), mask[..., self.past + 1 :]], 2)
        return Edges(mask, torch.cat([before, itself, after], 2), self.past)


def _one_hot_pairs(slots: int) -> Tensor:
    """Which relation two speakers have, one-hot, [slots, slots, pairs] float32."""
    pairs = torch.zeros(slots, slots, pair_relations(slots))
    first, second = torch.triu_indices(slots, slots)
    number = torch.arange(len(first))
    pairs[first, second, number] = pairs[second, first, number] = 1
    return pairs


class PairAttention(nn.Module):
    """GATv2 (Brody et al. 2022) with edge vectors; the output is the mean over the heads.

    y_i = b + mean over heads of the sum over sources j of a_ij W_l x_j, a_ij the softmax over j of
    a^T LeakyReLU(W_l x_j + W_r x_i + W_e r_ij).

    Args:
        size: channels, also of each head and of the edge vectors.
        heads: how many.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.source, self.target = nn.Linear(size, heads * size), nn.Linear(size, heads * size)
        self.edge = nn.Linear(size, heads * size, bias=False)
        self.score = nn.Parameter(torch.empty(heads, size))
        self.bias = nn.Parameter(torch.zeros(size))
        for weight in (self.source.weight, self.target.weight, self.edge.weight, self.score):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, relations: Tensor, edges: Edges) -> Tensor:
        """Streams [S, N, size] and the vectors of the relations that occur [R, size] to [S, N, size]."""
        window = edges.mask.shape[2] - (len(x) - 1)
        source, target, edge = self.source(x), self.target(x), self.edge(relations)
        # A column for each head, 0 outside its own channels: one narrow product.
        own = torch.eye(self.heads, dtype=self.score.dtype, device=x.device)[:, None]
        column = (self.score[..., None] * own).flatten(0, 1)
        padded = F.pad(source, (0, 0, edges.past, window - 1 - edges.past))
        mix, outputs = edges.mix.to(edge.dtype), []
        step = CPU_ROWS if x.device.type == "cpu" else ROWS
        for start in range(0, x.shape[1], step):
            rows = slice(start, min(start + step, x.shape[1]))
            around = padded[:, rows.start : rows.stop + window - 1]
            across = source.flip(0)[:, rows] if len(x) == 2 else None
            parts = (around, across, target[:, rows], edge, column, edges.mask[:, rows], mix[:, rows])
            # One vector of all heads for each edge would be stored for the gradient.
            outputs.append(cast(Tensor, checkpoint(_attend, *parts, use_reentrant=False, preserve_rng_state=False)))
        return torch.cat(outputs, 1) + self.bias


def _attend(
    around: Tensor, across: Tensor | None, target: Tensor, edge: Tensor, column: Tensor, mask: Tensor, mix: Tensor
) -> Tensor:
    """The weighted mean of the sources of n targets, [S, n, size].

    Args:
        around: [S, n + window - 1, heads * size], mapped sources.
        across: [S, n, heads * size], those of the other stream, if there is one.
        target: [S, n, heads * size].
        edge: [R, heads * size].
        column: [heads * size, heads].
        mask, mix: as in `Edges`, of these targets.
    """
    window = around.shape[1] - target.shape[1] + 1
    sources = around.unfold(1, window, 1).transpose(2, 3)
    sources = sources.contiguous() if across is None else torch.cat([sources, across[:, :, None]], 2)
    scores = F.leaky_relu(sources + target[:, :, None] + mix @ edge, SLOPE) @ column
    weights = scores.masked_fill(~mask[..., None], -torch.inf).softmax(2).to(sources.dtype)  # [S, n, K, heads]
    heads = weights.shape[-1]
    values = sources.unflatten(-1, (heads, -1)).flatten(0, 1).flatten(1, 2)  # [S n, K heads, size]
    return (weights.flatten(0, 1).flatten(1)[:, None] @ values).view(*target.shape[:2], -1) / heads


class PairLayer(nn.Module):
    """y = LN(x + attention), then LN(y + feed-forward network with GELU), of twice the width inside.

    Args:
        size, heads: as for `PairAttention`.
        dropout: in the feed-forward network, inside and after it.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = PairAttention(size, heads)
        self.attention_norm, self.norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.inner, self.outer = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, relations: Tensor, edges: Edges) -> Tensor:
        """As `PairAttention.forward`."""
        x = self.attention_norm(x + self.attention(x, relations, edges))
        return self.norm(x + self.dropout(self.outer(self.dropout(F.gelu(self.inner(x))))))
