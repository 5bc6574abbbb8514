"""A baseline: logistic regression on each utterance's features, without the conversation.

One linear map of the normalised features, concatenated; absent ones are zeros, the mean. A model of conversations is
useful only if it beats this.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...data.batch import Batch
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`. There is nothing to set; the trainer's weight decay is its regularisation."""

    name: str = "logistic-regression"


class LogisticRegression(Model[Settings]):
    """Softmax regression."""

    capturable = True
    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("logistic regression", "none (baseline)", "in full")

    def build(self) -> None:
        self.output = nn.Linear(sum(self.dims.values()), self.classes)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        return ModelOutput(self.output(self.concatenated(batch)))
