"""Whether the emotion of two utterances of a dialogue differs, for every pair: the auxiliary task of CFN-ESA."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..dropout import Dropout
from ..sequence import PaddedDialogues

PAIRS = 1 << 24  # values of pairs in memory at a time
_TINY = 1e-12  # a sum of weights below it is an empty sum


class EmotionShift(nn.Module):
    """W_2 relu(W_1 [x_i; y_j]) for all pairs (i, j) of a dialogue, with i = j, and the loss of its two classes.

    Args:
        size: channels of an utterance.
        hidden: channels of a pair.
        dropout: on these.
    """

    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.pair, self.output = nn.Linear(2 * size, hidden), nn.Linear(hidden, 2)
        self.dropout = Dropout(dropout)

    def loss(self, x: Tensor, y: Tensor, labels: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy of "the emotions of i and j differ", a weighted mean over all pairs of labelled utterances.

        Args:
            x, y: [N, size], packed dialogues: what the first and the second of a pair is.
            labels: [N] int64; -1 where an utterance is in no pair.
            offsets: [B + 1] int64 on the CPU.
            weights: [2], of pairs with equal emotions and of pairs with different ones.

        Returns:
            a scalar; 0 if nothing is labelled.
        """
        padded = PaddedDialogues(offsets, x.device)
        first, second = self.pair.weight.chunk(2, 1)  # so that no pair needs 2 * size channels
        left, right = (
            padded.pad(nn.functional.linear(x, first, self.pair.bias)),
            padded.pad(nn.functional.linear(y, second)),
        )
        labels = padded.pad(labels, -1)
        rows = max(1, PAIRS // right.numel())
        total = weight = x.new_zeros(())
        for start in range(0, left.shape[1], rows):
            part = slice(start, start + rows)
            arguments = (left[:, part], right, labels[:, part], labels, weights.to(left.dtype))
            # Values of all pairs would be stored for the gradient.
            losses, counted = cast(tuple[Tensor, Tensor], checkpoint(self._sums, *arguments, use_reentrant=False))
            total, weight = total + losses, weight + counted
        return total / weight.clamp_min(_TINY)

    def _sums(
        self, left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of the losses of pairs, and the sum of the weights."""
        logits = self.output(self.dropout(torch.relu(left[:, :, None] + right[:, None])))
        of_left, of_right = of_left[:, :, None], of_right[:, None]
        differ = of_left != of_right
        weight = torch.where((of_left >= 0) & (of_right >= 0), torch.where(differ, weights[1], weights[0]), 0)
        # With two classes, the loss depends on the difference of the logits alone.
        margin = logits[..., 1] - logits[..., 0]
        if margin.dtype == torch.bfloat16:
            margin = margin.float()
        losses = nn.functional.softplus(torch.where(differ, -margin, margin))
        return (weight * losses).sum(), weight.sum()
