"""CFN-ESA (IEEE TAFFC 15, 2024, doi 10.1109/TAFFC.2024.3389453), following its released code.

Each modality is mapped to the same width and goes through recurrent layers that all share, then through attention in
which text is the hub (`erc_toolkit.train.layers.sequences.hub_attention`). The concatenated modalities are mapped to
one vector, which is classified. In training the attention runs twice, with different dropout, and for every pair of
utterances of a dialogue it is predicted from one vector of each whether their emotions differ
(`erc_toolkit.train.layers.sequences.emotion_shift`). `docs/explanation/models/cfn-esa.md` has the equations.

Their recurrent layers run over the padding after shorter dialogues, their attention attends to it, and their loss on
MELD counts it; here that is optional (`padded`). Utterances may lack modalities: an absent feature is a step of zeros,
is not attended to, and is zeros where modalities are concatenated. An utterance without any has the log prior of the
training split as logits, and is in no pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import released_loss, weighted_loss
from ...layers.sequence import PaddedDialogues, RecurrentLayer
from ...layers.sequences.emotion_shift import EmotionShift
from ...layers.sequences.encoder import WholeDialogueAttention
from ...layers.sequences.hub_attention import FeedForward, HubLayer
from ...packing import Packing
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads

_ORDER = ("text", "visual", "audio")  # the first is the hub


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' IEMOCAP script.

    Attributes:
        hidden: width of everything.
        encoder_layers: recurrent layers.
        encoder_dropout: in these.
        layers: of attention across modalities.
        heads: attention heads.
        dropout: in the attention layers, and before the classifier.
        shift_hidden: width of a pair of utterances.
        shift_dropout: on these.
        shift_weight: of the loss of emotion shifts.
        shift_share: share of pairs whose emotions differ; both kinds of pairs are weighted by the inverse of their
            share.
        padded: padding after shorter dialogues takes part as in the released code, so that a dialogue's logits depend
            on the longest in its batch.
        loss: "nll", the cross-entropy weighted by class, or "released", what the code minimises on MELD in place of a
            focal loss, see `erc_toolkit.train.layers.losses.released_loss`; with `padded` it takes padding for the
            first class.
    """

    name: str = "cfn-esa"
    hidden: int = setting(512, least=1)
    encoder_layers: int = setting(2, least=1)
    encoder_dropout: float = setting(0.2, least=0, below=1)
    layers: int = setting(5, least=1)
    heads: int = setting(8, least=1)
    dropout: float = setting(0.4, least=0, below=1)
    shift_hidden: int = setting(128, least=1)
    shift_dropout: float = setting(0.05, least=0, below=1)
    shift_weight: float = setting(1.0, least=0)
    shift_share: float = setting(0.4364, above=0, below=1)
    padded: bool = False
    loss: str = setting("nll", choices=("nll", "released"))

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads, even=False)


class RecurrentBlock(nn.Module):
    """r = LN(x + W [GRU forward; GRU backward]), then LN(x + r + feed-forward network) (RUME).

    Args:
        size: channels.
        dropout: after both, and in the feed-forward network.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.encoder, self.output = RecurrentLayer(nn.GRU, size, size), nn.Linear(2 * size, size)
        self.feed, self.dropout = FeedForward(size, dropout), Dropout(dropout)
        self.recurrent_norm, self.norm = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Packed dialogues [N, size] to [N, size]."""
        y = self.recurrent_norm(x + self.dropout(self.output(self.encoder(x, offsets))))
        return self.norm(x + y + self.feed(y))


class CFNESA(Model[Settings]):
    """Cross-modal fusion network with emotion-shift awareness."""

    speaker_use = "none"
    Settings = Settings
    about = ModelInfo("CFN-ESA", "IEEE TAFFC 15, 2024, doi 10.1109/TAFFC.2024.3389453", "their code")
    shift_weights: Tensor

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        chosen = [m for m in _ORDER if m in self.dims]
        self.projections = nn.ModuleDict({m: nn.Linear(self.dims[m], size) for m in chosen})
        self.encoder = nn.ModuleList(
            RecurrentBlock(size, settings.encoder_dropout) for _ in range(settings.encoder_layers)
        )
        self.layers = nn.ModuleList(
            HubLayer(chosen, size, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.join = nn.Linear(len(chosen) * size, size)
        self.shift = EmotionShift(size, settings.shift_hidden, settings.shift_dropout)
        self.output, self.dropout = nn.Linear(size, self.classes), Dropout(settings.dropout)
        self.keep_prior()
        share = torch.tensor([1 - settings.shift_share, settings.shift_share], dtype=torch.get_default_dtype())
        self.register_buffer("shift_weights", 1 / (2 * share), persistent=False)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """The logits; as parts the vectors "first" and "second" of pairs, and with `padded` logits of "padding"."""
        features = {m: batch.features[m] for m in self.projections}
        present = {m: batch.present[m] for m in self.projections}
        packing, real = batch.packing, None
        attend = WholeDialogueAttention(packing).attend
        if self.settings.padded:
            # Every dialogue becomes as long as the longest; padding is zeros, but present.
            padded = PaddedDialogues(batch.offsets, batch.device)
            features = {m: padded.pad(x).flatten(0, 1) for m, x in features.items()}
            present = {m: padded.pad(x, True).flatten() for m, x in present.items()}
            packing = Packing.of(torch.arange(len(batch) + 1) * padded.mask.shape[1], batch.device)
            attend, real = _attention_with_padding(padded.mask), padded.mask.flatten()
        x = {m: projection(features[m]) * present[m][:, None] for m, projection in self.projections.items()}
        for block in self.encoder:
            x = {m: block(y, packing.offsets) for m, y in x.items()}
        heard = {m: _in_dialogue(there, packing).to(x[m].dtype) for m, there in present.items()}
        first = self._fused(x, attend, present, heard)
        # Without dropout the second pass would be the same.
        differs = self.training and self.settings.dropout > 0 and self.settings.shift_weight > 0
        second = self._fused(x, attend, present, heard) if differs else first
        logits, parts = self.output(first), {"first": first, "second": second}
        if real is not None:
            parts = {name: part[real] for name, part in parts.items()} | {"padding": logits[~real]}
            logits = logits[real]
        return ModelOutput(torch.where(self._anything(batch)[:, None], logits, self.log_prior), {}, parts)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The loss that `Settings.loss` names, plus `shift_weight` times that of emotion shifts: a scalar."""
        settings = self.settings
        if settings.loss == "released":
            padding = output.parts.get("padding", output.logits[:0])
            labels = F.pad(batch.labels, (0, len(padding)))
            total = released_loss(torch.cat([output.logits, padding]), labels)
        else:
            total = weighted_loss(output.logits, batch.labels, self.class_weights)
        if settings.shift_weight:
            labels = batch.labels.masked_fill(~self._anything(batch), -1)
            first, second = output.parts["first"], output.parts["second"]
            shift = self.shift.loss(first, second, labels, batch.offsets, self.shift_weights)
            total = total + settings.shift_weight * shift
        return total

    def _anything(self, batch: Batch) -> Tensor:
        return torch.stack([batch.present[m] for m in self.projections]).any(0)

    def _fused(
        self,
        x: dict[str, Tensor],
        attend: Callable[..., Tensor],
        present: dict[str, Tensor],
        heard: dict[str, Tensor],
    ) -> Tensor:
        """One vector for each utterance, [N, hidden]."""
        for layer in self.layers:
            x = layer(x, attend, present, heard)
        joined = self.join(torch.cat([y * present[m][:, None] for m, y in x.items()], 1))
        return self.dropout(torch.relu(joined))


def _in_dialogue(present: Tensor, packing: Packing) -> Tensor:
    """Whether anything is present in each utterance's dialogue, [N, 1] bool."""
    count = torch.zeros(len(packing.offsets) - 1, device=present.device).index_add(0, packing.dialogue, present.float())
    return (count > 0)[packing.dialogue][:, None]


def _attention_with_padding(real: Tensor) -> Callable[..., Tensor]:
    """As `WholeDialogueAttention.attend`, of dialogues [B * L, size] of which `real` [B, L] bool are utterances.

    Their code passes 1 for an utterance and 0 for padding as a mask that is added to the scores; so padding is attended
    to, e times less.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, present: Tensor, heads: int, rate: float) -> Tensor:
        q, k, v = (x.unflatten(0, real.shape).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = present.view(real.shape)
        mask = mask | ~mask.any(1, keepdim=True)
        scores = real.to(q.dtype).masked_fill(~mask, -torch.inf)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=scores[:, None, None], dropout_p=rate)
        return found.transpose(1, 2).flatten(2).flatten(0, 1)

    return attend
