"""Attention of every utterance to its dialogue with scores between -1 and 1 (DialogueGCN, "masked nodal attention")."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..sequence import PaddedDialogues

QUERIES = 512  # at a time, so that no attention matrix of a long dialogue is stored


class NodalAttention(nn.Module):
    """y_i = sum over j of softmax_j(tanh((W x_i + b) . x_j)) x_j, over the utterances j of i's dialogue.

    Args:
        size: channels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Packed rows [N, size] to [N, size]; time is quadratic in a dialogue's length, memory linear."""
        padded = PaddedDialogues(offsets, x.device)
        keys, queries, mask = padded.pad(x), padded.pad(self.query(x)), padded.mask[:, None]

        def attend(some: Tensor) -> Tensor:
            scores = torch.tanh(some @ keys.transpose(1, 2))
            return scores.masked_fill(~mask, -torch.inf).softmax(-1).to(keys.dtype) @ keys

        if queries.shape[1] <= QUERIES:
            return padded.pack(attend(queries))
        parts = [cast(Tensor, checkpoint(attend, part, use_reentrant=False)) for part in queries.split(QUERIES, 1)]
        return padded.pack(torch.cat(parts, 1))
