"""Graph attention whose scores know relation and distance (RGAT with relational position encodings)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...packing import Packing
from ..blocks import Blocks

RELATIONS = 4  # own past, own future and itself, others' past, others' future
ENCODINGS = ("relational", "heads", "relative", "none")
_SLOPE = 0.2  # of the leaky ReLU on attention scores


class SpeakerRelations:
    """Edges to the utterances of a window, with relations given by who speaks and by order.

    Args:
        packing: where the utterances are.
        people: [N] int64, who speaks each.
        present: [N] bool, which are neighbours of others.
        past, future: how many utterances back and ahead the window reaches; -1 for all.

    Attributes:
        blocks: the utterances.
        masks: [RELATIONS, count, size, span] bool, True where there is an edge of the relation from the row's utterance
            to the column's. Every row has its diagonal, including those that only pad the last block.
    """

    def __init__(self, packing: Packing, people: Tensor, present: Tensor, past: int, future: int) -> None:
        furthest = packing.longest - 1
        past, future = (furthest if reach == -1 else min(reach, furthest) for reach in (past, future))
        blocks = self.blocks = Blocks(len(people), max(past, future), people.device)
        who, there = people[None, :, None], present[None, :, None]
        near = blocks.local(packing.dialogue) & (blocks.distance <= past) & (blocks.distance >= -future)
        near = near & blocks.seen(there, False)[0].transpose(1, 2)
        same = blocks.own(who, -1)[0] == blocks.seen(who, -1)[0].transpose(1, 2)
        earlier, diagonal = blocks.distance > 0, blocks.distance == 0
        itself = diagonal | (near & same & ~earlier)
        self.masks = torch.stack([near & same & earlier, itself, near & ~same & earlier, near & ~same & ~earlier])


class RelationAttention(nn.Module):
    """y_i = b + sum over neighbours j of w_ij (s_r * x_j), r the relation of the edge from i to j, * by channel.

    w_ij = softmax_j LeakyReLU(a_r . (s_r * x_i) + c_r . (s_r * x_j) + p_r (j - i) + q_r) in each head. The softmax is
    over the neighbours of all relations. p and q are the position encoding.

    Args:
        size: channels in and out, a multiple of `heads`.
        heads: how many; each has its own channels.
        encoding: "relational", where p and q depend on the relation; "heads", on relation and head; "relative", on
            neither; "none", without.
    """

    def __init__(self, size: int, heads: int, encoding: str) -> None:
        super().__init__()
        shape = (RELATIONS, heads, size // heads)
        self.scale, self.query, self.key = (nn.Parameter(torch.empty(shape)) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(size))
        shapes = {"relational": (RELATIONS, 1), "heads": (RELATIONS, heads), "relative": (1, 1)}
        self.slope = self.offset = None
        if encoding != "none":
            self.slope, self.offset = (nn.Parameter(torch.empty(shapes[encoding])) for _ in range(2))
        for parameter in (self.scale, self.query, self.key, self.slope, self.offset):
            if parameter is not None:
                bound = math.sqrt(6 / sum(parameter.shape[-2:]))
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, relations: SpeakerRelations) -> Tensor:
        """Node features [N, size] to [N, size]."""
        blocks, masks = relations.blocks, relations.masks
        x = x.unflatten(1, self.scale.shape[1:])  # [N, heads, channels]
        own, other = (
            blocks_of(torch.einsum("nhc,rhc->rhn", x, self.scale * score).flatten(0, 1)[..., None])
            for score, blocks_of in ((self.query, blocks.own), (self.key, blocks.seen))
        )
        scores = (own + other.transpose(2, 3)).unflatten(0, (RELATIONS, -1))  # [R, heads, count, size, span]
        if self.slope is not None and self.offset is not None:
            distance = -blocks.distance.to(x.dtype)
            encoded = self.slope[..., None, None] * distance + self.offset[..., None, None]
            scores = scores + encoded[:, :, None]
        # Each edge has one relation, so the relations' scores can be added after masking.
        chosen = (scores * masks[:, None]).sum(0)
        weights = F.leaky_relu(chosen, _SLOPE).masked_fill(~masks.any(0), -torch.inf).softmax(-1)
        parts = (weights[:, :, None] * masks.transpose(0, 1)).flatten(2, 3)  # [heads, count, R * size, span]
        sums = parts.to(x.dtype) @ blocks.seen(x.transpose(0, 1))
        y = (sums.unflatten(2, (RELATIONS, -1)) * self.scale.transpose(0, 1)[:, None, :, None]).sum(2)
        return blocks.flat(y).transpose(0, 1).flatten(1) + self.bias
