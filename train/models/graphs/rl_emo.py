"""RL-EMO (ICASSP 2024): a graph of each modality, and a loss from Q-learning beside the cross-entropy, after its code.

Text goes through the encoder that M3NET has, audio and visual through a linear map. Each modality has a graph of the
dialogue (`erc_toolkit.train.layers.multimodal.angular_graph`) and a stack of convolutions
(`erc_toolkit.train.layers.multimodal.initial_residual`); each utterance is classified from inputs and outputs of all.
Speakers are not used.

Its log probabilities are taken for values of actions. In every training step the actor that chooses the most probable
class has the same weights as the critic that learns, so the step is one on the loss below; no other network and no
memory is needed. `docs/explanation/models/rl-emo.md` has the derivation.

An absent feature has no edges and is left out of the readout. An utterance without any has the log prior of the
training split as logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....toolkit.base.device import to_device
from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.multimodal.angular_graph import AngularGraph
from ...layers.multimodal.initial_residual import InitialResidualConvolution
from ...layers.sequences.text_encoder import TextEncoder
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`. Defaults are those of the README's command for IEMOCAP.

    Attributes:
        size: width of a node; each direction of the GRU has half of it.
        encoder_layers: of the GRU.
        text_layers: number of vectors concatenated in the text feature, which are averaged; None for as many as
            `data.text` concatenates.
        graph_size: width within the graph convolution.
        layers: graph convolutions of each modality.
        alpha: share of a convolution's output that comes from the stack's input.
        lam: strength of the weights relative to the identity in the first convolutions.
        dropout: between layers of the GRU, before and after every stack and before the output; it has no effect with
            `frozen`.
        step: how far the target of a value moves from it towards the reward, `alpha2` of their program.
        discount: of the value of the next utterance, `gamma` of their program.
        episodes: "batch", as in the released code: the next utterance is that in the batch, which may belong to
            another dialogue, and the last one has no loss. Or "dialogue": the last one of each has no next value.
        frozen: training steps are computed as in evaluation, as in the released code: no dropout, and the batch norm
            keeps its initial statistics, mean 0 and variance 1.
        padded: batch norm and GRU run over the padding after shorter dialogues, as in the released code, so that a
            dialogue's logits depend on the longest in its batch.
    """

    name: str = "rl-emo"
    size: int = setting(512, least=2)
    encoder_layers: int = setting(2, least=1)
    text_layers: int | None = setting(None, least=1)
    graph_size: int = setting(512, least=1)
    layers: int = setting(4, least=1)
    alpha: float = setting(0.1, least=0, most=1)
    lam: float = setting(0.5, least=0)
    dropout: float = setting(0.5, least=0, below=1)
    step: float = setting(0.5, least=0, most=1)
    discount: float = setting(0.0, least=0, most=1)
    episodes: str = setting("batch", choices=("batch", "dialogue"))
    frozen: bool = True
    padded: bool = False

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        if self.size % 2:
            raise UserError(f"{where}: model.size={self.size} must be even")


class ModalityGraph(nn.Module):
    """The convolutions over the graph of one modality.

    Args:
        settings: of the model.
        dropout: before and after the stack.
    """

    def __init__(self, settings: Settings, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(settings.size, settings.graph_size)
        self.layers = nn.ModuleList(
            InitialResidualConvolution(settings.graph_size, depth, settings.alpha, settings.lam)
            for depth in range(1, settings.layers + 1)
        )
        self.dropout = Dropout(dropout)

    def forward(self, nodes: Tensor, present: Tensor, offsets: Tensor) -> Tensor:
        """Nodes [N, size], present [N], offsets [B + 1] to [N, size + graph_size]; 0 where not present."""
        graph = AngularGraph(nodes[:, None], offsets, present[:, None])
        x = self.dropout(nodes)
        initial = torch.relu(self.first(x))
        y = self.dropout(initial)
        for layer in self.layers:
            y = torch.relu(layer(graph.propagate(y[:, None])[:, 0], initial))
        return torch.where(present[:, None], torch.cat([x, self.dropout(y)], 1), 0)


class RLEMO(Model[Settings]):
    """A classifier on graphs of the modalities, trained with a loss from Q-learning."""

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("RL-EMO", "ICASSP 2024, pp. 10246-10250", "their code")

    def build(self) -> None:
        settings = self.settings
        rate = 0.0 if settings.frozen else settings.dropout
        self.encoder = None
        if "text" in self.dims:
            self.encoder = TextEncoder(
                self.dims["text"],
                settings.size,
                vectors=settings.text_layers or 1,
                layers=settings.encoder_layers,
                dropout=rate,
                padded=settings.padded,
            )
        others = {m: dim for m, dim in self.dims.items() if m != "text"}
        self.projections = nn.ModuleDict({m: nn.Linear(dim, settings.size) for m, dim in others.items()})
        self.graphs = nn.ModuleDict({m: ModalityGraph(settings, rate) for m in self.dims})
        self.output = nn.Linear(len(self.dims) * (settings.size + settings.graph_size), self.classes)
        self.dropout = Dropout(rate)
        self.keep_prior()
        self.train(self.training)

    def train(self, mode: bool = True) -> RLEMO:
        """Sets the mode of all layers; with `Settings.frozen` the batch norm remains in evaluation."""
        super().train(mode)
        if self.settings.frozen and self.encoder is not None:
            self.encoder.norm.eval()
        return self

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        parts = [graph(self._nodes(m, batch), batch.present[m], batch.offsets) for m, graph in self.graphs.items()]
        logits = self.output(torch.relu(self.dropout(torch.cat(parts, 1))))
        present = torch.stack(list(batch.present.values())).any(0)
        return ModelOutput(torch.where(present[:, None], logits, self.log_prior.to(logits.dtype)))

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The cross-entropy weighted by class and the loss of the values, a scalar; 0 if nothing is labelled."""
        settings = self.settings
        values = value_loss(output.logits, batch, settings.step, settings.discount, settings.episodes == "dialogue")
        return weighted_loss(output.logits, batch.labels, self.class_weights) + values

    def _nodes(self, modality: str, batch: Batch) -> Tensor:
        """The vectors of a modality's nodes, [N, size]."""
        features = batch.features[modality]
        if modality != "text" or self.encoder is None:
            return self.projections[modality](features)
        return self.encoder(features, batch.present[modality], batch.offsets)


def value_loss(logits: Tensor, batch: Batch, step: float, discount: float, by_dialogue: bool) -> Tensor:
    """RL-EMO's loss from Q-learning: the mean over labelled utterances of (q - target)^2, 0 if there are none.

    q is the log probability of the most probable class, the reward r is 1 if that is the label and -1 otherwise, and
    the target (1 - step) q + step (r + discount q') with q' of the next utterance. Targets are constants.

    Args:
        logits: [N, C].
        batch: for the labels and the dialogues.
        step, discount: as in `Settings`.
        by_dialogue: whether each dialogue is an episode, after which nothing follows. Otherwise the batch is one, and
            the target of its last utterance is q.
    """
    log_p = (logits.float() if logits.dtype == torch.bfloat16 else logits).log_softmax(-1)
    action = log_p.detach().argmax(-1)
    value = log_p.gather(1, action[:, None])[:, 0]
    old = value.detach()
    reward = torch.where(action == batch.labels, 1.0, -1.0).to(old.dtype)
    following = old.roll(-1)
    if by_dialogue:
        following = following.index_fill(0, to_device(batch.offsets[1:] - 1, old.device), 0)
    target = (1 - step) * old + step * (reward + discount * following)
    if not by_dialogue:
        target = torch.cat([target[:-1], old[-1:]])
    counted = (batch.labels >= 0).to(old.dtype)
    return (counted * (value - target).square()).sum() / counted.sum().clamp_min(1)
