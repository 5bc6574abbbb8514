"""AMB-DSGDN (arXiv 2603.10043), in the form of its released code or of its equations.

`erc_toolkit.train.models.variants` names what differs; `docs/explanation/model.md` walks through the equations. In both forms lambda vectors
start with standard deviation 0.1 (with variance 0.1 as written, their exponentials reach hundreds) and a loss is a mean
over utterances (the sum of equation 32 would let the squares of equation 33 grow with the batch).

Utterances may lack modalities. A feature that is absent is no neighbour and no attention key in its modality, and its
logits, loss and balance metric leave it out; with every feature present all of this changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...toolkit.base.errors import UserError
from ..config import ModelConfig
from ..data.batch import Batch
from ..layers.diff_graph_attention import DiffGraphAttention, DiffRGCN
from ..layers.dropout import Dropout
from ..layers.encoder import LocalDialogues, TransformerEncoder, WholeDialogues, sinusoidal_positions
from ..layers.graph import Graph, speaker_graphs
from ..layers.graph_attention import GraphAttention
from ..layers.graph_convolution import GraphConvolution
from ..layers.modality_dropout import Dropped, drop_modalities, dropout_ratios, precision_times_recall, weighted_f1
from .registry import About
from .variants import VARIANTS

PIECE = 4096  # utterances at a time in evaluation: their matrices fit what the allocator keeps
TINY = 1e-12  # the prior of a class that training never saw; a sum of weights below it is an empty sum

# What can stand in the graph blocks; the first is the model's own, the others are for ablations.
GRAPH_LAYERS = {"differential": DiffGraphAttention, "attention": GraphAttention, "convolution": GraphConvolution}


@dataclass(slots=True)
class Output:
    """What the model says about a batch of N utterances.

    Attributes:
        logits: [N, C], fused (equation 29). Where an utterance has no modality: the log prior of the training split.
        unimodal: modality to [N, C], logits of its head alone.
        learnable: [N] bool, utterances that the loss may look at: they have a modality, and modality dropout left
            them one.
        ratios: [M] probabilities q_m that modality dropout used in this step, or None where it was not applied.
    """

    logits: Tensor
    unimodal: dict[str, Tensor]
    learnable: Tensor
    ratios: Tensor | None = None


class Context(NamedTuple):
    """What all modalities of a batch share.

    Attributes:
        inter, intra: the speaker graphs.
        added: [N, hidden], codes of positions and speakers (equation 3); None where no modality has an encoder.
        attend: the encoders' attention (equation 4); None where there is no encoder.
    """

    inter: Graph
    intra: Graph
    added: Tensor | None
    attend: Callable[..., Tensor] | None


class ModalityStream(nn.Module):
    """One modality from features to node representations: projection, encoder, two graph blocks, gate.

    The text has neither encoder (so no positions and no speakers, equations 3 and 6) nor gate, and the variant "paper"
    has no gates at all.
    """

    def __init__(self, config: ModelConfig, dim: int, sequential: bool) -> None:
        super().__init__()
        size = config.hidden
        self.projection = nn.Linear(dim, size)
        self.encoder = TransformerEncoder(size, config.heads, config.dropout) if sequential else None
        switches = VARIANTS[config.variant]
        self.inter, self.intra = (
            DiffRGCN(
                size,
                config.graph_heads,
                config.graph_dropout,
                switches.normalised_attention,
                switches.dropout_everywhere,
                GRAPH_LAYERS[config.graph],
            )
            if config.graph != "none"
            else None
            for _ in range(2)
        )
        self.gate = nn.Linear(size, size) if sequential and switches.gates else None

    def forward(self, features: Tensor, present: Tensor, context: Context) -> Tensor:
        """Features [N, D], present [N], to [N, hidden].

        Rows where the feature is not present are finite and without meaning.
        """
        x = self.projection(features)  # equation 1
        if self.encoder is not None:
            x = self.encoder(x, context.added, context.attend, present)
        if self.inter is not None:
            # First what others said, then what the speaker said (section 4.4).
            x = self.inter(x, context.inter.without(~present))
            x = self.intra(x, context.intra.without(~present))
        if self.gate is not None:
            x = torch.sigmoid(self.gate(x)) * x
        return x


class AMBDSGDN(nn.Module):
    """Adaptive modality-balanced dynamic semantic graph differential network.

    Args:
        config: sizes and probabilities.
        dims: modality ("text", "audio", "visual"; any non-empty choice of them) to the width of its features.
        speakers: number of speaker indices; index `speakers` stands for padding.
        class_counts: [C], labelled utterances of each class in the training split. Gives the number of classes, and
            the prediction for an utterance that has no modality at all.
        class_weights: [C] for the loss, or None for equal weights.
    """

    Settings = ModelConfig
    about = About("AMB-DSGDN", "arXiv 2603.10043", "in full: code and paper")

    def __init__(
        self,
        config: ModelConfig,
        dims: Mapping[str, int],
        speakers: int,
        class_counts: Tensor,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.switches = VARIANTS[config.variant]
        self.classes = len(class_counts)
        sequential = {m: m != "text" for m in dims}
        self.streams = nn.ModuleDict({m: ModalityStream(config, dim, sequential[m]) for m, dim in dims.items()})
        self.heads = nn.ModuleDict({m: nn.Linear(config.hidden, self.classes) for m in dims})
        self.head_dropout = Dropout(config.dropout)
        self.speaker = None
        if any(sequential.values()):
            self.speaker = nn.Embedding(speakers + 1, config.hidden, padding_idx=speakers)
        fusion = None
        if config.fusion is not None:
            if missing := [m for m in dims if m not in config.fusion]:
                raise UserError(f"model.fusion names no weight for {missing[0]}, which the model uses")
            fusion = torch.tensor([config.fusion[m] for m in dims])
        self.register_buffer("fusion", fusion, persistent=False)
        prior = (class_counts / class_counts.sum().clamp_min(1)).clamp_min(TINY)
        self.register_buffer("log_prior", prior.log().to(torch.get_default_dtype()))
        weights = torch.ones(self.classes) if class_weights is None else class_weights
        self.register_buffer("class_weights", weights.to(torch.get_default_dtype()))

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities in use, in the order of `Output.ratios`."""
        return list(self.streams)

    def forward(self, batch: Batch, epoch: int = 0) -> Output:
        """Logits of a batch; in training, from epoch `warm_up` (counted from 0) on, with modality dropout."""
        features = self.represent(batch)
        dropped = self._drop(features, batch) if self.training and epoch >= self.config.warm_up else None
        learnable = torch.zeros_like(batch.dialogue, dtype=torch.bool)
        for index, modality in enumerate(self.modalities):
            present = batch.present[modality]
            if dropped is None:
                learnable = learnable | present
            else:
                factor = dropped.factor[index].to(features[modality].dtype)
                features[modality] = features[modality] * factor[batch.dialogue, None]
                learnable = learnable | (present & dropped.kept[index][batch.dialogue])
        unimodal = {modality: self._head(modality, x) for modality, x in features.items()}
        return Output(self._fuse(unimodal, batch), unimodal, learnable, None if dropped is None else dropped.ratios)

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """Node representations of every modality, [N, hidden], before modality dropout and heads.

        Without gradients and with an encoder window, more than PIECE utterances are done piece by piece, each with all
        the utterances around it that reach into it. That changes memory and nothing else.
        """
        rows, lengths = len(batch.labels), batch.offsets.diff()
        place = torch.arange(rows) - batch.offsets[:-1].repeat_interleave(lengths)
        if torch.is_grad_enabled() or rows <= PIECE or self.config.encoder_window is None:
            return self._represent(batch, place)
        found: dict[str, list[Tensor]] = {m: [] for m in self.streams}
        for start in range(0, rows, PIECE):
            end = min(start + PIECE, rows)
            first, last = max(0, start - self._reach()), min(rows, end + self._reach())
            for modality, x in self._represent(batch.rows(first, last), place[first:last]).items():
                found[modality].append(x[start - first : end - first])
        return {m: torch.cat(parts) for m, parts in found.items()}

    def _reach(self) -> int:
        """How far from an utterance another one can have a part in its representation."""
        graphs = 0 if self.config.graph == "none" else 4 * self.config.window  # two blocks of two layers each
        return self.config.encoder_window + graphs

    def _represent(self, batch: Batch, place: Tensor) -> dict[str, Tensor]:
        context = self._context(batch, place)
        return {m: stream(batch.features[m], batch.present[m], context) for m, stream in self.streams.items()}

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Fused loss plus a tenth of each modality's squared loss (equation 33), a scalar.

        Every one of them is a mean over labelled utterances, weighted by class (equations 31 and 32, but for the mean).
        A batch without any gives 0. In the released code the weight of a modality's loss, a tenth of that loss, takes
        part in the gradient; in the paper it is a constant.
        """
        learnable = output.learnable & (batch.labels >= 0)
        total = self._mean_loss(output.logits, batch.labels, learnable)
        for modality, logits in output.unimodal.items():
            loss = self._mean_loss(logits, batch.labels, learnable & batch.present[modality])
            weight = loss / 10 if self.switches.loss_through_weight else loss.detach() / 10
            total = total + weight * loss
        return total

    def _context(self, batch: Batch, place: Tensor) -> Context:
        longest = int(batch.offsets.diff().max())
        graphs = speaker_graphs(batch.speakers, batch.dialogue, self.config.window, longest, self.config.causal)
        if self.speaker is None:
            return Context(*graphs, None, None)
        first, last = int(place.min()), int(place.max())
        codes = sinusoidal_positions(last + 1 - first, self.config.hidden, self.speaker.weight, first)
        added = codes[(place - first).to(codes.device, non_blocking=True)] + self.speaker(batch.speakers)
        if self.config.encoder_window is None:
            attend = WholeDialogues(batch.offsets, added.device, self.config.causal).attend
        else:
            attend = LocalDialogues(batch.dialogue, self.config.encoder_window, longest, self.config.causal).attend
        return Context(*graphs, added, attend)

    def _mean_loss(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        labels = labels.clamp_min(0)
        weight = self.class_weights[labels] * counted
        negative_log = F.cross_entropy(logits, labels, reduction="none")
        return (weight * negative_log).sum() / weight.sum().clamp_min(TINY)

    def _head(self, modality: str, x: Tensor) -> Tensor:
        # Equation 28 in the order of the paper's prose: ReLU, dropout, linear map.
        return self.heads[modality](self.head_dropout(F.relu(x)))

    def _fuse(self, unimodal: dict[str, Tensor], batch: Batch) -> Tensor:
        present = torch.stack([batch.present[m] for m in unimodal])
        logits = torch.stack(list(unimodal.values()))
        fused = torch.where(present[..., None], logits, 0)
        if self.fusion is not None:
            fused = fused * self.fusion[:, None, None]
        fused = fused.sum(0)  # equation 29
        return torch.where(present.any(0)[..., None], fused, self.log_prior)

    def _drop(self, features: dict[str, Tensor], batch: Batch) -> Dropped | None:
        # The draw stands on the host: whether a step drops at all must not make it wait for the device.
        if len(features) < 2 or float(torch.rand(())) >= self.config.p_exe:
            return None
        with torch.no_grad():
            metric = weighted_f1 if self.switches.f1_balance else precision_times_recall
            performance = []
            for modality, x in features.items():
                predicted = self._head(modality, x).argmax(-1)
                counted = batch.present[modality] & (batch.labels >= 0)
                performance.append(metric(predicted, batch.labels, counted, self.classes))
            ratios = dropout_ratios(
                torch.stack(performance),
                self.config.q_base,
                self.config.lam,
                clipped=self.switches.clipped_ratios,
                guarded=self.switches.guarded_ratios,
            )
            return drop_modalities(ratios, len(batch))
