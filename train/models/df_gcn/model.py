"""DF-GCN (arXiv 2603.22345): a graph ODE over fused utterances and a map whose parameters depend on the dialogue.

The abstract and the authors' code are public, the equations are not, and the two disagree: the code has no differential
equation, and its dynamic part is never trained. Hence three variants: "reconstruction" implements the abstract, with
every detail chosen here; "released" follows the code, including its bugs; "repaired" is the code without them, see
`erc_toolkit.train.models.df_gcn.variants`. `docs/explanation/models/df-gcn.md` has the equations.

All variants have a stream per modality (with encoder, positions and speakers also for text) and a head per modality,
whose logits are summed. Utterances may lack modalities: an absent feature is not an attention key and adds nothing to
the sum of the modalities, to the logits or to its modality's loss; an utterance without any modality is not a
neighbour. Any subset of text, audio and visual works; without text, "released" builds its graphs from the speakers and
has a separate encoder after them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.sequence import PaddedDialogues
from ...layers.speakers import SpeakerEmbedding
from ..base import Model, ModelInfo, ModelOutput
from .parts import BatchContext, ModalityStream, ReconstructionFusion, ReleasedFusion, context
from .variants import VARIANTS, Settings


class DFGCN(Model[Settings]):
    """Dynamic fusion-aware graph convolutional network."""

    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("DF-GCN", "arXiv 2603.22345", "reconstruction from the abstract; also their code")

    def build(self) -> None:
        settings = self.settings
        self.switches = VARIANTS.get(settings.variant)
        norm = self.switches is not None  # here the loader normalises features; their code does it in the model
        self.streams = nn.ModuleDict(
            {
                m: ModalityStream(dim, settings.text_layers or 1, norm, settings)
                if m == "text"
                else ModalityStream(dim, 1, False, settings)
                for m, dim in self.dims.items()
            }
        )
        self.speaker = SpeakerEmbedding(self.speakers, settings.hidden, padding=True)

        def head() -> nn.Module:
            return weight_norm(nn.Linear(settings.hidden, self.classes))

        self.heads = nn.ModuleDict({m: head() for m in self.dims} if settings.readout != "fused" else {})
        self.fusion = self.fused_head = None
        if settings.readout != "modalities":
            self.fused_head = head()
            if self.switches is None:
                self.fusion = ReconstructionFusion(settings)
            else:
                self.fusion = ReleasedFusion(settings, self.switches, "text" in self.dims)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch; `parts` has the dynamic map's coefficients, "boxes" [N, boxes] or "prompt" [N, hidden]."""
        padded = None
        if self.switches is not None and self.switches.padding:
            padded, batch = pad(batch, self.speakers)
        where = self._context(batch, None if padded is None else padded.mask.flatten())
        x = {m: stream(batch.features[m], batch.present[m], where) for m, stream in self.streams.items()}
        logits = {m: self._head(head, x[m]) for m, head in self.heads.items()}
        counted = {m: torch.where(batch.present[m][:, None], y, 0) for m, y in logits.items()}
        zero = next(iter(x.values())).new_zeros(())
        fused, parts = sum(counted.values(), zero), {}
        if self.fusion is not None and self.fused_head is not None:
            total = sum(x.values(), zero)
            if self.switches is None:
                y, parts = self.fusion(total, where)
            else:
                y, parts = self.fusion(total, where, self.streams["text"].encoder if "text" in x else None)
            fused = fused + self._head(self.fused_head, y)
        if padded is not None:
            fused, logits, parts = (
                padded.pack(fused.unflatten(0, padded.mask.shape)),
                *({k: padded.pack(y.unflatten(0, padded.mask.shape)) for k, y in of.items()} for of in (logits, parts)),
            )
        return ModelOutput(fused, logits, parts)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Fused loss plus a tenth of each modality's squared loss, a scalar.

        Each is a weighted mean over the labelled utterances, for a modality over those that have it.
        """
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        for modality, logits in output.unimodal.items():
            labels = torch.where(batch.present[modality], batch.labels, -1)
            total = total + weighted_loss(logits, labels, self.class_weights) ** 2 / 10
        return total

    def _head(self, head: nn.Module, x: Tensor) -> Tensor:
        return head(self.dropout(F.relu(x)))

    def _context(self, batch: Batch, real: Tensor | None) -> BatchContext:
        identity = None
        if self.switches is not None and self.switches.text_as_speaker and "text" in self.streams:
            text = batch.features["text"].unflatten(1, (self.settings.text_layers or 1, -1))[:, -1]
            identity = text.unique(dim=0, return_inverse=True)[1]
        return context(batch, self.speaker, self.settings.window, real, identity)


def pad(batch: Batch, speaker: int) -> tuple[PaddedDialogues, Batch]:
    """Pads the dialogues of a batch to the longest with rows of zeros that are present in no modality.

    Args:
        batch: a batch.
        speaker: speaker index and person of the added rows.

    Returns:
        the positions of the utterances, and the padded batch, whose `labels` are -1 in the added rows.
    """
    padded = PaddedDialogues(batch.offsets, batch.labels.device)
    count, longest = padded.mask.shape

    def rows(x: Tensor, fill: float = 0) -> Tensor:
        return padded.pad(x, fill).flatten(0, 1)

    dialogue = torch.arange(count, device=batch.labels.device).repeat_interleave(longest)
    there = (torch.arange(longest) < padded.lengths[:, None]).flatten()
    host_speakers, host_people = (torch.full((count * longest,), speaker) for _ in range(2))
    host_speakers[there], host_people[there] = batch.host_speakers, batch.host_people
    features, present = ({m: rows(x) for m, x in of.items()} for of in (batch.features, batch.present))
    return padded, replace(
        batch,
        features=features,
        present=present,
        speakers=rows(batch.speakers, speaker),
        labels=rows(batch.labels, -1),
        dialogue=dialogue,
        offsets=torch.arange(count + 1) * longest,
        place=torch.arange(longest, device=batch.labels.device).repeat(count),
        longest=longest,
        places=(0, longest),
        host_speakers=host_speakers,
        people=rows(batch.people, speaker),
        host_people=host_people,
    )
