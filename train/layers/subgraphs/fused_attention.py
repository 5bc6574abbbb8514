"""Graph attention on a CPU as one operation with a backward pass of its own.

It computes what `GraphAttention.forward` computes one operation after the other. A layer of a small batch is a hundred
operations on small tensors, whose calls, copies and gradients of overlapping views take as long as its matrix products;
here there are a third as many, and the gradient of an overlap is two or three sums of slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..blocks import Blocks

aten = torch.ops.aten
_EPS = 1e-5  # of the layer norm


@dataclass(frozen=True, slots=True)
class Constants:
    """What has no gradient.

    Attributes:
        absent: [count, size, span] bool, where there is no edge.
        which: [size, span, relations] the relation of an edge, one-hot, in the dtype of the features.
        blocks: which utterances rows and columns are.
        heads, branches: of the layer.
        slope: of the leaky ReLU.
        factor: [heads, count, size, span], dropout's factor of each weight; None without dropout.
        scale: of the normalised output; None for a layer without norm and GELU.
    """

    absent: Tensor
    which: Tensor
    blocks: Blocks
    heads: int
    branches: int
    slope: float
    factor: Tensor | None
    scale: float | None


def graph_attention(
    x: Tensor,
    weight: Tensor,
    left: Tensor,
    right: Tensor,
    table: Tensor,
    coefficient: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    constants: Constants,
) -> Tensor:
    """Node features [N, d_in] to [N, heads * d_out].

    Args:
        x: the features.
        weight: [d_in, heads * d_out].
        left, right: [heads, branches, d_out / branches].
        table: [heads * branches, relations], the score of each relation.
        coefficient: [heads], the share of the second branch that is subtracted from the first; None for one branch.
        norm_weight, norm_bias: [heads, d_out]; None for a layer without norm and GELU.
        constants: the rest.
    """
    return _GraphAttention.apply(x, weight, left, right, table, coefficient, norm_weight, norm_bias, constants)


class _GraphAttention(torch.autograd.Function):
    """See `graph_attention`. Letters: H heads, R heads * branches, D channels of a head."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        left: Tensor,
        right: Tensor,
        table: Tensor,
        coefficient: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        constants: Constants,
    ) -> Tensor:
        c, blocks = constants, constants.blocks
        padded = _projected(x, weight, blocks)
        columns = _columns(left, right)
        scores = _scores(blocks, padded, columns, (c.which @ table.T).permute(2, 0, 1))
        weights = torch.softmax(aten.leaky_relu_(scores, c.slope).masked_fill_(c.absent, -torch.inf), -1)
        used = _combined(weights.unflatten(0, (c.heads, c.branches)), coefficient)
        if c.factor is not None:
            used = used * c.factor
        width = weight.shape[1] // c.heads
        y = x.new_empty(c.heads, blocks.count, blocks.size, width)
        for head in range(c.heads):
            torch.bmm(used[head], blocks.overlapping(padded, head * width, width), out=y[head])
        y, found, stats = y.flatten(1, 2), [], []
        if c.scale is None:
            found = list(y)
        else:
            assert norm_weight is not None and norm_bias is not None
            for rows, w, b in zip(y, c.scale * norm_weight, c.scale * norm_bias, strict=True):
                normal, mean, rstd = torch.native_layer_norm(rows, [width], w, b, _EPS)
                found.append(normal)
                stats += [mean, rstd]
        if any(ctx.needs_input_grad):
            normed = [y, *found, *stats] if c.scale is not None else []
            kept = (x, weight, coefficient, norm_weight, norm_bias, padded, columns, scores, weights, used)
            ctx.save_for_backward(*kept, *normed)
            ctx.constants = c
        if c.scale is not None:
            found = [aten.gelu(normal) for normal in found]
        found = [rows[: blocks.rows] for rows in found]
        return found[0] if c.heads == 1 else torch.cat(found, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, coefficient, norm_weight, norm_bias, padded, columns, scores, weights, used, *normed = (
            ctx.saved_tensors
        )
        c: Constants = ctx.constants
        blocks, width = c.blocks, weight.shape[1] // c.heads
        # Rows that pad the last block have no gradient.
        grads = grad.new_zeros(c.heads, blocks.count * blocks.size, width)
        grads[:, : blocks.rows] = grad.unflatten(1, (c.heads, width)).transpose(0, 1)
        by_norm_weight = by_norm_bias = by_coefficient = None
        if c.scale is not None:
            grads, by_norm_weight, by_norm_bias = _through_norm(grads, normed, c.scale, norm_weight, norm_bias)
        grads = grads.unflatten(1, (blocks.count, blocks.size))
        by_used, by_padded = torch.empty_like(used), torch.zeros_like(padded)
        for head in range(c.heads):
            seen = blocks.overlapping(padded, head * width, width)
            torch.bmm(grads[head], seen.transpose(1, 2), out=by_used[head])
            by_seen = torch.bmm(used[head].transpose(1, 2), grads[head])
            blocks.add_overlapping(by_padded[:, head * width : (head + 1) * width], by_seen)
        if c.factor is not None:
            by_used.mul_(c.factor)
        if coefficient is None:
            by_weights = by_used
        else:
            second = weights.unflatten(0, (c.heads, 2))[:, 1]
            by_coefficient = -(by_used * second).sum((1, 2, 3))
            by_weights = torch.stack([by_used, by_used * -coefficient[:, None, None, None]], 1).flatten(0, 1)
        by_scores = aten._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        # Without an edge the weight is 0, so its score has no gradient.
        by_scores = aten.leaky_relu_backward(by_scores, scores, c.slope, True)
        by_table = by_scores.sum(1).flatten(1) @ c.which.flatten(0, 1)
        by_columns = torch.cat([_by_query(by_scores, blocks), _by_key(by_scores, blocks)], 1)
        by_projected = by_padded[blocks.reach : blocks.reach + blocks.rows]
        by_left, by_right = _by_scores(
            (padded[blocks.reach : blocks.reach + blocks.rows].T @ by_columns), c.heads, c.branches
        )
        by_projected.addmm_(by_columns, columns.T)
        by_x = by_projected @ weight.T if ctx.needs_input_grad[0] else None
        by_weight = x.T @ by_projected
        return by_x, by_weight, by_left, by_right, by_table, by_coefficient, by_norm_weight, by_norm_bias, None


def _projected(x: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
    """x @ weight with the zeros around it that `Blocks.seen` would add: [rows of all spans, H * D]."""
    padded = x.new_empty(blocks.padded_rows, weight.shape[1])
    first, last = blocks.reach, blocks.reach + blocks.rows
    padded[:first] = 0
    padded[last:] = 0
    torch.mm(x, weight, out=padded[first:last])
    return padded


def _columns(left: Tensor, right: Tensor) -> Tensor:
    """A column for the query and one for the key of every branch, 0 outside its own channels: [H * D, 2 R]."""
    rows, width = left.shape[0] * left.shape[1], left.shape[2]
    columns = left.new_zeros(rows, width, 2 * rows)
    columns.diagonal(0, 0, 2).copy_(left.flatten(0, 1).T)
    columns.diagonal(rows, 0, 2).copy_(right.flatten(0, 1).T)
    return columns.flatten(0, 1)


def _by_scores(by_columns: Tensor, heads: int, branches: int) -> tuple[Tensor, Tensor]:
    """The gradients of `left` and `right` from that of `_columns`."""
    rows = heads * branches
    by_columns = by_columns.unflatten(0, (rows, -1))
    left, right = by_columns.diagonal(0, 0, 2).T, by_columns.diagonal(rows, 0, 2).T
    return left.unflatten(0, (heads, branches)), right.unflatten(0, (heads, branches))


def _scores(blocks: Blocks, padded: Tensor, columns: Tensor, by_relation: Tensor) -> Tensor:
    """Scores of all pairs before the leaky ReLU, [R, count, size, span]."""
    both = (padded @ columns).T  # [2 R, padded rows]; a product of zeros is zero
    query, key = both.chunk(2)
    query = query[:, blocks.reach : blocks.reach + blocks.count * blocks.size].unflatten(1, (blocks.count, blocks.size))
    return query[..., None] + key.unfold(1, blocks.span, blocks.size)[:, :, None] + by_relation[:, None]


def _combined(weights: Tensor, coefficient: Tensor | None) -> Tensor:
    """Weights [H, branches, ...] of the branches' softmaxes, to [H, ...]."""
    if coefficient is None:
        return weights[:, 0]
    return weights[:, 0] - coefficient[:, None, None, None] * weights[:, 1]


def _through_norm(
    grads: Tensor, kept: list[Tensor], scale: float, norm_weight: Tensor, norm_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients before GELU and layer norm, [H, rows, D], and those of the norm's parameters.

    `kept` are the norm's input of all heads, its output of each, and then mean and deviation of each.
    """
    heads, found = len(grads), []
    normed, stats = kept[1 : 1 + heads], kept[1 + heads :]
    for head, rows in enumerate(kept[0]):
        before = aten.gelu_backward(grads[head], normed[head])
        found.append(
            aten.native_layer_norm_backward(
                before,
                rows,
                [rows.shape[1]],
                *stats[2 * head : 2 * head + 2],
                scale * norm_weight[head],
                scale * norm_bias[head],
                [True, True, True],
            )
        )
    grads, by_weight, by_bias = (torch.stack(parts) for parts in zip(*found, strict=True))
    return grads, by_weight * scale, by_bias * scale


def _by_query(by_scores: Tensor, blocks: Blocks) -> Tensor:
    """The gradient of the queries' column, [N, R]."""
    return by_scores.sum(3).flatten(1)[:, : blocks.rows].T


def _by_key(by_scores: Tensor, blocks: Blocks) -> Tensor:
    """The gradient of the keys' column, [N, R]."""
    total = by_scores.new_zeros(blocks.padded_rows, len(by_scores))
    blocks.add_overlapping(total, by_scores.sum(2).permute(1, 2, 0))
    return total[blocks.reach : blocks.reach + blocks.rows]
