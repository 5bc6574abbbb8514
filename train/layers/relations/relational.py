"""Relational graphs of packed dialogues in a window, and layers over them (DialogueGCN, COGMEN).

They work block by block (`erc_toolkit.train.layers.blocks`), with time and memory linear in the number of utterances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.device import to_device
from ..blocks import Blocks


class RelationalGraph:
    """Edges from every utterance i to the utterances j of its dialogue with i - past <= j <= i + future, including i.

    The relation of an edge is given by the speakers of both utterances and their order: with S speakers in all its id
    is 2 (S speaker_j + speaker_i), plus 1 where j is not earlier than i. "Target" is i, "source" is j.

    Args:
        speakers: [N] int64 on the CPU, whose relations those of each utterance are, from 0; -1 for somebody unknown.
        dialogue: [N] int64, number of each utterance's dialogue.
        past, future: how many utterances back and ahead the sources of an utterance reach.
        longest: number of utterances of the longest dialogue, or an upper bound.
        people: [N] int64 on the CPU, who speaks each utterance, from 0; None for `speakers`.

    Attributes:
        blocks: map rows and columns of the masks to utterances.
        mask: [count, size, span] bool, True where there is an edge from the row's utterance to the column's. Every row
            has its diagonal, including those that only pad the last block, so that a softmax over a row is always
            defined.
        reverse_mask: [count, size, span] bool, True where there is an edge from the column's utterance to the row's,
            including the diagonal.
        speakers: [S'] int64, the speaker of each person, ascending by person.
        distinct: whether every person has a speaker, and none has another's.
        sizes: number of utterances of each person.
        order: [N] int64, the utterances sorted by person.
    """

    def __init__(
        self,
        speakers: Tensor,
        dialogue: Tensor,
        past: int,
        future: int,
        longest: int,
        people: Tensor | None = None,
    ) -> None:
        past, future = min(past, longest - 1), min(future, longest - 1)
        self.blocks = Blocks(len(speakers), max(past, future), dialogue.device)
        near, distance = self.blocks.local(dialogue), self.blocks.distance
        diagonal = distance == 0
        self.mask = (near & (distance <= past) & (distance >= -future)) | diagonal
        self.reverse_mask = (near & (distance <= future) & (distance >= -past)) | diagonal
        # On the host, as the sizes decide shapes.
        most = speakers.max() + 2  # with -1; the same number in two dialogues may be two people with two speakers
        key = (speakers if people is None else people) * most + speakers + 1
        found, who, counts = key.unique(return_inverse=True, return_counts=True)
        found = found % most - 1
        self.distinct = bool(found.min() >= 0) and len(found.unique()) == len(found)
        self.speakers, self.sizes = to_device(found, dialogue.device), counts.tolist()
        self._who, self.order = to_device(torch.stack([who, who.argsort(stable=True)]), dialogue.device)

    def parts(self, dtype: torch.dtype) -> Tensor:
        """The graph as one matrix for each person of a source and each order, [count, 2 S', size, span] of 0 and 1."""
        speaks = F.one_hot(self._who, len(self.sizes))
        speaks = self.blocks.seen(speaks[None])[0].transpose(1, 2)[:, :, None, None].bool()  # [count, S', 1, 1, span]
        earlier = self.blocks.distance > 0
        orders = torch.stack([earlier, ~earlier])
        return (self.mask[:, None, None] & speaks & orders).flatten(1, 2).to(dtype)

    def edges(self, speakers: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every edge, as three [E] int64: target i, source j, and the relation for the given number of speakers S."""
        block, row, column = self.mask.nonzero(as_tuple=True)
        i = block * self.blocks.size + row
        real = i < self.blocks.rows
        i, distance = i[real], self.blocks.distance[row, column][real]
        j, who = i - distance, self.speakers[self._who]
        return i, j, 2 * (speakers * who[j] + who[i]) + (distance <= 0)


class RelationalConvolution(nn.Module):
    """Relational graph convolution (Schlichtkrull et al. 2018, equation 2) without its non-linearity.

    y_i = x_i W_0 + b + sum over relations r and sources j of i in r of w_ij x_j W_r. Without weights w, each relation
    is averaged: w_ij is one over the number of sources of i in r. With `bases` (equation 3), W_r is a sum of that many
    matrices that all relations share, each times a coefficient.

    Args:
        d_in, d_out: channels.
        speakers: number of speakers S; there are 2 S^2 relations, see `RelationalGraph`.
        bases: number of shared matrices; None gives every relation its own matrix.
    """

    def __init__(self, d_in: int, d_out: int, speakers: int, bases: int | None = None) -> None:
        super().__init__()
        self.speakers, relations = speakers, 2 * speakers**2
        self.weight = nn.Parameter(torch.empty(bases or relations, d_in, d_out))
        self.coefficients = nn.Parameter(torch.empty(relations, bases)) if bases else None
        self.root, self.bias = nn.Parameter(torch.empty(d_in, d_out)), nn.Parameter(torch.zeros(d_out))
        # As in the libraries that the models used; larger bases saturate DialogueGCN's attention from the start.
        bound = 1 / math.sqrt(bases * d_in) if bases else math.sqrt(6 / (d_in + d_out))
        for parameter in (self.weight, self.root, self.coefficients, self.bias if bases else None):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, graph: RelationalGraph, weights: Tensor | None = None) -> Tensor:
        """Node features [N, d_in] to [N, d_out]; `weights` [count, size, span] as `graph.mask`."""
        blocks, parts = graph.blocks, graph.parts(x.dtype)
        if weights is None:
            parts = parts / parts.sum(-1, keepdim=True).clamp_min(1)
        else:
            parts = parts * weights[:, None]
        # The sources of an utterance, summed by speaker and order: the target's speaker is the same for all of them.
        sums = torch.bmm(parts.flatten(1, 2), blocks.seen(x[None])[0]).unflatten(1, (parts.shape[1], blocks.size))
        sums = blocks.flat(sums.transpose(1, 2).flatten(2)[None])[0]  # [N, 2 S' d_in]
        by_target = sums.index_select(0, graph.order).split(graph.sizes)
        y = torch.cat([rows @ matrix for rows, matrix in zip(by_target, self._matrices(graph), strict=True)])
        return torch.empty_like(y).index_copy(0, graph.order, y) + x @ self.root + self.bias

    def _matrices(self, graph: RelationalGraph) -> tuple[Tensor, ...]:
        """For each person of a graph as target: the matrices of all relations, stacked, [2 S' d_in, d_out]."""
        coefficients, speakers = self.coefficients, graph.speakers
        table = (self.weight if coefficients is None else coefficients).unflatten(0, (self.speakers, self.speakers, 2))
        if not graph.distinct:
            table = relations_of_people(table, speakers)
        elif len(speakers) < self.speakers:
            table = table.index_select(0, speakers).index_select(1, speakers)
        if coefficients is not None:
            table = (table @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])
        return table.transpose(0, 1).flatten(1, 3).unbind(0)


def relations_of_people(table: Tensor, speakers: Tensor) -> Tensor:
    """Relations between people of whom some are unknown, or have the same speaker.

    Unknown is unlike nobody: where one of two people is unknown, the mean over all speakers other than the second's
    speaker is taken; where both are, or have the same speaker, that over all pairs of different speakers; from somebody
    unknown to the same person, that over all relations of a speaker to themselves.

    Args:
        table: [S, S, …], of the source's and the target's speaker.
        speakers: [S'] int64, of each person; -1 where unknown.

    Returns:
        [S', S', …], of the source and the target.
    """
    count = len(table)
    if count == 1:  # no relation between different speakers was learned
        return table.expand(len(speakers), len(speakers), *table.shape[2:])
    own = table.diagonal(0, 0, 1).movedim(-1, 0)
    to_others, from_others = ((table.sum(side) - own) / (count - 1) for side in (1, 0))
    mean_own, mean_other = own.mean(0), to_others.mean(0)
    rows = torch.cat([table, to_others[:, None]], 1)
    rows = torch.cat([rows, torch.cat([from_others, mean_other[None]])[None]])
    place = torch.where(speakers < 0, count, speakers)
    found = rows.index_select(0, place).index_select(1, place)
    alike, same = place[:, None] == place, torch.eye(len(place), dtype=torch.bool, device=place.device)
    shape = (*alike.shape, *(1,) * (table.ndim - 2))
    found = torch.where((alike & ~same).view(shape), mean_other, found)
    return torch.where((same & (place == count)).view(shape), mean_own, found)


class PlaceWeights(nn.Module):
    """Edge weights of DialogueGCN's code: a vector for each position in a dialogue scores all targets of that position.

    w_ij = exp(v_j . x_i) / sum of exp(v_j . x_k) over all targets k of j, v_j the vector of j's position. Weights thus
    sum to 1 over the targets of an utterance, not over its sources.

    Args:
        size: channels.
        places: number of vectors; all later positions share the last one.
    """

    def __init__(self, size: int, places: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(places, size))
        bound = 1 / math.sqrt(size)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, graph: RelationalGraph, place: Tensor) -> Tensor:
        """Features [N, size] and positions [N] int64 from 0 to [count, size, span], 0 where there is no edge."""
        blocks = graph.blocks
        vectors, x = self.weight.index_select(0, place.clamp_max(len(self.weight) - 1))[None], x[None]
        by_source = (blocks.own(vectors) @ blocks.seen(x).transpose(2, 3))[0]  # rows are sources, columns targets
        total = blocks.flat(by_source.masked_fill(~graph.reverse_mask, -torch.inf).logsumexp(-1)[None, ..., None])
        by_target = (blocks.own(x) @ blocks.seen(vectors).transpose(2, 3))[0]  # rows are targets, columns sources
        logs = by_target - blocks.seen(total)[0].transpose(1, 2)
        return logs.masked_fill(~graph.mask, -torch.inf).exp()


class NeighbourSum(nn.Module):
    """y_i = x_i W_0 + (sum of x_j over the sources j of i) W + b (Morris et al. 2019, without its non-linearity).

    Args:
        d_in, d_out: channels.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.neighbours, self.own = nn.Linear(d_in, d_out), nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Tensor, graph: RelationalGraph) -> Tensor:
        """Node features [N, d_in] to [N, d_out]."""
        return self.neighbours(graph.blocks.gather(graph.mask[None].to(x.dtype), x[None])[0]) + self.own(x)


class NeighbourAttention(nn.Module):
    """Scaled dot-product attention to the sources of an utterance, without relations (Shi et al.

    2021, equations 3 and 4).

    y_i = x_i W_0 + sum over j of softmax_j(q_i . k_j / sqrt(d_out)) v_j in each head; all four maps have a bias.

    Args:
        d_in: channels in.
        d_out: channels out of each head; the heads are concatenated.
        heads: how many.
    """

    def __init__(self, d_in: int, d_out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.own = (nn.Linear(d_in, heads * d_out) for _ in range(4))

    def forward(self, x: Tensor, graph: RelationalGraph) -> Tensor:
        """Node features [N, d_in] to [N, heads * d_out]."""
        blocks = graph.blocks
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(0, 1) for m in (self.query, self.key, self.value))
        scores = blocks.own(q / math.sqrt(q.shape[-1])) @ blocks.seen(k).transpose(2, 3)
        weights = scores.masked_fill(~graph.mask, -torch.inf).softmax(-1)
        return blocks.gather(weights.to(v.dtype), v).transpose(0, 1).flatten(1) + self.own(x)
