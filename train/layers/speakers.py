"""Speaker embeddings, also for people whom a model has not learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpeakerEmbedding(nn.Embedding):
    """A learned vector for each speaker index; outside training, index -1 has the mean of them.

    Args:
        speakers: number of speaker indices.
        size: channels.
        padding: whether the index `speakers` has a vector of zeros, for rows of padding.
    """

    def __init__(self, speakers: int, size: int, padding: bool = False) -> None:
        super().__init__(speakers + padding, size, padding_idx=speakers if padding else None)
        self.speakers = speakers

    def forward(self, input: Tensor) -> Tensor:
        """Indices [N] int64 to [N, size]."""
        if self.training:
            return super().forward(input)
        known = super().forward(input.clamp_min(0))
        return torch.where(input[:, None] < 0, self.weight[: self.speakers].mean(0), known)
