"""Dropout that is fast on CPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zeroes elements with probability `p` and scales the others by 1 / (1 - p), in training; otherwise returns x.

    On most CPUs PyTorch draws a random number for each element in turn, which is five times slower than splitting every
    64 random bits into four draws, as this function does. On CPUs `p` is rounded to a multiple of 2^-16 (and the scale
    matches the rounded value); on other devices this is `torch.nn.functional.dropout`. Both use PyTorch's generator.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * dropout_factor(x.shape, p, x.dtype)


def dropout_factor(shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
    """What `dropout` multiplies a tensor of a shape by on a CPU."""
    level, count = min(round(p * _LEVELS), _LEVELS - 1), math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[:count].view(shape) >= level - _LEVELS // 2
    return kept.to(dtype).mul_(_LEVELS / (_LEVELS - level))


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Drops elements of x in training."""
        return dropout(x, self.p, self.training)
