"""GraphSmile (arXiv 2407.21536, IEEE TPAMI 2025): edges between two modalities at a time, and sentiment as a help.

It follows the authors' code. Each modality goes through a linear map; the text is batch-normalised before. For every
pair of modalities, a stack of graph convolutions passes messages between their nodes of nearby utterances
(`erc_toolkit.train.layers.multimodal.modality_graph`); the outputs of all layers are added. What all stacks give for an
utterance is averaged. From it the emotion is predicted and, as auxiliary tasks, the sentiment and whether two
utterances differ in sentiment. `docs/explanation/models/graphsmile.md` has the equations.

Utterances may lack modalities: an absent feature has no edges and is not in the average. An utterance without any has
the log prior of the training split as logits, and is in no auxiliary task. With one modality there are no stacks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.device import to_device
from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.masked_norm import MaskedBatchNorm
from ...layers.multimodal.modality_graph import ModalityPropagation, WindowEdges
from ...settings import TrainConfig, setting
from ..base import Model, ModelInfo, ModelOutput

_SENTIMENTS = 3  # negative, neutral, positive


@dataclass
class Settings:
    """Section `model`. Defaults are those of the authors' command for IEMOCAP.

    Attributes:
        hidden: channels of every modality and of the graph.
        past, future: how many utterances back and ahead a node has edges to; -1 for all.
        layers: graph convolutions of each pair of modalities.
        dropout: after the modalities' linear maps and those of the layers' outputs.
        edge_weights: which edges share a learned weight. "dialogue": those of the same number in their dialogues;
            "batch": none, edges are numbered through the batch, as in the released code, so that a dialogue's logits
            depend on the batch; "none": there are no weights.
        edge_slots: number of learned weights of each pair of modalities; edges beyond have weight 1.
        sentiments: for each class, in the order of the store's labels, 0 if it is negative, 1 if neutral, 2 if
            positive; -1 for a class that can be either, which the auxiliary tasks leave out. null disables them.
        shift_window: length of the stretches of a dialogue within which pairs of utterances are compared; -1 for whole
            dialogues.
        emotion_weight, sentiment_weight, shift_weight: of the three losses.
        padded: the text's batch normalisation counts the padding after shorter dialogues, as in the released code.
    """

    name: str = "graphsmile"
    hidden: int = setting(512, least=1)
    past: int = setting(17, least=-1)
    future: int = setting(17, least=-1)
    layers: int = setting(7, least=1)
    dropout: float = setting(0.2, least=0, below=1)
    edge_weights: str = setting("dialogue", choices=("dialogue", "batch", "none"))
    edge_slots: int = setting(500_000, least=1)
    sentiments: list[int] | None = None
    shift_window: int = setting(19, least=-1)
    emotion_weight: float = setting(1.0, least=0)
    sentiment_weight: float = setting(1.0, least=0)
    shift_weight: float = setting(0.7, least=0)
    padded: bool = False

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        if self.shift_window == 0:
            raise UserError(f"{where}: model.shift_window=0 must be at least 1, or -1 for whole dialogues")
        if self.sentiments is not None and not set(self.sentiments) <= set(range(-1, _SENTIMENTS)):
            raise UserError(
                f"{where}: model.sentiments={self.sentiments} must have 0 (negative), 1 (neutral), 2 (positive) or -1 "
                "(none) for each class"
            )

    def idle(self, train: TrainConfig) -> dict[str, str]:
        """Settings that change nothing, with the reason."""
        found: dict[str, str] = {}
        if self.sentiments is None:
            reason = "model.sentiments is null, so there are no auxiliary tasks"
            found |= dict.fromkeys(("shift_window", "sentiment_weight", "shift_weight"), reason)
        if self.edge_weights == "none":
            found["edge_slots"] = "model.edge_weights is none"
        return found


class PairConvolution(nn.Linear):
    """P x W + b of the nodes of two modalities; initial values as in `nn.Linear`, and in theirs."""

    def forward(self, x: Tensor, matrix: Tensor, edges: WindowEdges) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[2, N, size] to the same; `matrix` is `ModalityPropagation`'s."""
        sent = F.linear(x, self.weight).flip(0)
        return edges.blocks.gather(matrix.to(sent.dtype), sent) + self.bias


class PairStack(nn.Module):
    """Graph convolutions between the nodes of two modalities; the input and a map of each layer's output are added.

    As in the authors' code, nothing nonlinear is between the convolutions, and all layers begin with equal weights.

    Args:
        size: channels.
        layers: number of convolutions.
        dropout: after the map of a layer's output.
        slots: learned weights of edges, see `ModalityPropagation`.
    """

    def __init__(self, size: int, layers: int, dropout: float, slots: int) -> None:
        super().__init__()
        self.propagation = ModalityPropagation(slots)
        convolution, output = PairConvolution(size, size), nn.Linear(size, size)
        self.convolutions = nn.ModuleList(copy.deepcopy(convolution) for _ in range(layers))
        self.outputs = nn.ModuleList(copy.deepcopy(output) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, edges: WindowEdges, present: Tensor) -> Tensor:
        """[2, N, size] of the two modalities to the same; `present` [2, N] bool."""
        matrix = self.propagation(edges, present, x)
        total = x
        for convolution, output in zip(self.convolutions, self.outputs, strict=True):
            x = convolution(x, matrix, edges)
            total = total + self.dropout(F.leaky_relu(output(x)))
        return total


class GraphSmile(Model[Settings]):
    """Graph structure fusion and sentiment dynamics perception.

    Raises:
        UserError: `settings.sentiments` does not have one entry per class.
    """

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("GraphSmile", "arXiv 2407.21536, IEEE TPAMI 2025", "their code")
    sentiments: Tensor | None

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        self.norm = MaskedBatchNorm(self.dims["text"]) if "text" in self.dims else None
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size) for m, dim in self.dims.items()})
        # The authors' order of modalities is text, visual, audio; it decides which edges come first.
        order = [m for m in ("text", "visual", "audio") if m in self.dims]
        slots = 0 if settings.edge_weights == "none" else settings.edge_slots
        self.pairs = nn.ModuleDict(
            {f"{m}+{n}": PairStack(size, settings.layers, settings.dropout, slots) for m, n in combinations(order, 2)}
        )
        self.fusion = nn.Linear(size, size)
        self.output = nn.Linear(size, self.classes)
        self.sentiment = self.shift = sentiments = None
        if settings.sentiments is not None:
            if len(settings.sentiments) != self.classes:
                raise UserError(
                    f"model.sentiments has {len(settings.sentiments)} entries, but the number of classes is "
                    f"{self.classes}; give one for each class, or null"
                )
            sentiments = torch.tensor(settings.sentiments)
            self.sentiment = nn.Linear(size, _SENTIMENTS)
            self.shift = nn.Linear(2 * size, 2)
        self.register_buffer("sentiments", sentiments, persistent=False)
        self.dropout = Dropout(settings.dropout)
        self.keep_prior()

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch.

        With auxiliary tasks, `parts["sentiment"]` has the sentiments' logits, [N, 3], and `parts["shift"]` those of
        "equal" and "different" for the pairs of utterances of each stretch, [stretches, window, window, 2].
        """
        x = {m: self._projected(m, batch) for m in self.projections}
        present = torch.stack([batch.present[m] for m in self.dims])
        fused = self._fused(x, batch)
        known = present.any(0)
        logits = torch.where(known[:, None], self.output(fused), self.log_prior)
        parts: dict[str, Tensor] = {}
        if self.sentiment is not None and self.shift is not None:
            parts["sentiment"] = self.sentiment(fused)
            # One linear map of two concatenated vectors is the sum of a map of each.
            first, second = (
                self._stretches(F.linear(fused, weight), batch, 0) for weight in self.shift.weight.chunk(2, 1)
            )
            parts["shift"] = first[:, :, None] + second[:, None] + self.shift.bias
        return ModelOutput(logits, parts=parts)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The weighted sum of three cross-entropies, a scalar: emotions, sentiments, and pairs of utterances.

        Each is a mean over what is labelled; only that of the emotions is weighted by class.
        """
        settings = self.settings
        total = settings.emotion_weight * weighted_loss(output.logits, batch.labels, self.class_weights)
        if self.sentiments is None:
            return total
        present = torch.stack([batch.present[m] for m in self.dims]).any(0)
        labels = torch.where((batch.labels >= 0) & present, self.sentiments[batch.labels.clamp_min(0)], -1)
        total = total + settings.sentiment_weight * weighted_loss(output.parts["sentiment"], labels)
        own = self._stretches(labels, batch, -1)
        first, second = own[:, :, None], own[:, None]
        differ = torch.where((first >= 0) & (second >= 0), first != second, -1)
        return total + settings.shift_weight * weighted_loss(output.parts["shift"].flatten(0, 2), differ.flatten())

    def _projected(self, modality: str, batch: Batch) -> Tensor:
        """The initial vectors of a modality's nodes, [N, hidden]."""
        x = batch.features[modality]
        if modality == "text" and self.norm is not None:
            zeros = len(batch) * batch.longest - len(x) if self.settings.padded else 0
            x = self.norm(x, batch.present[modality], zeros)
        return self.dropout(F.leaky_relu(self.projections[modality](x)))

    def _fused(self, x: dict[str, Tensor], batch: Batch) -> Tensor:
        """[N, hidden], the mean over present modalities and stacks; zeros for an utterance without modalities."""
        if not self.pairs:
            ((modality, only),) = x.items()
            outputs, present = only[None], batch.present[modality][None]
        else:
            settings = self.settings
            edges = WindowEdges(batch.packing, settings.past, settings.future, settings.edge_weights == "batch")
            found, there = [], []
            for name, stack in self.pairs.items():
                pair = name.split("+")
                there.append(torch.stack([batch.present[m] for m in pair]))
                found.append(stack(torch.stack([x[m] for m in pair]), edges, there[-1]))
            outputs, present = torch.cat(found), torch.cat(there)
        outputs = torch.where(present[..., None], F.leaky_relu(self.fusion(outputs)), 0)
        return outputs.sum(0) / present.sum(0).clamp_min(1)[:, None]

    def _stretches(self, x: Tensor, batch: Batch, fill: int) -> Tensor:
        """[N, …] to [stretches, window, …]: dialogues cut into stretches, the last one of each filled up."""
        window = self.settings.shift_window
        window = batch.longest if window == -1 else window
        counts = -(-batch.offsets.diff() // window)
        start = to_device(window * (counts.cumsum(0) - counts), x.device)
        rows = start[batch.dialogue] + batch.place
        padded = x.new_full((int(counts.sum()) * window, *x.shape[1:]), fill)
        return padded.index_copy(0, rows, x).unflatten(0, (-1, window))
