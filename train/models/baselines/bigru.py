"""A baseline: a bidirectional GRU over the dialogue, the simplest model that uses the conversation.

The normalised features, concatenated (absent ones are zeros, the mean), go through a linear map, a bidirectional GRU
and a linear map to the classes. It does not distinguish speakers or modalities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.sequence import RecurrentLayer
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`.

    Attributes:
        hidden: width of the projection and of each direction's state.
        layers: of the GRU.
        dropout: on the projection, between layers and before the output.
    """

    name: str = "bigru"
    hidden: int = setting(256, least=1)
    layers: int = setting(1, least=1)
    dropout: float = setting(0.3, least=0, below=1)


class BiGRU(Model[Settings]):
    """Bidirectional GRU."""

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("bidirectional GRU", "none (baseline)", "in full")

    def build(self) -> None:
        settings = self.settings
        self.projection = nn.Linear(sum(self.dims.values()), settings.hidden)
        self.gru = RecurrentLayer(nn.GRU, settings.hidden, settings.hidden, settings.layers, dropout=settings.dropout)
        self.output = nn.Linear(2 * settings.hidden, self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        x = self.dropout(torch.relu(self.projection(self.concatenated(batch))))
        return ModelOutput(self.output(self.dropout(self.gru(x, batch.offsets))))
