"""Transformer encoder of one layer over the utterances of a dialogue (AMB-DSGDN, equations 2 to 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_positions(length: int, size: int, like: Tensor) -> Tensor:
    """Position codes of equation 2, [length, size], with the dtype and device of `like`. `size` is even."""
    place = torch.arange(length, dtype=torch.float64, device=like.device)
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float64, device=like.device) * (-math.log(10000) / size))
    angle = place[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(like.dtype)


class TransformerEncoder(nn.Module):
    """Self-attention and feed-forward network, each with a residual; LayerNorm only before the feed-forward network.

    Args:
        size: channels, also of the feed-forward network's inner layer; a multiple of `heads`, and even.
        heads: attention heads.
        dropout: probability on input, attention weights and both sublayers.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        # The released model owns this norm and never uses it in its only layer; published totals count it.
        self.unused_input_norm = nn.LayerNorm(size, eps=1e-6).requires_grad_(False)
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, speaker: Tensor, keys: Tensor) -> Tensor:
        """Encodes a padded batch.

        Args:
            x: [B, L, size] features.
            speaker: [B, L, size] speaker embeddings, added to the features together with the positions.
            keys: [B, L] bool, which utterances may be attended to.

        Returns:
            [B, L, size]; rows of a dialogue in which nothing may be attended to are finite and without meaning.
        """
        x = self.dropout(x + sinusoidal_positions(x.shape[1], x.shape[2], x) + speaker)
        x = x + self.dropout(self._attend(x, keys))
        y = self.dropout(F.gelu(self.inner(self.norm(x)), approximate="tanh"))
        return x + self.dropout(self.outer(y))

    def _attend(self, x: Tensor, keys: Tensor) -> Tensor:
        keys = keys | ~keys.any(1, keepdim=True)  # a softmax over nothing would be NaN
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.rate if self.training else 0.0
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=keys[:, None, None, :], dropout_p=dropout)
        return self.output(heard.transpose(1, 2).flatten(2))
