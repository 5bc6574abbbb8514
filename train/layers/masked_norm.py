"""Batch normalisation of packed rows of which some are absent."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics are those of the present rows.

    A single row has no variance: it is normalised with the running statistics, and they are not updated.
    """

    running_mean: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # always kept
    running_var: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, x: Tensor, present: Tensor | None = None, zeros: int = 0) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[N, D] to [N, D].

        Args:
            x: the rows.
            present: [N] bool, which of them count; None for all.
            zeros: number of rows of zeros that count as well, as padding does in some published code.
        """
        mean, variance = self.running_mean, self.running_var
        if self.training:
            counted = torch.ones_like(x[:, :1]) if present is None else present[:, None].to(x.dtype)
            rows = counted.sum() + zeros
            several = rows > 1
            mean = (counted * x).sum(0) / rows.clamp_min(1)
            squares = (counted * (x - mean).square()).sum(0) + zeros * mean.square()
            variance = squares / rows.clamp_min(1)
            with torch.no_grad():
                step = (self.momentum or 0.0) * several
                unbiased = squares / (rows - 1).clamp_min(1)
                old_mean, old_variance = self.running_mean.clone(), self.running_var.clone()
                self.running_mean += step * (mean - old_mean)
                self.running_var += step * (unbiased - old_variance)
            mean = torch.where(several, mean, old_mean)
            variance = torch.where(several, variance, old_variance)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
