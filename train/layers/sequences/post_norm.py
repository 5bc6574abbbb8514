"""Transformer encoder layer as originally published: LayerNorm after each residual (Vaswani et al.

2017, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..dropout import Dropout


class PostNormEncoder(nn.Module):
    """LN(x + attention), then LN(y + feed-forward network with ReLU), equivalent to `nn.TransformerEncoderLayer`.

    Args:
        size: channels; a multiple of `heads`.
        heads: attention heads.
        inner: width of the feed-forward network's inner layer.
        dropout: on attention weights, on the inner layer and after both sublayers.
    """

    def __init__(self, size: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.projections, self.output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.inner, self.outer = nn.Linear(size, inner), nn.Linear(inner, size)
        # The name `heard_norm` is stored in the weights of trained models.
        self.heard_norm, self.norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = Dropout(dropout)
        nn.init.xavier_uniform_(self.projections.weight)
        nn.init.zeros_(self.projections.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """Packed dialogues [N, size] to [N, size].

        Args:
            x: [N, size].
            attend: `attend` of `erc_toolkit.train.layers.sequences.encoder.WholeDialogueAttention` or
                `LocalDialogueAttention`.
            present: [N] bool, which utterances may be attended to.
        """
        values = attend(*self.projections(x).chunk(3, 1), present, self.heads, self.rate if self.training else 0.0)
        x = self.heard_norm(x + self.dropout(self.output(values)))
        return self.norm(x + self.dropout(self.outer(self.dropout(torch.relu(self.inner(x))))))
