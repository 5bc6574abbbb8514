"""DialogueGCN (arXiv 1908.11540, EMNLP 2019), following its released code.

A bidirectional LSTM over the dialogue, a graph of utterances within a window whose relations are given by both speakers
and their order, a relational graph convolution with weighted edges and a plain one, attention over the whole dialogue,
a hidden layer. `docs/explanation/models/dialoguegcn.md` has the equations.

The paper's model uses text. This one takes any modalities: their features are concatenated, absent ones as zeros.

Their LSTM runs over padding, so in their code the logits of a dialogue depend on the longest one in its batch; here
they do not. Their edge weights have a vector for each of 110 positions and fail on longer dialogues; here all later
positions share the last vector. In their code an utterance's window is the utterances that attend to it; here `past`
and `future` are those that it attends to, which is the same if both are equal, as in their script.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.relations.nodal_attention import NodalAttention
from ...layers.relations.relational import NeighbourSum, PlaceWeights, RelationalConvolution, RelationalGraph
from ...layers.sequence import RecurrentLayer
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput

CONTEXTS = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' command for IEMOCAP.

    Attributes:
        context: the recurrent layers before the graph, "lstm" as in the authors' command or "gru" as in the paper.
        context_layers: number of these layers.
        context_hidden: width of the state of each direction.
        past, future: how many utterances back and ahead an utterance attends to.
        bases: matrices that the relations share; null gives each relation its own.
        graph_hidden: width of the graph layers, and of the hidden layer before the output layer.
        places: positions in a dialogue with a separate edge weight vector; all later positions share the last one.
        attention: whether every utterance attends to its whole dialogue before the hidden layer.
        dropout: between recurrent layers and after the hidden layer.
    """

    name: str = "dialoguegcn"
    context: str = setting("lstm", choices=tuple(CONTEXTS))
    context_layers: int = setting(2, least=1)
    context_hidden: int = setting(100, least=1)
    past: int = setting(10, least=0)
    future: int = setting(10, least=0)
    bases: int | None = setting(30, least=1)
    graph_hidden: int = setting(100, least=1)
    places: int = setting(110, least=1)
    attention: bool = True
    dropout: float = setting(0.4, least=0, below=1)


class DialogueGCN(Model[Settings]):
    """Dialogue graph convolutional network."""

    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("DialogueGCN", "arXiv 1908.11540, EMNLP 2019", "their code")

    def build(self) -> None:
        settings = self.settings
        size, width = 2 * settings.context_hidden, settings.graph_hidden
        self.context = RecurrentLayer(
            CONTEXTS[settings.context],
            sum(self.dims.values()),
            settings.context_hidden,
            settings.context_layers,
            dropout=settings.dropout,
        )
        self.edges = PlaceWeights(size, settings.places)
        self.relational = RelationalConvolution(size, width, self.speakers, settings.bases)
        self.plain = NeighbourSum(width, width)
        self.attention = NodalAttention(size + width) if settings.attention else None
        self.hidden, self.output = nn.Linear(size + width, width), nn.Linear(width, self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        x = self.context(self.concatenated(batch), batch.offsets)
        graph = RelationalGraph(
            batch.host_speakers,
            batch.dialogue,
            self.settings.past,
            self.settings.future,
            batch.longest,
            batch.host_people,
        )
        y = self.plain(self.relational(x, graph, self.edges(x, graph, batch.place)), graph)
        x = torch.cat([x, y], 1)
        if self.attention is not None:
            x = self.attention(x, batch.offsets)
        return ModelOutput(self.output(self.dropout(torch.relu(self.hidden(x)))))
