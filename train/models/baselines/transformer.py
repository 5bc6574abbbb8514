"""A baseline: a plain Transformer encoder over the dialogue, with early fusion and the speakers.

The normalised features, concatenated (absent ones are zeros, the mean), go through a linear map; sinusoidal positions
and a learned vector for each speaker are added; then come Transformer layers as originally published (Vaswani et al.
2017) and a linear map to the classes. It uses all that a paper's model uses, by the simplest means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.sequences.encoder import LocalDialogueAttention, WholeDialogueAttention, dialogue_positions
from ...layers.sequences.post_norm import PostNormEncoder
from ...layers.speakers import SpeakerEmbedding
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads


@dataclass
class Settings:
    """Section `model`.

    Attributes:
        hidden: channels.
        heads: attention heads.
        layers: Transformer layers.
        inner: width of the feed-forward networks, as a multiple of `hidden`.
        window: how many utterances back and ahead are attended to; None means the whole dialogue.
        dropout: on the input, in the layers and before the output.
    """

    name: str = "transformer"
    hidden: int = setting(256, least=2)
    heads: int = setting(4, least=1)
    layers: int = setting(2, least=1)
    inner: int = setting(2, least=1)
    window: int | None = setting(None, least=0)
    dropout: float = setting(0.3, least=0, below=1)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)


class Transformer(Model[Settings]):
    """Transformer encoder with early fusion."""

    capturable = True
    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("Transformer", "none (baseline)", "in full")

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        self.projection = nn.Linear(sum(self.dims.values()), size)
        self.speaker = SpeakerEmbedding(self.speakers, size, padding=True)
        layer = (size, settings.heads, settings.inner * size, settings.dropout)
        self.layers = nn.ModuleList(PostNormEncoder(*layer) for _ in range(settings.layers))
        self.output = nn.Linear(size, self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        window = self.settings.window
        if window is None:
            attend = WholeDialogueAttention(batch.packing).attend
        else:
            attend = LocalDialogueAttention(batch.dialogue, window, batch.longest).attend
        present = torch.stack([batch.present[m] for m in self.dims]).any(0)
        x = self.projection(self.concatenated(batch)) + self.speaker(batch.speakers)
        x = self.dropout(x + dialogue_positions(batch.packing, self.settings.hidden, x))
        for layer in self.layers:
            x = layer(x, attend, present)
        return ModelOutput(self.output(self.dropout(x)))
