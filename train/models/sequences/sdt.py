"""SDT (IEEE TMM 26, 2024, doi 10.1109/TMM.2023.3271019): transformers across modalities with self-distillation.

It follows the authors' code. Each modality is the target of one encoder per modality, including itself: queries come
from the target, keys and values from the source. Gates weight the outputs, a linear map joins them, a softmax over
modalities weights the channels of the targets, and each target has its own classifier, which learns from the labels and
from the fused classifier. `docs/explanation/models/sdt.md` has the equations.

With M modalities there are M x M encoders; the paper has three. Utterances may lack modalities: an absent feature is
not a key, and as a target it is excluded from the fusion, from its classifier's loss and from the distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.sequences.encoder import EncoderBlock, WholeDialogueAttention, dialogue_positions
from ...layers.speakers import SpeakerEmbedding
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads


@dataclass
class Settings:
    """Section `model`. Defaults are those of the authors' IEMOCAP script.

    Attributes:
        hidden: channels of every representation, also inside the feed-forward networks.
        heads: attention heads of each encoder.
        dropout: on inputs, attention weights and sublayers of the encoders, and before the classifiers of the
            modalities.
        gates: sigmoid(W x) x after each encoder, with W "learned", or "fixed" to the identity, as their code does on
            MELD.
        temperature: divides the logits of student and teacher before their softmax.
        unimodal_weight, distillation_weight: of the modalities' cross-entropies and divergences in the loss; theirs are
            1.
    """

    name: str = "sdt"
    hidden: int = setting(1024, least=2)
    heads: int = setting(8, least=1)
    dropout: float = setting(0.5, least=0, below=1)
    gates: str = setting("learned", choices=("learned", "fixed"))
    temperature: float = setting(1.0, above=0)
    unimodal_weight: float = setting(1.0, least=0)
    distillation_weight: float = setting(1.0, least=0)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)


class TargetStream(nn.Module):
    """One modality in the context of itself and the others: an encoder and a gate for each, joined by a linear map.

    Args:
        settings: sizes and probabilities.
        own: name of the modality.
        others: names of the other modalities.
    """

    def __init__(self, settings: Settings, own: str, others: list[str]) -> None:
        super().__init__()
        self.own, sources, size = own, [own, *others], settings.hidden
        self.encoders = nn.ModuleDict({m: EncoderBlock(size, settings.heads, settings.dropout) for m in sources})
        self.gates = None
        if settings.gates == "learned":
            self.gates = nn.ModuleDict({m: nn.Linear(size, size, bias=False) for m in sources})
        self.join = nn.Linear(len(sources) * size, size)
        self.dropout = Dropout(settings.dropout)

    def forward(
        self, streams: Mapping[str, Tensor], present: Mapping[str, Tensor], attend: Callable[..., Tensor]
    ) -> Tensor:
        """Projected features with positions and speakers, modality to [N, hidden], to [N, hidden]."""
        outputs = []
        for source, encoder in self.encoders.items():
            # Each encoder draws its own dropout mask for each input stream.
            x = self.dropout(streams[self.own])
            y = encoder(x, x if source == self.own else self.dropout(streams[source]), attend, present[source])
            outputs.append(torch.sigmoid(self.gates[source](y) if self.gates is not None else y) * y)
        return self.join(torch.cat(outputs, 1))


class SDT(Model[Settings]):
    """Transformer-based model with self-distillation."""

    capturable = True
    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("SDT", "IEEE TMM 26, 2024, doi 10.1109/TMM.2023.3271019", "their code")

    def build(self) -> None:
        settings = self.settings
        size = settings.hidden
        self.speaker = SpeakerEmbedding(self.speakers, size)
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size, bias=False) for m, dim in self.dims.items()})
        self.targets = nn.ModuleDict(
            {m: TargetStream(settings, m, [n for n in self.dims if n != m]) for m in self.dims}
        )
        self.fusion = nn.Linear(size, size, bias=False)
        self.heads = nn.ModuleDict({m: nn.Linear(size, self.classes) for m in self.dims})
        self.output = nn.Linear(size, self.classes)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Fused logits of a batch and those of each modality, which are meaningless where it is absent.

        The logits of an utterance without any modality are the bias of the fused classifier.
        """
        added = dialogue_positions(batch.packing, self.settings.hidden, self.speaker.weight) + self.speaker(
            batch.speakers
        )
        streams = {m: projection(batch.features[m]) + added for m, projection in self.projections.items()}
        attend = WholeDialogueAttention(batch.packing).attend
        x = {m: target(streams, batch.present, attend) for m, target in self.targets.items()}
        unimodal = {m: self.heads[m](self.dropout(F.relu(y))) for m, y in x.items()}
        return ModelOutput(self.output(self._fuse(x, batch.present)), unimodal)

    def _fuse(self, x: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Sum over the modalities that are present, weighted channel by channel by a softmax over them."""
        y, there = torch.stack(list(x.values())), torch.stack([present[m] for m in x])[..., None]
        scores = self.fusion(y)
        # Not -inf: an utterance may have no modality.
        scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min)
        return (scores.softmax(0) * there * y).sum(0)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Cross-entropies of the fused and unimodal classifiers, and the divergences of the latter from the former.

        A cross-entropy is a mean over labelled utterances, weighted by class. A divergence is KL(p_fused || p_modality)
        of the softmax with temperature, a plain mean over the same utterances, neither scaled by the squared
        temperature nor cut off from the fused classifier, so that the teacher learns from its students.
        """
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        teacher = (output.logits / self.settings.temperature).log_softmax(-1)
        for modality, logits in output.unimodal.items():
            labels = batch.labels.masked_fill(~batch.present[modality], -1)
            counted = (labels >= 0).to(logits.dtype)
            student = (logits / self.settings.temperature).log_softmax(-1)
            divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
            distilled = (divergence * counted).sum() / counted.sum().clamp_min(1)
            total = total + self.settings.unimodal_weight * weighted_loss(logits, labels, self.class_weights)
            total = total + self.settings.distillation_weight * distilled
        return total
