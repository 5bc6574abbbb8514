"""The Soft-HGR loss as in MultiEMO's code, which correlates the modalities' representations of an utterance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor


def soft_hgr_loss(streams: Sequence[Tensor], counted: Sequence[Tensor]) -> Tensor:
    """The negative correlation of each pair of streams, summed.

    For two streams with n utterances in common: -(mean_i <x_i, y_i> - tr(cov(x) cov(y)) / 2n) / n. Their code, which
    this follows, treats the utterances as the variables of the covariance: cov(x) is n x n, with means over an
    utterance's channels. (Soft-HGR as originally published uses the covariance of the channels.) The trace of the
    product of two such matrices is the squared norm of x^T y with those means subtracted, so that no n x n matrix is
    built.

    Args:
        streams: representations, each [N, D] with D at least 2.
        counted: for each stream [N] bool, the utterances that count.

    Returns:
        a scalar; 0 for a single stream; a pair without an utterance in common adds nothing.
    """
    total = streams[0].new_zeros(())
    for (x, in_x), (y, in_y) in combinations(zip(streams, counted, strict=True), 2):
        common = (in_x & in_y)[:, None].to(x.dtype)
        n = common.sum().clamp_min(1)
        x, y = x * common, y * common
        product = (x - x.mean(-1, keepdim=True)).T @ (y - y.mean(-1, keepdim=True)) / (x.shape[-1] - 1)
        total = total - ((x * y).sum() / n - (product**2).sum() / (2 * n)) / n
    return total
