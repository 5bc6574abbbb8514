"""An anchor of our own: logistic regression on each utterance's features, deaf to the conversation.

The features that are present, normalised and side by side, and one linear map; absent ones are zeros, which is their mean.
What a model of conversations adds must show beyond this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..layers.heads import Logits, weighted_loss
from .registry import About


@dataclass
class Settings:
    """Section `model`. There is nothing to set but the trainer's weight decay, which is its regularisation."""

    name: str = "logistic-regression"


class LogisticRegression(nn.Module):
    """Softmax regression. Arguments as `erc_toolkit.train.models.registry` says."""

    Settings = Settings
    about = About("logistic regression", "none, ours", "in full")

    def __init__(
        self,
        config: Settings,
        dims: Mapping[str, int],
        speakers: int,
        class_counts: Tensor,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.output = nn.Linear(sum(dims.values()), len(class_counts))
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch, epoch: int = 0) -> Logits:
        """Logits of a batch."""
        return Logits(self.output(torch.cat([batch.features[m] for m in self.dims], 1)))

    def loss(self, output: Logits, batch: Batch) -> Tensor:
        """Cross-entropy, a mean over labelled utterances weighted by class."""
        return weighted_loss(output.logits, batch.labels, self.class_weights)
