"""The graph of MMGCN and MM-DFN: a node for each modality of each utterance, edges weighted by angular similarity.

A node is joined to all nodes of its modality in its dialogue, including itself, and to the other nodes of its
utterance. The weight of an edge is 1 - arccos(0.99999 cos(x_i, x_j)) / pi, and the matrix A of the weights is
normalised on both sides, P = D^-1/2 A D^-1/2 with D its row sums (MMGCN, arXiv 2107.06779; the factor, which keeps
arccos away from the ends of its domain, is from their code). The gradient flows through P.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..sequence import PaddedDialogues

_INSIDE = 0.99999  # as in their code


class AngularGraph:
    """Edges among the nodes of a batch of dialogues; there are no edges between dialogues.

    Only entries that can be nonzero are stored: for B dialogues of at most L utterances, B * M * L * L within
    modalities and N * M * M within utterances. The cosine of an all-zero node with any other is defined as 0.

    Args:
        nodes: [N, M, D] float, a vector for each of M modalities of each utterance, dialogue after dialogue.
        offsets: [B + 1] int64 on the CPU, as in `erc_toolkit.train.data.batch.Batch`.
        there: [N, M] bool, nodes that have edges; others have only that to themselves. None if all have.

    Attributes:
        within: [B, M, L, L], the entries of P between nodes of one modality; 0 at positions without an utterance.
        across: [N, M, M], its entries between the nodes of an utterance; 0 on the diagonal.
    """

    def __init__(self, nodes: Tensor, offsets: Tensor, there: Tensor | None = None) -> None:
        self._padded = padded = PaddedDialogues(offsets, nodes.device)
        # A cosine rounded to bfloat16 can leave the domain of arccos.
        with torch.autocast(nodes.device.type, enabled=False):
            x = nodes if nodes.dtype == torch.float64 else nodes.float()
            length = x.norm(dim=-1, keepdim=True)
            x = x / torch.where(length > 0, length, 1)
            rows = padded.pad(x).transpose(1, 2)
            pairs = padded.mask[:, None, :, None] & padded.mask[:, None, None, :]
            others = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            if there is not None:
                nodes_there = padded.pad(there).transpose(1, 2)
                itself = torch.eye(pairs.shape[-1], dtype=torch.bool, device=x.device)
                pairs = pairs & (nodes_there[..., None] & nodes_there[..., None, :] | itself)
                others = others & there[:, None] & there[..., None]
            within = _similarity(rows @ rows.mT) * pairs
            across = _similarity(x @ x.mT) * others
            degree = padded.pack(within.sum(-1).transpose(1, 2)) + across.sum(-1)
            root = degree.rsqrt()  # a node's edge to itself keeps its degree above 0
            ends = padded.pad(root).transpose(1, 2)
            self.within = within * ends[..., None] * ends[..., None, :]
            self.across = across * root[..., None] * root[:, None]

    def propagate(self, x: Tensor) -> Tensor:
        """P x for node features [N, M, F], [N, M, F]."""
        padded = self._padded
        y = padded.pack((self.within @ padded.pad(x).transpose(1, 2)).transpose(1, 2))
        return y + self.across @ x if x.shape[1] > 1 else y


def _similarity(cosine: Tensor) -> Tensor:
    return 1 - torch.acos(_INSIDE * cosine.clamp(-1, 1)) / math.pi
