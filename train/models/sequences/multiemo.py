"""MultiEMO (Shi and Huang, ACL 2023), following its released code.

Each modality is projected and goes through its own DialogueRNN recurrence (on MELD text does not, and the others are
unidirectional). Then each attends to the others in turn, in a stack of cross-attention layers; the three results are
concatenated into the representation that is classified. The loss adds to the cross-entropy a contrastive term on that
representation and a correlation term on the three results; both depend on the other utterances in the batch, the logits
do not.

Their cross-attention attends to padding as if it were utterances; here it does not. An absent feature is not a key for
other modalities, and its utterance is excluded from the correlation with them. With two modalities a layer has one
cross-attention, with one it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.batch import Batch
from ...layers.contrastive import focal_contrastive_loss, sample_weights
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.sequences.dialogue_rnn import DialogueRecurrence
from ...layers.sequences.encoder import WholeDialogueAttention
from ...layers.soft_hgr import soft_hgr_loss
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads

_FUSED = "fused"  # the output part that the contrastive loss uses; the others are named after modalities


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' script for IEMOCAP.

    Attributes:
        hidden: width of every representation and every state of the recurrences.
        layers: number of cross-attention layers.
        heads: heads of cross-attention; they divide `hidden`.
        inner: width inside the feed-forward networks.
        head: width of the classifier's hidden layer.
        recurrent_text: whether the text has a recurrence; theirs has none on MELD.
        bidirectional: whether the recurrences have two directions, joined by a linear map; theirs have one on MELD.
        dropout: in the cross-attention layers, after the recurrences and in the classifier.
        recurrent_dropout: on every state of the recurrences.
        contrastive, correlation, cross_entropy: weights of the three losses.
        temperature, gamma, rho: of the contrastive loss: of its softmax, on 1 - p, and on the inverse class frequency.
    """

    name: str = "multiemo"
    hidden: int = setting(256, least=2)
    layers: int = setting(6, least=0)
    heads: int = setting(4, least=1)
    inner: int = setting(1024, least=1)
    head: int = setting(256, least=1)
    recurrent_text: bool = True
    bidirectional: bool = True
    dropout: float = setting(0.0, least=0, below=1)
    recurrent_dropout: float = setting(0.0, least=0, below=1)
    contrastive: float = setting(0.4, least=0)
    correlation: float = setting(0.4, least=0)
    cross_entropy: float = setting(0.2, least=0)
    temperature: float = setting(0.8, above=0)
    gamma: float = setting(2.4, least=0)
    rho: float = setting(1.1, least=0)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads, even=False)


class CrossAttention(nn.Module):
    """Attention of one modality's utterances to another's, with residual and LayerNorm after it.

    Args:
        size: channels of both; a multiple of `heads`.
        heads: attention heads.
        rate: dropout probability on the output.
    """

    def __init__(self, size: int, heads: int, rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        self.norm, self.dropout = nn.LayerNorm(size), Dropout(rate)

    def forward(self, x: Tensor, other: Tensor, present: Tensor, dialogues: WholeDialogueAttention) -> Tensor:
        """Queries [N, size] and the other modality's [N, size], of which those `present` [N] are keys, to [N, size]."""
        values = dialogues.attend(self.query(x), self.key(other), self.value(other), present, self.heads, 0.0)
        return self.norm(x + self.dropout(self.output(values)))


class CrossAttentionLayer(nn.Module):
    """Cross-attention to each other modality, then a feed-forward network; arguments as for `CrossAttention`."""

    def __init__(self, others: int, size: int, heads: int, inner: int, rate: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(CrossAttention(size, heads, rate) for _ in range(others))
        self.inner, self.outer, self.norm = nn.Linear(size, inner), nn.Linear(inner, size), nn.LayerNorm(size)
        self.dropout = Dropout(rate)

    def forward(self, x: Tensor, others: list[tuple[Tensor, Tensor]], dialogues: WholeDialogueAttention) -> Tensor:
        """[N, size] to [N, size]; `others` are representations and presence of the other modalities."""
        for attention, (other, present) in zip(self.attentions, others, strict=True):
            x = attention(x, other, present, dialogues)
        return self.norm(x + self.dropout(self.outer(torch.relu(self.inner(x)))))


class MultiEMO(Model[Settings]):
    """MultiEMO."""

    Settings = Settings
    about = ModelInfo("MultiEMO", "ACL 2023, 2023.acl-long.824", "their code")
    sample_weights: Tensor

    def build(self) -> None:
        settings = self.settings
        size = settings.hidden
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size) for m, dim in self.dims.items()})
        self.recurrent = [m for m in self.dims if m != "text" or settings.recurrent_text]
        self.recurrence, self.joined = None, nn.ModuleDict()
        self.speaker_use = "identity" if self.recurrent else "none"
        if self.recurrent:
            self.recurrence = DialogueRecurrence(
                len(self.recurrent),
                size,
                size,
                size,
                size,
                self.speakers,
                "simple",
                bidirectional=settings.bidirectional,
                rate=settings.recurrent_dropout,
            )
            if settings.bidirectional:
                self.joined = nn.ModuleDict({m: nn.Linear(2 * size, size) for m in self.recurrent})
        others = len(self.dims) - 1
        self.stacks = nn.ModuleDict(
            {
                m: nn.ModuleList(
                    CrossAttentionLayer(others, size, settings.heads, settings.inner, settings.dropout)
                    for _ in range(settings.layers)
                )
                for m in self.dims
            }
        )
        self.fusion = nn.Linear(size * len(self.dims), size)
        self.hidden, self.output = nn.Linear(size, settings.head), nn.Linear(settings.head, self.classes)
        self.dropout = Dropout(settings.dropout)
        weights = sample_weights(self.class_counts, settings.rho).to(torch.get_default_dtype())
        self.register_buffer("sample_weights", weights, persistent=False)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch; `parts` has each modality's representation after cross-attention, and the fused one."""
        x = {m: projection(batch.features[m]) for m, projection in self.projections.items()}
        if self.recurrence is not None:
            rows, parties = torch.stack([x[m] for m in self.recurrent]), int(batch.host_people.max()) + 1
            states = self.recurrence(rows, batch.people, batch.offsets, parties)
            for modality, state in zip(self.recurrent, states, strict=True):
                joined = self.joined[modality](state) if self.joined else state
                x[modality] = torch.relu(self.dropout(joined))
        dialogues = WholeDialogueAttention(batch.packing)
        found = {}
        for modality, layers in self.stacks.items():
            y, others = x[modality], [(x[m], batch.present[m]) for m in x if m != modality]
            for layer in layers.children():
                y = layer(y, others, dialogues)
            found[modality] = y
        fused = self.fusion(torch.cat(list(found.values()), -1))
        logits = self.output(self.dropout(torch.relu(self.hidden(fused))))
        return ModelOutput(logits, parts={**found, _FUSED: fused})

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The three losses, weighted, a scalar. Only labelled utterances count, in the correlation too (their code)."""
        settings, parts, labels = self.settings, output.parts, batch.labels
        contrastive = focal_contrastive_loss(
            parts[_FUSED], labels, self.sample_weights, settings.temperature, settings.gamma
        )
        modalities = list(self.stacks)
        counted = [batch.present[m] & (labels >= 0) for m in modalities]
        correlation = soft_hgr_loss([parts[m] for m in modalities], counted)
        cross_entropy = weighted_loss(output.logits, labels, self.class_weights)
        return (
            settings.contrastive * contrastive
            + settings.correlation * correlation
            + settings.cross_entropy * cross_entropy
        )
