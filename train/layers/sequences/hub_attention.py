"""CFN-ESA's attention across modalities: one stream is the hub, which attends to all others, and they only to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..dropout import Dropout


class MultiheadAttention(nn.Module):
    """Attention of one stream of packed dialogues to another; equivalent to `nn.MultiheadAttention` without dropout.

    Args:
        size: channels; a multiple of `heads`.
        heads: attention heads.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.source, self.output = nn.Linear(size, size), nn.Linear(size, 2 * size), nn.Linear(size, size)
        bound = math.sqrt(6 / (4 * size))  # as of one matrix for queries, keys and values
        for linear in (self.query, self.source):
            nn.init.uniform_(linear.weight, -bound, bound)
        for linear in (self.query, self.source, self.output):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, source: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """Queries from x [N, size], keys and values from `source` [N, size], to [N, size].

        `attend` is that of `erc_toolkit.train.layers.sequences.encoder.WholeDialogueAttention` or takes the same
        arguments; `present` [N] bool, which utterances of `source` may be attended to.
        """
        return self.output(attend(self.query(x), *self.source(source).chunk(2, 1), present, self.heads, 0.0))


class FeedForward(nn.Module):
    """W_2 relu(W_1 x), of twice the width inside.

    Args:
        size: channels.
        dropout: inside and after it.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, size] to [N, size]."""
        return self.dropout(self.outer(self.dropout(torch.relu(self.inner(x)))))


class HubLayer(nn.Module):
    """Self-attention of every stream, attention across them, and feed-forward networks (ACME in CFN-ESA).

    For each stream x: s = LN(x + self-attention), c = LN(x + s + cross), y = LN(x + c + feed-forward). The cross term
    of the hub is relu(W [its attention to each other stream]); that of another stream is its attention to the hub, and
    without other streams there is none.

    Args:
        streams: names, the hub's first.
        size, heads: as for `MultiheadAttention`.
        dropout: on the outputs of all sublayers, and in the feed-forward networks.
    """

    def __init__(self, streams: list[str], size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.hub, others = streams[0], streams[1:]
        self.own = nn.ModuleDict({m: MultiheadAttention(size, heads) for m in streams})
        self.to_others = nn.ModuleDict({m: MultiheadAttention(size, heads) for m in others})
        self.to_hub = nn.ModuleDict({m: MultiheadAttention(size, heads) for m in others})
        self.join = nn.Linear(len(others) * size, size) if others else None
        self.feed = nn.ModuleDict({m: FeedForward(size, dropout) for m in streams})
        self.own_norms, self.cross_norms, self.norms = (
            nn.ModuleDict({m: nn.LayerNorm(size) for m in streams}) for _ in range(3)
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, x: dict[str, Tensor], attend: Callable[..., Tensor], present: dict[str, Tensor], heard: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Streams of packed dialogues, [N, size] each, to the same.

        Args:
            x: stream to its features.
            attend: as for `MultiheadAttention.forward`.
            present: stream to [N] bool, which of its utterances may be attended to.
            heard: stream to [N, 1] of 0 and 1, whether any of them is present in the utterance's dialogue.
        """
        s = {}
        for m, layer in self.own.items():
            s[m] = self.own_norms[m](x[m] + self.dropout(layer(x[m], x[m], attend, present[m])))
        hub, cross = self.hub, {}
        if self.join is not None:
            found = [
                self.dropout(layer(s[hub], s[m], attend, present[m]) * heard[m]) for m, layer in self.to_others.items()
            ]
            cross[hub] = torch.relu(self.join(torch.cat(found, 1)))
        for m, layer in self.to_hub.items():
            cross[m] = layer(s[m], s[hub], attend, present[hub]) * heard[hub]
        c = {}
        for m, norm in self.cross_norms.items():
            total = x[m] + s[m]
            c[m] = norm(total + self.dropout(cross[m]) if m in cross else total)
        return {m: norm(x[m] + c[m] + self.feed[m](c[m])) for m, norm in self.norms.items()}
