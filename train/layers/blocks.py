"""Packed rows in blocks, each with access to the rows around it: local attention in linear time and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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
        if is_fusible(x, weights):
            return _Gather.apply(weights, x, self)
        # One product per slice: folding slices and blocks into one batch would copy every overlapping block.
        return self.flat(torch.stack([torch.bmm(w, v) for w, v in zip(weights, self.seen(x), strict=True)]))

    def local(self, dialogue: Tensor) -> Tensor:
        """[count, size, span] bool: which rows are at most `reach` away in the same dialogue ([N], from 0)."""
        numbers = dialogue[None, :, None]
        own, seen = self.own(numbers, -1)[0], self.seen(numbers, -2)[0].transpose(1, 2)
        return (own == seen) & (self.distance.abs() <= self.reach)

    def overlapping(self, padded: Tensor, start: int, width: int) -> Tensor:
        """Some columns of rows with zeros around them, [padded rows, C], as blocks [count, span, width]; a view."""
        row = padded.stride(0)
        first = padded.storage_offset() + start
        return padded.as_strided((self.count, self.span, width), (self.size * row, row, 1), first)

    def add_overlapping(self, total: Tensor, parts: Tensor) -> None:
        """Adds blocks [count, span, C] to the padded rows that they are, [padded rows, C]; `overlapping` backwards."""
        row = total.stride(0)
        # Blocks that are `size` rows apart do not overlap within `size` rows, so a sum of slices adds each row once.
        for j, start in enumerate(range(0, self.span, self.size)):
            part = parts[:, start : start + self.size]
            shape = (self.count, part.shape[1], total.shape[1])
            first = total.storage_offset() + j * self.size * row
            total.as_strided(shape, (self.size * row, row, 1), first).add_(part)

    @property
    def padded_rows(self) -> int:
        """The number of rows of all spans."""
        return self.count * self.size + 2 * self.reach


def is_fusible(x: Tensor, weight: Tensor) -> bool:
    """Whether several operations on two tensors can be one with a backward pass of its own.

    On a CPU, in one type, and neither compiled nor with types that autocast would change.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _Gather(torch.autograd.Function):
    """`Blocks.gather` on a CPU: without copies of blocks, whose gradient takes PyTorch longer than the products."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, blocks: Blocks) -> Tensor:
        slices, _, width = x.shape
        padded = x.new_zeros(slices, blocks.padded_rows, width)
        padded[:, blocks.reach : blocks.reach + blocks.rows] = x
        y = x.new_empty(slices, blocks.count, blocks.size, width)
        for own, rows, out in zip(weights, padded, y, strict=True):
            torch.bmm(own, blocks.overlapping(rows, 0, width), out=out)
        ctx.save_for_backward(weights, padded)
        ctx.blocks = blocks
        return blocks.flat(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, padded = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        grads, width = blocks.own(grad), grad.shape[2]
        by_weights = by_x = None
        if ctx.needs_input_grad[0]:
            by_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
            for own, rows, out in zip(grads, padded, by_weights, strict=True):
                torch.bmm(own, blocks.overlapping(rows, 0, width).transpose(1, 2), out=out)
        if ctx.needs_input_grad[1]:
            total = torch.zeros_like(padded)
            for own, weight, rows in zip(grads, weights, total, strict=True):
                blocks.add_overlapping(rows, torch.bmm(weight.transpose(1, 2), own))
            by_x = total[:, blocks.reach : blocks.reach + blocks.rows]
        return by_weights, by_x, None
