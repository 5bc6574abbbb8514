"""AMB-DSGDN (arXiv 2603.10043), following its released code or its equations.

The module `amb_dsgdn_variants` lists the differences; `docs/explanation/model.md` walks through the equations. In
both variants lambda vectors are initialised with standard deviation 0.1 (with variance 0.1 as written, their
exponentials reach hundreds) and losses are means over utterances (the sum of equation 32 would let the squares of
equation 33 grow with the batch).

Utterances may lack modalities. An absent feature is neither a neighbour nor an attention key in its modality and is
excluded from its logits, loss and balance metric. None of this has an effect when every feature is present.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import counted
from ....toolkit.manifest import MODALITIES
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.modality_dropout import (
    DroppedModalities,
    drop_modalities,
    dropout_ratios,
    precision_times_recall,
    weighted_f1,
)
from ...layers.sequences.encoder import (
    LocalDialogueAttention,
    TransformerEncoder,
    WholeDialogueAttention,
    sinusoidal_positions,
)
from ...layers.speakers import SpeakerEmbedding
from ...layers.subgraphs.diff_graph_attention import DiffGraphAttention, DiffRGCN
from ...layers.subgraphs.graph import Graph, speaker_graphs
from ...layers.subgraphs.graph_attention import GraphAttention
from ...layers.subgraphs.graph_convolution import GraphConvolution
from ...settings import TrainConfig, nearest, setting
from ..base import Model, ModelInfo, ModelOutput, check_heads
from .amb_dsgdn_variants import VARIANTS

PIECE = 4096  # utterances at a time in evaluation, so that their matrices fit the allocator's cache
TINY = 1e-12  # a sum of weights below it is an empty sum

# The layers that graph blocks can have; the first is the model's own, the others are for ablations.
GRAPH_LAYERS = {"differential": DiffGraphAttention, "attention": GraphAttention, "convolution": GraphConvolution}


@dataclass
class Settings:
    """Section `model`.

    Attributes:
        name: name of the model, see `erc-toolkit models`.
        variant: "released" follows the authors' code, "paper" the equations; the module `amb_dsgdn_variants` lists the
            differences.
        hidden: channels of every modality's representation.
        heads: attention heads of the audio and visual encoders.
        window: how many utterances back and ahead the speaker graphs reach.
        encoder_window: how many utterances back and ahead the audio and visual encoders attend; None means the whole
            dialogue, as in the paper. With a number, time and memory grow in proportion to the dialogue's length.
        causal: no utterance attends to later ones, neither in the encoders nor in the graphs; for models that run
            during a conversation. The paper's model attends in both directions.
        dropout: in encoders and classification heads.
        graph_heads: attention heads of each graph block.
        graph: layers of the graph blocks: "differential" attention, the model's own; for ablations, "attention" with
            one softmax, "convolution" without relations, or "none" for no blocks.
        graph_dropout: in graph blocks.
        fusion: modality to the weight of its logits in the sum (equation 29); null weights each by 1, as in the paper.
        q_base, lam: base probability and scale of adaptive modality dropout (equation 24).
        p_exe: probability that a training step uses modality dropout.
        dropout_warm_up: epochs before modality dropout begins.
    """

    name: str = "amb-dsgdn"
    variant: str = setting("released", choices=("released", "paper"))
    hidden: int = setting(512, least=2)
    heads: int = setting(8, least=1)
    window: int = setting(20, least=0)
    encoder_window: int | None = setting(None, least=0)
    causal: bool = False
    dropout: float = setting(0.5, least=0, below=1)
    graph_heads: int = setting(2, least=1)
    graph: str = setting("differential", choices=("differential", "attention", "convolution", "none"))
    graph_dropout: float = setting(0.2, least=0, below=1)
    fusion: dict[str, float] | None = None
    q_base: float = setting(0.3, least=0, most=1)
    lam: float = setting(0.9, least=0)
    p_exe: float = setting(0.5, least=0, most=1)
    dropout_warm_up: int = setting(60, least=0)

    def idle(self, train: TrainConfig) -> dict[str, str]:
        """Settings that change nothing, with the reason; see `erc_toolkit.train.settings.ModelSettings`."""
        found: dict[str, str] = {}
        if self.p_exe == 0 or self.q_base == 0:
            zero = "p_exe" if self.p_exe == 0 else "q_base"
            names = ("p_exe", "q_base", "lam", "dropout_warm_up")
            found = {name: f"model.{zero} is 0, so there is no modality dropout" for name in names if name != zero}
        elif self.dropout_warm_up >= train.epochs:
            reason = (
                f"model.dropout_warm_up={self.dropout_warm_up} leaves none of the "
                f"{counted(train.epochs, 'epoch')} (train.epochs) to modality dropout"
            )
            found |= dict.fromkeys(("p_exe", "q_base", "lam", "dropout_warm_up"), reason)
        if self.graph == "none":
            found |= dict.fromkeys(("window", "graph_heads", "graph_dropout"), "model.graph is none")
        elif self.graph == "convolution":
            found["graph_heads"] = "model.graph=convolution has no attention"
        return found

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)
        for name in self.fusion or ():
            if name not in MODALITIES:
                raise UserError(f"{where}: model.fusion: unknown modality {name!r}{nearest(name, MODALITIES)}")


@dataclass(slots=True)
class AMBDSGDNOutput(ModelOutput):
    """The model's output for a batch of N utterances.

    `logits` are the fused ones (equation 29); for an utterance without any modality, the log prior of the training
    split. `ratios` are the q_m of modality dropout (equation 24).

    Attributes:
        learnable: [N] bool, utterances that count in the loss: those that still have a modality after modality dropout.
    """

    learnable: Tensor = field(kw_only=True)


class BatchContext(NamedTuple):
    """What all modalities of a batch share.

    Attributes:
        inter, intra: the speaker graphs.
        added: [N, hidden], codes of positions and speakers (equation 3); None if no modality has an encoder.
        attend: the encoders' attention (equation 4); None if there is no encoder.
    """

    inter: Graph
    intra: Graph
    added: Tensor | None
    attend: Callable[..., Tensor] | None


class ModalityStream(nn.Module):
    """One modality from features to node representations: projection, encoder, two graph blocks, gate.

    Text has neither encoder (so no positions and no speakers, equations 3 and 6) nor gate, and the variant "paper" has
    no gates at all.
    """

    def __init__(self, settings: Settings, dim: int, sequential: bool) -> None:
        super().__init__()
        size = settings.hidden
        self.projection = nn.Linear(dim, size)
        self.encoder = TransformerEncoder(size, settings.heads, settings.dropout) if sequential else None
        switches = VARIANTS[settings.variant]
        self.inter, self.intra = (
            DiffRGCN(
                size,
                settings.graph_heads,
                settings.graph_dropout,
                switches.normalised_attention,
                switches.dropout_everywhere,
                GRAPH_LAYERS[settings.graph],
            )
            if settings.graph != "none"
            else None
            for _ in range(2)
        )
        self.gate = nn.Linear(size, size) if sequential and switches.gates else None

    def forward(self, features: Tensor, present: Tensor, context: BatchContext) -> Tensor:
        """Features [N, D], present [N], to [N, hidden].

        Rows whose feature is not present are finite but meaningless.
        """
        x = self.projection(features)  # equation 1
        if self.encoder is not None:
            x = self.encoder(x, context.added, context.attend, present)
        if self.inter is not None and self.intra is not None:
            # First the other speakers' utterances, then the speaker's own (section 4.4).
            x = self.inter(x, context.inter.without(~present))
            x = self.intra(x, context.intra.without(~present))
        if self.gate is not None:
            x = torch.sigmoid(self.gate(x)) * x
        return x


class AMBDSGDN(Model[Settings]):
    """Adaptive modality-balanced dynamic semantic graph differential network.

    `class_counts` also determines the prediction for an utterance without any modality.
    """

    capturable = True
    speaker_use = "identity"
    Settings = Settings
    about = ModelInfo("AMB-DSGDN", "arXiv 2603.10043", "in full: code and paper")
    fusion: Tensor | None
    class_weights: Tensor  # ones where the argument is None

    def build(self) -> None:
        settings = self.settings
        self.switches = VARIANTS[settings.variant]
        sequential = {m: m != "text" for m in self.dims}
        self.streams = nn.ModuleDict({m: ModalityStream(settings, dim, sequential[m]) for m, dim in self.dims.items()})
        self.heads = nn.ModuleDict({m: nn.Linear(settings.hidden, self.classes) for m in self.dims})
        self.head_dropout = Dropout(settings.dropout)
        self.speaker = None
        if any(sequential.values()):
            self.speaker = SpeakerEmbedding(self.speakers, settings.hidden, padding=True)
            self.speaker_use = "embedding"
        fusion = None
        if settings.fusion is not None:
            if missing := [m for m in self.dims if m not in settings.fusion]:
                raise UserError(f"model.fusion has no weight for {missing[0]}, which the model uses")
            fusion = torch.tensor([settings.fusion[m] for m in self.dims])
        self.register_buffer("fusion", fusion, persistent=False)
        self.keep_prior()
        if self.class_weights is None:
            self.class_weights = torch.ones(self.classes)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities in use, in the order of `ModelOutput.ratios`."""
        return list(self.streams)

    def decide(self, epoch: int) -> bool:
        """Whether a training step drops modalities, from epoch `dropout_warm_up` (counted from 0) on.

        Drawn on the host, so that the decision does not wait for the device.
        """
        settings = self.settings
        due = self.training and epoch >= settings.dropout_warm_up and len(self.streams) > 1
        return due and float(torch.rand(())) < settings.p_exe

    def forward(self, batch: Batch, epoch: int = 0, drop: bool | None = None) -> AMBDSGDNOutput:
        """Logits of a batch; with modality dropout if `drop` or, where that is None, `decide` says so."""
        features = self.represent(batch)
        dropped = self._drop(features, batch) if (self.decide(epoch) if drop is None else drop) else None
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
        return AMBDSGDNOutput(
            self._fuse(unimodal, batch),
            unimodal,
            ratios=None if dropped is None else dropped.ratios,
            learnable=learnable,
        )

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """Node representations of every modality, [N, hidden], before modality dropout and heads.

        Without gradients and with an encoder window, more than PIECE utterances are processed in pieces, each together
        with the surrounding utterances that influence it. This affects memory only.
        """
        rows, window = len(batch.labels), self.settings.encoder_window
        if torch.is_grad_enabled() or rows <= PIECE or window is None:
            return self._represent(batch)
        found: dict[str, list[Tensor]] = {m: [] for m in self.streams}
        reach = self._reach(window)
        for start in range(0, rows, PIECE):
            end = min(start + PIECE, rows)
            first, last = max(0, start - reach), min(rows, end + reach)
            for modality, x in self._represent(batch.rows(first, last)).items():
                found[modality].append(x[start - first : end - first])
        return {m: torch.cat(parts) for m, parts in found.items()}

    def _reach(self, encoder_window: int) -> int:
        """The largest distance at which one utterance can influence the representation of another."""
        graphs = 0 if self.settings.graph == "none" else 4 * self.settings.window  # two blocks of two layers each
        return encoder_window + graphs

    def _represent(self, batch: Batch) -> dict[str, Tensor]:
        context = self._context(batch)
        return {m: stream(batch.features[m], batch.present[m], context) for m, stream in self.streams.items()}

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Fused loss plus a tenth of each modality's squared loss (equation 33), a scalar.

        Each of them is a mean over labelled utterances, weighted by class (equations 31 and 32, except for the mean);
        it is 0 for a batch without labels. In the released code the gradient also flows through the weight of a
        modality's loss, a tenth of that loss; in the paper the weight is a constant.
        """
        if not isinstance(output, AMBDSGDNOutput):
            raise TypeError(f"the loss needs the model's own output, not {type(output).__name__}")
        learnable = output.learnable & (batch.labels >= 0)
        total = self._mean_loss(output.logits, batch.labels, learnable)
        for modality, logits in output.unimodal.items():
            loss = self._mean_loss(logits, batch.labels, learnable & batch.present[modality])
            weight = loss / 10 if self.switches.loss_through_weight else loss.detach() / 10
            total = total + weight * loss
        return total

    def _context(self, batch: Batch) -> BatchContext:
        longest = batch.longest
        graphs = speaker_graphs(batch.people, batch.dialogue, self.settings.window, longest, self.settings.causal)
        if self.speaker is None:
            return BatchContext(*graphs, None, None)
        first, end = batch.places
        codes = sinusoidal_positions(end - first, self.settings.hidden, self.speaker.weight, first)
        added = codes[batch.place - first] + self.speaker(batch.speakers)
        if self.settings.encoder_window is None:
            attend = WholeDialogueAttention(batch.packing, self.settings.causal).attend
        else:
            attend = LocalDialogueAttention(
                batch.dialogue, self.settings.encoder_window, longest, self.settings.causal
            ).attend
        return BatchContext(*graphs, added, attend)

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

    def _drop(self, features: dict[str, Tensor], batch: Batch) -> DroppedModalities:
        with torch.no_grad():
            metric = weighted_f1 if self.switches.f1_balance else precision_times_recall
            performance = []
            for modality, x in features.items():
                predicted = self._head(modality, x).argmax(-1)
                counted = batch.present[modality] & (batch.labels >= 0)
                performance.append(metric(predicted, batch.labels, counted, self.classes))
            ratios = dropout_ratios(
                torch.stack(performance),
                self.settings.q_base,
                self.settings.lam,
                clipped=self.switches.clipped_ratios,
                guarded=self.switches.guarded_ratios,
            )
            return drop_modalities(ratios, len(batch))
