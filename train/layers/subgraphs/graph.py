"""Speaker graphs of packed dialogues, by index arithmetic.

An edge's relation follows from the order of its two utterances alone, because a graph has either only edges within a
speaker or only edges between speakers. A graph is therefore a mask and one small table of relations. The window bounds
both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..blocks import Blocks

RELATIONS = 6  # rows of a relation table: no edge, self, intra past, intra future, inter future, inter past
SELF, INTRA_PAST, INTRA_FUTURE, INTER_FUTURE, INTER_PAST = 1, 2, 3, 4, 5


class Graph(NamedTuple):
    """Edges from every utterance i to the utterances j that it attends to, block by block.

    Attributes:
        mask: [count, size, span] bool, True where there is an edge. Every row has its self-loop, including those that
            only pad the last block, so that a softmax over a row is always defined.
        relation: [size, span] int64, relation id of each edge.
        blocks: which utterances the rows and columns are.
        vectors: [RELATIONS, width], of a model all of whose layers share them; None where each has its own.
        one_hot: [size, span, RELATIONS] float32, `relation` for matrix products, shared by all layers.
    """

    mask: Tensor
    relation: Tensor
    blocks: Blocks
    vectors: Tensor | None = None
    one_hot: Tensor | None = None

    def without(self, absent: Tensor) -> Graph:
        """The same graph in which utterances flagged in `absent` [N] are not neighbours of any other."""
        if absent.device.type == "cpu" and not torch.compiler.is_compiling() and not absent.any():
            return self  # a CPU need not wait for the answer
        kept = self.blocks.seen(~absent[None, :, None], False)[0].transpose(1, 2)
        return self._replace(mask=self.mask & (kept | (self.blocks.distance == 0)))

    def which(self, dtype: torch.dtype) -> Tensor:
        """The relation of each edge, one-hot: [size, span, RELATIONS]."""
        return (_one_hot(self.relation) if self.one_hot is None else self.one_hot).to(dtype)

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every edge, as three [E] int64: i, j and the relation id (Adj of equations 7 and 8 where it is not 0)."""
        block, row, column = self.mask.nonzero(as_tuple=True)
        i = block * self.blocks.size + row
        real = i < self.blocks.rows
        return i[real], (i - self.blocks.distance[row, column])[real], self.relation[row, column][real]


def speaker_graphs(
    speakers: Tensor, dialogue: Tensor, window: int, longest: int, causal: bool = False
) -> tuple[Graph, Graph]:
    """Inter-speaker and intra-speaker graph (AMB-DSGDN, equations 8 and 7) of packed dialogues.

    Args:
        speakers: [N] int, who speaks each utterance, from 0.
        dialogue: [N] int, number of each utterance's dialogue.
        window: an utterance has edges to those at most this many positions away.
        longest: number of utterances of the longest dialogue, or an upper bound.
        causal: omit edges to later utterances, which the equations include.

    Returns:
        (inter, intra): edges to other speakers' utterances and to the speaker's own; both include the self-loops.
    """
    blocks = Blocks(len(speakers), min(window, longest - 1), speakers.device)
    near, diagonal = blocks.local(dialogue), blocks.distance == 0
    if causal:
        near = near & (blocks.distance >= 0)
    who = speakers[None, :, None]
    same = blocks.own(who, -1)[0] == blocks.seen(who, -1)[0].transpose(1, 2)

    def relation(past: int, future: int) -> Tensor:
        return torch.where(diagonal, SELF, torch.where(blocks.distance > 0, past, future))

    relations = relation(INTER_PAST, INTER_FUTURE), relation(INTRA_PAST, INTRA_FUTURE)
    inter, intra = (
        Graph((near & other) | diagonal, kinds, blocks, one_hot=_one_hot(kinds))
        for other, kinds in zip((~same, same), relations, strict=True)
    )
    return inter, intra


def _one_hot(relation: Tensor) -> Tensor:
    # For products, because torch.compile gave a wrong gradient of an embedding (PyTorch 2.11, on a CPU).
    return F.one_hot(relation, RELATIONS).float()
