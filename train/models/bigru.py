"""An anchor of our own: a bidirectional GRU over the dialogue, the simplest model that hears the conversation.

The features that are present, normalised and side by side (absent ones are zeros, which is their mean), a linear map, a GRU
in both directions, a linear map to the classes. It knows neither speakers nor modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..layers.dropout import Dropout
from ..layers.heads import Logits, weighted_loss
from ..layers.sequence import Recurrent
from ..settings import setting
from .registry import About


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


class BiGRU(nn.Module):
    """Bidirectional GRU. Arguments as `erc_toolkit.train.models.registry` says."""

    Settings = Settings
    about = About("bidirectional GRU", "none, ours", "in full")

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
        self.projection = nn.Linear(sum(dims.values()), config.hidden)
        self.gru = Recurrent(nn.GRU, config.hidden, config.hidden, config.layers, dropout=config.dropout)
        self.output = nn.Linear(2 * config.hidden, len(class_counts))
        self.dropout = Dropout(config.dropout)
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch, epoch: int = 0) -> Logits:
        """Logits of a batch."""
        x = self.dropout(torch.relu(self.projection(torch.cat([batch.features[m] for m in self.dims], 1))))
        return Logits(self.output(self.dropout(self.gru(x, batch.offsets))))

    def loss(self, output: Logits, batch: Batch) -> Tensor:
        """Cross-entropy, a mean over labelled utterances weighted by class."""
        return weighted_loss(output.logits, batch.labels, self.class_weights)
