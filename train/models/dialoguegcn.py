"""DialogueGCN (arXiv 1908.11540, EMNLP 2019), in the form of its released code.

A bidirectional LSTM over the dialogue, a graph of utterances in a window whose relations are who speaks, who hears and which
comes first, a relational graph convolution with weighted edges and a plain one, attention over the whole dialogue, a hidden
layer. `docs/explanation/models/dialoguegcn.md` has the equations.

The paper's model reads text. Ours takes any modalities: their features stand side by side, absent ones as zeros.

Their LSTM runs over padding, so in their code the logits of a dialogue depend on the longest one of its batch; in ours
nothing does. Their edge weights have a vector for each of 110 places and fail on a longer dialogue; ours uses the last
vector for all places from there on. In their code an utterance's window says who hears it; here `past` and `future` say what
it hears, which is the same where the two are equal, as they are in their script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import setting
from ..data.batch import Batch
from ..layers.dropout import Dropout
from ..layers.heads import Logits, weighted_loss
from ..layers.nodal_attention import NodalAttention
from ..layers.relational import NeighbourSum, PlaceWeights, RelationalConvolution, RelationalGraph
from ..layers.sequence import Recurrent
from .registry import About

CONTEXTS = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' command for IEMOCAP.

    Attributes:
        context: the recurrent layers in front of the graph, "lstm" as in the authors' command or "gru" as in the paper.
        context_layers: how many of them.
        context_hidden: width of the state of each direction.
        past, future: how many utterances back and ahead an utterance hears.
        bases: matrices that the relations share; null gives each relation its own.
        graph_hidden: width of the graph layers, and of the hidden layer before the classes.
        places: places in a dialogue that have an edge weight vector of their own; all from the last on share it.
        attention: whether every utterance attends to its whole dialogue before the hidden layer.
        dropout: between recurrent layers and behind the hidden layer.
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


class DialogueGCN(nn.Module):
    """Dialogue graph convolutional network. Arguments as `erc_toolkit.train.models.registry` says."""

    Settings = Settings
    about = About("DialogueGCN", "arXiv 1908.11540, EMNLP 2019", "their code")

    def __init__(
        self,
        config: Settings,
        dims: Mapping[str, int],
        speakers: int,
        class_counts: Tensor,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dims = config, dict(dims)
        size, width = 2 * config.context_hidden, config.graph_hidden
        self.context = Recurrent(
            CONTEXTS[config.context],
            sum(dims.values()),
            config.context_hidden,
            config.context_layers,
            dropout=config.dropout,
        )
        self.edges = PlaceWeights(size, config.places)
        self.relational = RelationalConvolution(size, width, speakers, config.bases)
        self.plain = NeighbourSum(width, width)
        self.attention = NodalAttention(size + width) if config.attention else None
        self.hidden, self.output = nn.Linear(size + width, width), nn.Linear(width, len(class_counts))
        self.dropout = Dropout(config.dropout)
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch, epoch: int = 0) -> Logits:
        """Logits of a batch."""
        longest, rows = int(batch.offsets.diff().max()), len(batch.labels)
        x = self.context(torch.cat([batch.features[m] for m in self.dims], 1), batch.offsets)
        graph = RelationalGraph(batch.speakers, batch.dialogue, self.config.past, self.config.future, longest)
        begin = batch.offsets.to(x.device, non_blocking=True).index_select(0, batch.dialogue)
        place = torch.arange(rows, device=x.device) - begin
        y = self.plain(self.relational(x, graph, self.edges(x, graph, place)), graph)
        x = torch.cat([x, y], 1)
        if self.attention is not None:
            x = self.attention(x, batch.offsets)
        return Logits(self.output(self.dropout(torch.relu(self.hidden(x)))))

    def loss(self, output: Logits, batch: Batch) -> Tensor:
        """Cross-entropy, a mean over labelled utterances weighted by class."""
        return weighted_loss(output.logits, batch.labels, self.class_weights)
