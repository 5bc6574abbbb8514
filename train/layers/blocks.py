"""Packed rows in blocks, each with access to the rows around it: local attention in linear time and memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST, LARGEST = 16, 128


class Blocks:
    """N rows, cut into `count` blocks of `size`; a block covers its own rows and `reach` more on either side.

    A row and the rows within its reach are thus in one matrix of [size, span], which costs O(N reach) in total.

    Attributes:
        rows: N.
        reach: how many rows back and ahead of a row are in reach.
        size: rows of a block: about as many as its reach, so that a third of its span is its own, and enough for an
            efficient matrix product.
        count: number of blocks; the last one may be padded.
        span: size + 2 reach.
        distance: [size, span] int64, position of a block's row minus that of a row in its span.
    """

    def __init__(self, rows: int, reach: int, device: torch.device) -> None:
        self.rows, self.reach = rows, reach
        self.size = min(max(1 << (reach - 1).bit_length() if reach else 1, SMALLEST), LARGEST)
        self.count = -(-rows // self.size)
        self.span = self.size + 2 * reach
        place = torch.arange(self.span, device=device)
        self.distance = place[: self.size, None] + reach - place

    def own(self, x: Tensor, fill: float = 0) -> Tensor:
        """[S, N, C] to [S, count, size, C], padded at the end."""
        return F.pad(x, (0, 0, 0, self.count * self.size - self.rows), value=fill).unflatten(1, (self.count, self.size))

    def seen(self, x: Tensor, fill: float = 0) -> Tensor:
        """[S, N, C] to [S, count, span, C], a view of a copy that is padded at both ends."""
        after = self.count * self.size - self.rows + self.reach
        return F.pad(x, (0, 0, self.reach, after), value=fill).unfold(1, self.span, self.size).transpose(2, 3)

    def flat(self, y: Tensor) -> Tensor:
        """[S, count, size, C] to [S, N, C]."""
        return y.flatten(1, 2)[:, : self.rows]

    def gather(self, weights: Tensor, x: Tensor) -> Tensor:
        """Weighted sums over the span: weights [S, count, size, span] on [S, N, C], to [S, N, C]."""
        # One product per slice: folding slices and blocks into one batch would copy every overlapping block.
        return self.flat(torch.stack([torch.bmm(w, v) for w, v in zip(weights, self.seen(x), strict=True)]))

    def local(self, dialogue: Tensor) -> Tensor:
        """[count, size, span] bool: which rows are at most `reach` away in the same dialogue ([N], from 0)."""
        numbers = dialogue[None, :, None]
        own, seen = self.own(numbers, -1)[0], self.seen(numbers, -2)[0].transpose(1, 2)
        return (own == seen) & (self.distance.abs() <= self.reach)
