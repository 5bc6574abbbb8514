"""MMGCN (arXiv 2107.06779): a deep graph convolution over one graph of all modalities, following its released code.

Text goes through a linear map and a two-layer bidirectional LSTM, and its speaker's embedding is added; audio and
visual have a linear map alone. `erc_toolkit.train.layers.multimodal.angular_graph` is the graph,
`erc_toolkit.train.layers.multimodal.initial_residual` a layer. Each utterance is classified from the input and output
vectors of the graph for all its modalities.

The released LSTM runs over the padding after the shorter dialogues of a batch; here that is optional (`padded`).
Without text a model has neither LSTM nor speakers; with one modality the graph holds that modality's nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import released_loss, weighted_loss
from ...layers.multimodal.angular_graph import AngularGraph
from ...layers.multimodal.initial_residual import InitialResidualConvolution
from ...layers.sequence import PaddedDialogues, RecurrentLayer
from ...layers.speakers import SpeakerEmbedding
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`.

    Attributes:
        size: width of a node; each direction of the LSTM has half of it.
        encoder_layers: of the LSTM.
        graph_size: width within the graph convolution.
        layers: graph convolutions. The released code has 64, regardless of its script.
        alpha: share of a convolution's output that comes from the stack's input.
        lam: strength of the weights relative to the identity in the first convolutions.
        dropout: between layers of the LSTM, before every convolution and before the output.
        padded: the LSTM runs over the padding after shorter dialogues, as in the released code, so that a dialogue's
            logits depend on the longest in its batch.
        loss: "nll", the cross-entropy weighted by class, or "released", what the code minimises on MELD in place of a
            focal loss: the mean over utterances and all classes c of -(1 - [c = y] log p_c)^2.5 log p_c, without class
            weights.
    """

    name: str = "mmgcn"
    size: int = setting(200, least=2)
    encoder_layers: int = setting(2, least=1)
    graph_size: int = setting(100, least=1)
    layers: int = setting(64, least=1)
    alpha: float = setting(0.1, least=0, most=1)
    lam: float = setting(0.5, least=0)
    dropout: float = setting(0.4, least=0, below=1)
    padded: bool = False
    loss: str = setting("nll", choices=("nll", "released"))

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        if self.size % 2:
            raise UserError(f"{where}: model.size={self.size} must be even")


class MMGCN(Model[Settings]):
    """Multimodal fusion by deep graph convolution."""

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("MMGCN", "arXiv 2107.06779 (ACL 2021)", "their code")

    def build(self) -> None:
        settings = self.settings
        self.projections = nn.ModuleDict({m: nn.Linear(dim, settings.size) for m, dim in self.dims.items()})
        self.encoder = self.speaker = None
        if "text" in self.dims:
            self.encoder = RecurrentLayer(
                nn.LSTM, settings.size, settings.size // 2, settings.encoder_layers, dropout=settings.dropout
            )
            self.speaker = SpeakerEmbedding(self.speakers, settings.size)
            self.speaker_use = "embedding"
        self.first = nn.Linear(settings.size, settings.graph_size)
        self.layers = nn.ModuleList(
            InitialResidualConvolution(settings.graph_size, depth, settings.alpha, settings.lam)
            for depth in range(1, settings.layers + 1)
        )
        self.output = nn.Linear(len(self.dims) * (settings.size + settings.graph_size), self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        nodes = torch.stack([self._nodes(modality, batch) for modality in self.projections], 1)
        graph = AngularGraph(nodes, batch.offsets)
        x = self.dropout(nodes)
        initial = y = torch.relu(self.first(x))
        for layer in self.layers:
            y = torch.relu(layer(graph.propagate(self.dropout(y)), initial))
        readout = torch.cat([x, self.dropout(y)], -1).flatten(1)
        return ModelOutput(self.output(torch.relu(self.dropout(readout))))

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The loss that `Settings.loss` names, over labelled utterances."""
        if self.settings.loss == "released":
            return released_loss(output.logits, batch.labels)
        return weighted_loss(output.logits, batch.labels, self.class_weights)

    def _nodes(self, modality: str, batch: Batch) -> Tensor:
        """The initial vectors of a modality's nodes, [N, size]."""
        projection, features = self.projections[modality], batch.features[modality]
        if modality != "text" or self.encoder is None or self.speaker is None:
            return projection(features)
        if self.settings.padded:
            padded = PaddedDialogues(batch.offsets, features.device)
            states = padded.pack(self.encoder.through_padding(projection(padded.pad(features))))
        else:
            states = self.encoder(projection(features), batch.offsets)
        return states + self.speaker(batch.speakers)
