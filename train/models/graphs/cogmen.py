"""COGMEN (arXiv 2205.02455, NAACL 2022), following its released code.

The concatenated features of all modalities go through a transformer encoder over the dialogue. Utterances within a
window form a graph whose relations are given by both speakers and their order; a relational graph convolution,
attention to the neighbours, batch normalisation and two linear maps follow. `docs/explanation/models/cogmen.md` has the
equations.

The paper's model takes audio, text and video; this one takes any subset, with zeros for absent features.

Their encoder attends to padding, so in their code the logits of a dialogue depend on the longest one in its batch; here
they do not. Batch normalisation mixes the utterances of a batch in training in both. In their code an utterance's
window is the utterances that attend to it; here `past` and `future` are those that it attends to, which is the same if
both are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.relations.relational import NeighbourAttention, RelationalConvolution, RelationalGraph
from ...layers.sequences.encoder import WholeDialogueAttention
from ...layers.sequences.post_norm import PostNormEncoder
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' script.

    Attributes:
        encoder_layers: layers of the transformer encoder, which is as wide as the concatenated features.
        heads: attention heads of the encoder; a divisor of that width. Null chooses the smallest number from 7 to 14
            that divides it, or 1 if none does.
        inner: width of the inner layer of its feed-forward networks.
        hidden: width of everything after the encoder.
        past, future: how many utterances back and ahead an utterance attends to in the graph.
        graph_heads: heads of the attention in the graph, each as wide as `hidden`.
        dropout: in the encoder, and before the output layer.
    """

    name: str = "cogmen"
    encoder_layers: int = setting(2, least=1)
    heads: int | None = setting(None, least=1)
    inner: int = setting(2048, least=1)
    hidden: int = setting(100, least=1)
    past: int = setting(5, least=0)
    future: int = setting(5, least=0)
    graph_heads: int = setting(1, least=1)
    dropout: float = setting(0.5, least=0, below=1)


def heads_for(width: int) -> int:
    """The authors' rule: the smallest number of heads from 7 to 14 that divides the width, or 1 if none does."""
    return next((heads for heads in range(7, 15) if width % heads == 0), 1)


class COGMEN(Model[Settings]):
    """Contextualized graph network for multimodal emotion recognition.

    Raises:
        UserError: the number of heads does not divide the width of the features.
    """

    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("COGMEN", "arXiv 2205.02455, NAACL 2022", "their code")

    def build(self) -> None:
        settings = self.settings
        width, size = sum(self.dims.values()), settings.hidden
        heads = settings.heads or heads_for(width)
        if width % heads:
            raise UserError(f"model.heads={heads} must divide the width of the concatenated features, which is {width}")
        self.encoder = nn.ModuleList(
            PostNormEncoder(width, heads, settings.inner, settings.dropout) for _ in range(settings.encoder_layers)
        )
        self.projection = nn.Linear(width, size)
        self.relational = RelationalConvolution(size, size, self.speakers)
        self.attention = NeighbourAttention(size, size, settings.graph_heads)
        self.norm = nn.BatchNorm1d(size * settings.graph_heads)
        self.hidden, self.output = nn.Linear(size * settings.graph_heads, size), nn.Linear(size, self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        x = self.concatenated(batch)
        attend, every = WholeDialogueAttention(batch.packing).attend, torch.ones_like(batch.dialogue, dtype=torch.bool)
        for layer in self.encoder:
            x = layer(x, attend, every)
        past, future = self.settings.past, self.settings.future
        graph = RelationalGraph(batch.host_speakers, batch.dialogue, past, future, batch.longest, batch.host_people)
        x = self.attention(self.relational(self.projection(x), graph), graph)
        x = F.leaky_relu(self._normalised(x))
        return ModelOutput(self.output(self.dropout(torch.relu(self.hidden(x)))))

    def _normalised(self, x: Tensor) -> Tensor:
        if len(x) > 1 or not self.training:
            return self.norm(x)
        # A single utterance has no variance; it is normalised as in evaluation.
        norm = self.norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
