"""Speaker graphs of a batch of dialogues, by index arithmetic.

An edge's relation follows from the order of its two utterances alone, because a graph holds either only edges within
a speaker or only edges between speakers. So a graph is a mask per dialogue and one table of relations for all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RELATIONS = 6  # rows of a relation table: no edge, self, intra past, intra future, inter future, inter past
SELF, INTRA_PAST, INTRA_FUTURE, INTER_FUTURE, INTER_PAST = 1, 2, 3, 4, 5


class Graph(NamedTuple):
    """Edges from every utterance i (row) to the utterances j (column) that it listens to.

    Attributes:
        mask: [B, L, L] bool, True where there is an edge. The diagonal is True everywhere, padding included, so that
            a softmax over a row is always defined.
        relation: [L, L] int64, relation id that an edge (i, j) has where there is one.
    """

    mask: Tensor
    relation: Tensor

    def adjacency(self) -> Tensor:
        """Relation ids with 0 for "no edge", [B, L, L] int64: Adj of equations 7 and 8."""
        return self.relation * self.mask

    def without(self, absent: Tensor) -> "Graph":
        """The same graph in which utterances flagged in `absent` [B, L] are no neighbours of any other."""
        diagonal = torch.eye(self.mask.shape[-1], dtype=torch.bool, device=self.mask.device)
        return Graph(self.mask & (~absent[:, None, :] | diagonal), self.relation)


def speaker_graphs(speakers: Tensor, mask: Tensor, window: int) -> tuple[Graph, Graph]:
    """Inter-speaker and intra-speaker graph (AMB-DSGDN, equations 8 and 7) of a padded batch.

    Args:
        speakers: [B, L] int, who speaks each utterance.
        mask: [B, L] bool, False at padding.
        window: an utterance hears those at most this many places away.

    Returns:
        (inter, intra): edges to other speakers' utterances and to the speaker's own; both hold the self-loops.
    """
    length = speakers.shape[1]
    place = torch.arange(length, device=speakers.device)
    distance = place[:, None] - place[None, :]  # i - j: positive where j is past
    diagonal = distance == 0
    near = (distance.abs() <= window) & mask[:, None, :]
    same = speakers[:, :, None] == speakers[:, None, :]

    def relation(past: int, future: int) -> Tensor:
        return torch.where(diagonal, SELF, torch.where(distance > 0, past, future))

    inter = Graph((near & ~same) | diagonal, relation(INTER_PAST, INTER_FUTURE))
    intra = Graph((near & same) | diagonal, relation(INTRA_PAST, INTRA_FUTURE))
    return inter, intra
