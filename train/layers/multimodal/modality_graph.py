"""Edges between the nodes of two modalities, with a learned weight each (GraphSmile).

A node of one modality has edges to the nodes of the other whose utterances are within a window, and to none of its own
modality. Both directions are kept as blocks (`erc_toolkit.train.layers.blocks`), so that time and memory grow linearly
with the number of utterances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....toolkit.base.device import to_device
from ...packing import Packing
from ..blocks import Blocks


class WindowEdges:
    """The edges between the nodes of any two modalities of a batch, and the number of each.

    In the authors' order, the edges of the first modality's nodes to the second's come before those of the second's to
    the first's, by node and then by neighbour.

    Args:
        packing: where the utterances are.
        past, future: how many utterances back and ahead a node has edges to; -1 for all.
        across: whether numbers go on from one dialogue of the batch to the next; otherwise each dialogue's begin at 0.

    Attributes:
        blocks: the utterances.
        mask: [count, size, span] bool, whether there is an edge.
        number: [2, count, size, span] int64, its number in either direction; any value where there is none.
    """

    def __init__(self, packing: Packing, past: int, future: int, across: bool) -> None:
        device, furthest = packing.dialogue.device, packing.longest - 1
        past, future = (furthest if reach == -1 else min(reach, furthest) for reach in (past, future))
        blocks = self.blocks = Blocks(len(packing.dialogue), max(past, future), device)
        self.mask = blocks.local(packing.dialogue) & (blocks.distance <= past) & (blocks.distance >= -future)
        place = packing.place
        last = to_device(packing.offsets.diff(), device)[packing.dialogue] - 1
        low, high = (place - past).clamp_min(0), torch.minimum(place + future, last)
        degree = high - low + 1
        before = degree.cumsum(0) - degree  # edges of earlier nodes, of one direction
        first = torch.arange(len(place), device=device) - place
        earlier = before[first]  # edges of earlier dialogues
        total = (before + degree)[first + last] - earlier  # edges of the dialogue
        start = before - earlier + place - low
        if across:
            start = start + 2 * earlier
        numbers = torch.stack([start, start + total])[..., None]
        self.number = blocks.own(numbers) - blocks.distance


class ModalityPropagation(nn.Module):
    """D^-1/2 A D^-1/2 of the nodes of two modalities, A the weights of the edges and D its rows' sums.

    Args:
        slots: number of weights, all 1 at first; an edge whose number is not below it has weight 1, as all have if it
            is 0.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(slots)) if slots else None

    def forward(self, edges: WindowEdges, present: Tensor, like: Tensor) -> Tensor:
        """The matrix by blocks, [2, count, size, span]: what either modality's nodes receive from the other's.

        Args:
            edges: of the batch.
            present: [2, N] bool, which nodes there are; the others have no edges.
            like: a tensor of the dtype to compute in.
        """
        blocks = edges.blocks
        there = present[..., None]
        mask = edges.mask & blocks.own(there, False) & blocks.seen(there.flip(0), False).transpose(2, 3)
        weights: Tensor = mask.to(like.dtype)
        if self.weight is not None:
            slots = len(self.weight)
            learned = self.weight.to(like.dtype)[edges.number.clamp(0, slots - 1)]
            weights = weights * torch.where(edges.number < slots, learned, 1)
        total = weights.sum(-1, keepdim=True)
        positive = total > 0  # a node without edges, or whose weights became negative, neither sends nor receives
        root = torch.where(positive, torch.where(positive, total, 1).rsqrt(), 0)  # [2, count, size, 1]
        senders = blocks.seen(blocks.flat(root).flip(0)).transpose(2, 3)
        return weights * root * senders
