"""Batch norm whose statistics are those of some of the rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PresentBatchNorm(nn.BatchNorm1d):
    """Batch norm over the rows that are present; fewer than two have no variance, so the running statistics are used.

    In evaluation it is `torch.nn.BatchNorm1d`, with zeros for rows that are not present. The host does not need to know
    which rows those are.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor, present: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[N, D] and [N] bool to [N, D]; 0 where not present."""
        there = present[:, None]
        if not self.training:
            return torch.where(there, super().forward(input), 0)
        x = input.to(self.running_mean.dtype)
        count = present.sum()
        mean = torch.where(there, x, 0).sum(0) / count.clamp_min(1)
        var = torch.where(there, x - mean, 0).square().sum(0) / count.clamp_min(1)
        enough = count > 1
        self._track(mean.detach(), var.detach() * count / (count - 1).clamp_min(1), enough)
        mean, var = torch.where(enough, mean, self.running_mean), torch.where(enough, var, self.running_var)
        y = (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias
        return torch.where(there, y, 0).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, enough: Tensor) -> None:
        """Moves the running statistics towards those of a batch with enough rows."""
        share = enough * (self.momentum or 0.0)
        self.running_mean.add_(share * (mean - self.running_mean))
        self.running_var.add_(share * (var - self.running_var))
        self.num_batches_tracked.add_(enough)
