"""A model that combines each utterance with the mean of its speaker's utterances in the dialogue.

`erc-toolkit train STORE.h5 --model speaker-mean --recipe demo --out RUN` trains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.models.base import Model, ModelInfo, ModelOutput
from erc_toolkit.train.settings import setting


@dataclass
class Settings:
    """Section `model` of a recipe.

    Attributes:
        hidden: width of the hidden layer.
        dropout: probability of dropout before the output layer.
    """

    name: str = "speaker-mean"
    hidden: int = setting(32, least=1)
    dropout: float = setting(0.1, least=0, below=1)


class SpeakerMean(Model[Settings]):
    """A two-layer network on an utterance's features and its speaker's mean; the base class provides the loss."""

    Settings = Settings
    about = ModelInfo("utterance and speaker's mean", "none, an example", "in full")

    def build(self) -> None:
        width = sum(self.dims.values())
        self.layers = nn.Sequential(
            nn.Linear(2 * width, self.settings.hidden),
            nn.ReLU(),
            nn.Dropout(self.settings.dropout),
            nn.Linear(self.settings.hidden, self.classes),
        )

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Returns logits [N, C]."""
        x = self.concatenated(batch)
        key = batch.dialogue * self.speakers + batch.speakers  # unique for each speaker of each dialogue
        _, group = torch.unique(key, return_inverse=True)
        return ModelOutput(self.layers(torch.cat([x, _group_means(x, group)], 1)))


def _group_means(x: Tensor, group: Tensor) -> Tensor:
    """The mean of its group for each row of x [N, D]; group is [N] int64. Returns [N, D]."""
    groups = int(group.max()) + 1
    sums = x.new_zeros(groups, x.shape[1]).index_add(0, group, x)
    counts = torch.bincount(group, minlength=groups).to(x.dtype)
    return (sums / counts[:, None])[group]
