"""M3NET (CVPR 2023): hypergraph convolutions beside convolutions of high and low frequencies, after its released code.

Text, several RoBERTa vectors that are batch-normalised and averaged, goes through a two-layer bidirectional GRU, and
its speaker's embedding is added; audio and visual have a linear map alone. Two stacks over the same nodes follow,
`erc_toolkit.train.layers.multimodal.hypergraph`. Each utterance is classified from both outputs for all its modalities.
`docs/explanation/models/m3net.md` has the equations.

The released code numbers the nodes and hyperedges of a batch to look up their weights, and its GRU and its batch norm
run over the padding after shorter dialogues; here both are optional (`numbering`, `padded`). Without text a model has
neither GRU nor speakers. An absent feature has no node. An utterance without any has the log prior of the training
split as logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....toolkit.base.device import to_device
from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import released_loss, weighted_loss
from ...layers.multimodal.hypergraph import FrequencyConvolution, Hypergraph, HypergraphConvolution
from ...layers.sequence import PaddedDialogues
from ...layers.sequences.text_encoder import TextEncoder
from ...layers.speakers import SpeakerEmbedding
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput

_HYPEREDGES, _NODES = 1000, 5200  # lengths of the released tables of weights


@dataclass
class Settings:
    """Section `model`. Defaults are those of the README's command for IEMOCAP.

    Attributes:
        size: width of a node before the graph; each direction of the GRU has half of it.
        encoder_layers: of the GRU.
        text_layers: number of vectors concatenated in the text feature, which are averaged; None for as many as
            `data.text` concatenates.
        text_projection: whether text has a linear map before the GRU; the released code has none on MELD.
        graph_size: width within the graph.
        hypergraph_layers: convolutions over hyperedges.
        frequency_layers: convolutions over neighbours.
        dropout: between layers of the GRU and before the output.
        numbering: by what number a node or hyperedge looks up its weight: that in its "dialogue", or that in its
            "batch", as in the released code, so that a dialogue's logits depend on those before it.
        padded: the batch norm and the GRU run over the padding after shorter dialogues, as in the released code, so
            that a dialogue's logits depend on the longest in its batch.
        loss: "nll", the cross-entropy weighted by class, or "released", what the code minimises on MELD:
            `erc_toolkit.train.layers.losses.released_loss`.
    """

    name: str = "m3net"
    size: int = setting(512, least=2)
    encoder_layers: int = setting(2, least=1)
    text_layers: int | None = setting(None, least=1)
    text_projection: bool = True
    graph_size: int = setting(512, least=1)
    hypergraph_layers: int = setting(3, least=1)
    frequency_layers: int = setting(4, least=1)
    dropout: float = setting(0.5, least=0, below=1)
    numbering: str = setting("dialogue", choices=("dialogue", "batch"))
    padded: bool = False
    loss: str = setting("nll", choices=("nll", "released"))

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        if self.size % 2:
            raise UserError(f"{where}: model.size={self.size} must be even")


class M3NET(Model[Settings]):
    """Multivariate, multi-frequency and multimodal graph network."""

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("M3NET", "CVPR 2023, pp. 10761-10770", "their code")

    def build(self) -> None:
        settings, size = self.settings, self.settings.graph_size
        self.encoder = self.speaker = None
        if "text" in self.dims:
            self.encoder = TextEncoder(
                self.dims["text"],
                settings.size,
                vectors=settings.text_layers or 1,
                layers=settings.encoder_layers,
                dropout=settings.dropout,
                projected=settings.text_projection,
                padded=settings.padded,
            )
            self.speaker = SpeakerEmbedding(self.speakers, settings.size)
            self.speaker_use = "embedding"
        others = {m: dim for m, dim in self.dims.items() if m != "text"}
        self.projections = nn.ModuleDict({m: nn.Linear(dim, settings.size) for m, dim in others.items()})
        self.first = nn.Linear(settings.size, size)
        self.hyperedge_weights = nn.Parameter(torch.ones(_HYPEREDGES))
        self.node_weights = nn.Parameter(torch.ones(_NODES))
        self.hypergraph = nn.ModuleList(HypergraphConvolution(size) for _ in range(settings.hypergraph_layers))
        self.frequency = nn.ModuleList(FrequencyConvolution(size) for _ in range(settings.frequency_layers))
        self.output = nn.Linear(len(self.dims) * 2 * size, self.classes)
        self.dropout = Dropout(settings.dropout)
        self.keep_prior()

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        padded = PaddedDialogues(batch.offsets, batch.device)
        present = torch.stack([batch.present[m] for m in self.dims], 1)
        graph = self._graph(padded, padded.pad(present).transpose(1, 2), batch)
        nodes = torch.stack([self._nodes(m, batch) for m in self.dims], 1)
        wide = low = padded.pad(self.first(nodes)).transpose(1, 2)  # [B, M, L, graph_size]
        for layer in self.hypergraph:
            wide = layer(wide, graph)
        for layer in self.frequency:
            low = low + layer(low, graph)
        readout = padded.pack(torch.cat([wide, low], -1).transpose(1, 2))
        readout = torch.where(present[..., None], readout, 0).flatten(1)
        logits = self.output(torch.relu(self.dropout(readout)))
        return ModelOutput(torch.where(present.any(1)[:, None], logits, self.log_prior.to(logits.dtype)))

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The loss that `Settings.loss` names, over labelled utterances."""
        if self.settings.loss == "released":
            return released_loss(output.logits, batch.labels)
        return weighted_loss(output.logits, batch.labels, self.class_weights)

    def _nodes(self, modality: str, batch: Batch) -> Tensor:
        """The initial vectors of a modality's nodes, [N, size]."""
        features = batch.features[modality]
        if modality != "text" or self.encoder is None or self.speaker is None:
            return self.projections[modality](features)
        return self.encoder(features, batch.present[modality], batch.offsets) + self.speaker(batch.speakers)

    def _graph(self, padded: PaddedDialogues, there: Tensor, batch: Batch) -> Hypergraph:
        """The graph of a batch whose nodes `there`, [B, M, L], exist, with the weights of their numbers."""
        _, kinds, longest = there.shape
        lengths, place, kind = padded.lengths[:, None, None], torch.arange(longest), torch.arange(kinds)[:, None]
        first = batch.offsets[:-1, None, None] if self.settings.numbering == "batch" else torch.zeros_like(lengths)
        dialogue = torch.arange(len(batch))[:, None, None] if self.settings.numbering == "batch" else 0
        # A dialogue's nodes are numbered by modality, then by place; its hyperedges are modalities, then utterances.
        edge = first + kinds * dialogue
        return Hypergraph(
            there,
            _look_up(self.node_weights, kinds * first + kind * lengths + place),
            _look_up(self.hyperedge_weights, edge + kind),
            _look_up(self.hyperedge_weights, edge + kinds + place),
        )


def _look_up(table: Tensor, numbers: Tensor) -> Tensor:
    """The weights of these numbers, int64 on the CPU; those after the table's end have its initial value, 1."""
    return torch.cat([table, table.new_ones(1)])[to_device(numbers.clamp_max(len(table)), table.device)]
