"""MM-DFN (arXiv 2203.02385): dynamic fusion on the graph of MMGCN, following its released code.

The features of all modalities are mapped to the same width. Text then goes through a bidirectional GRU over the
dialogue; the states of a second GRU, shared by all modalities, over the utterances of each speaker are added to each
modality. The layers over the graph (`erc_toolkit.train.layers.multimodal.angular_graph`,
`erc_toolkit.train.layers.multimodal.initial_residual`) are connected by an LSTM over the depth: at each layer its input
is a node's features and its output is propagated. The code calls its recurrent layers LSTM; they are GRUs.

The released GRUs run over the padding after shorter dialogues and speakers; here that is optional (`padded`). Without
text there is no GRU over the dialogue; with one modality the graph holds that modality's nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.device import to_device
from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import focal_loss
from ...layers.multimodal.angular_graph import AngularGraph
from ...layers.multimodal.initial_residual import InitialResidualConvolution
from ...layers.sequence import PaddedDialogues, RecurrentLayer
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`.

    Attributes:
        size: width of a node; each direction of the GRUs has half of it.
        encoder_layers: of the GRUs.
        speaker_text, speaker_audio, speaker_visual: weight of the speaker GRU's states in each modality.
        graph_size: width within the graph convolution and of the LSTM over its depth.
        layers: graph convolutions.
        alpha: share of a convolution's output that comes from the stack's input.
        lam: strength of the weights relative to the identity in the first convolutions.
        dropout: between layers of the GRUs, before and after every convolution and before the output.
        gamma: exponent of the focal loss.
        padded: the GRUs run over the padding after shorter dialogues and after the utterances of each speaker, as in
            the released code, so that a dialogue's logits depend on the longest in its batch.
    """

    name: str = "mm-dfn"
    size: int = setting(200, least=2)
    encoder_layers: int = setting(2, least=1)
    speaker_text: float = setting(1.0, least=0)
    speaker_audio: float = setting(3.0, least=0)
    speaker_visual: float = setting(0.0, least=0)
    graph_size: int = setting(100, least=1)
    layers: int = setting(16, least=1)
    alpha: float = setting(0.2, least=0, most=1)
    lam: float = setting(0.5, least=0)
    dropout: float = setting(0.4, least=0, below=1)
    gamma: float = setting(0.5, least=0)
    padded: bool = False

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        if self.size % 2:
            raise UserError(f"{where}: model.size={self.size} must be even")


class MMDFN(Model[Settings]):
    """Multimodal dynamic fusion network; it works for any number of speakers."""

    Settings = Settings
    about = ModelInfo("MM-DFN", "arXiv 2203.02385 (ICASSP 2022)", "their code")

    def build(self) -> None:
        settings = self.settings

        def gru() -> RecurrentLayer:
            return RecurrentLayer(
                nn.GRU, settings.size, settings.size // 2, settings.encoder_layers, dropout=settings.dropout
            )

        self.projections = nn.ModuleDict({m: nn.Linear(dim, settings.size) for m, dim in self.dims.items()})
        self.encoder = gru() if "text" in self.dims else None
        weights = {m: getattr(settings, f"speaker_{m}") for m in self.dims}
        self.speaker_weights = {m: weight for m, weight in weights.items() if weight}
        self.speaker_encoder = gru() if self.speaker_weights else None
        self.speaker_use = "identity" if self.speaker_weights else "none"
        self.first = nn.Linear(settings.size, settings.graph_size)
        self.depth = nn.LSTMCell(settings.graph_size, settings.graph_size)
        self.layers = nn.ModuleList(
            InitialResidualConvolution(settings.graph_size, depth, settings.alpha, settings.lam)
            for depth in range(1, settings.layers + 1)
        )
        self.output = nn.Linear(len(self.dims) * (settings.size + settings.graph_size), self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        nodes = self._nodes(batch)
        graph = AngularGraph(nodes, batch.offsets)
        x = self.dropout(nodes)
        initial = torch.relu(self.first(x))
        y, state = self.dropout(initial), None
        for layer in self.layers:
            state = self.depth(y.flatten(0, 1), state)
            propagated = state[0].unflatten(0, y.shape[:2])
            y = y + self.dropout(torch.relu(layer(graph.propagate(propagated), initial)))
        readout = torch.cat([x, y], -1).flatten(1)
        return ModelOutput(self.output(torch.relu(self.dropout(readout))))

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Focal loss weighted by class, a mean over labelled utterances."""
        return focal_loss(output.logits, batch.labels, self.settings.gamma, self.class_weights)

    def _nodes(self, batch: Batch) -> Tensor:
        """The initial vectors of the graph's nodes, [N, M, size]."""
        x = {m: projection(batch.features[m]) for m, projection in self.projections.items()}
        nodes = dict(x)
        if self.encoder is not None:
            if self.settings.padded:
                nodes["text"] = self._padded_context(self.encoder, batch)
            else:
                nodes["text"] = self.encoder(x["text"], batch.offsets)
        for modality, states in self._by_speaker(x, batch).items():
            nodes[modality] = nodes[modality] + self.speaker_weights[modality] * states
        return torch.stack(list(nodes.values()), 1)

    def _padded_context(self, encoder: RecurrentLayer, batch: Batch) -> Tensor:
        features = batch.features["text"]
        padded = PaddedDialogues(batch.offsets, features.device)
        return padded.pack(encoder.through_padding(self.projections["text"](padded.pad(features))))

    def _by_speaker(self, x: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Modality to [N, size], the GRU's states over each speaker's utterances, except with weight 0."""
        chosen, encoder = list(self.speaker_weights), self.speaker_encoder
        if encoder is None:
            return {}
        # One sequence for each speaker of each dialogue and modality, all concatenated.
        # Their lengths decide shapes, so the host computes them.
        dialogue = torch.arange(len(batch)).repeat_interleave(batch.offsets.diff())
        key = dialogue * (batch.host_people.max() + 1) + batch.host_people
        order = key.argsort(stable=True)
        lengths = key[order].unique_consecutive(return_counts=True)[1].repeat(len(chosen))
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        order = to_device(order, batch.device)
        rows = torch.cat([x[modality].index_select(0, order) for modality in chosen])
        if self.settings.padded:
            padded = PaddedDialogues(offsets, rows.device)
            extra = batch.longest - int(lengths.max())
            states = encoder.through_padding(F.pad(padded.pad(rows), (0, 0, 0, extra)))
            states = padded.pack(states[:, : int(lengths.max())])
        else:
            states = encoder(rows, offsets)
        parts = states.split(len(order))
        return {m: torch.empty_like(part).index_copy(0, order, part) for m, part in zip(chosen, parts, strict=True)}
