"""RGAT with relational position encodings (EMNLP 2020), after a third party's code; the authors released none.

The features of an utterance go through a linear map. Layers of graph attention follow, over the utterances of a window,
whose scores depend on who speaks, the order, and the distance
(`erc_toolkit.train.layers.relations.relation_attention`). The utterance is classified from what enters the first layer
and what leaves the last. `docs/explanation/models/rgat.md` has the equations, and says what differs from the paper,
which fine-tunes BERT.

Utterances may lack modalities: absent features are zeros, which the map ignores. An utterance without any is nobody's
neighbour, and has the log prior of the training split as logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.relations.relation_attention import ENCODINGS, RelationAttention, SpeakerRelations
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads


@dataclass
class Settings:
    """Section `model`. Defaults are those of the third party's script, if it has the setting.

    Attributes:
        hidden: channels; 768 in the script, BERT's.
        heads: attention heads.
        layers: layers of graph attention.
        past, future: how many utterances back and ahead an utterance has neighbours; -1 for all.
        encoding: the position encoding, see `RelationAttention`.
        dropout: on the projected features; the script has only BERT's own.
    """

    name: str = "rgat"
    hidden: int = setting(768, least=2)
    heads: int = setting(8, least=1)
    layers: int = setting(3, least=1)
    past: int = setting(5, least=-1)
    future: int = setting(5, least=-1)
    encoding: str = setting("relational", choices=ENCODINGS)
    dropout: float = setting(0.1, least=0, below=1)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)


class RGAT(Model[Settings]):
    """Relation-aware graph attention with relational position encodings."""

    speaker_use = "identity"
    Settings = Settings
    about = ModelInfo(
        "RGAT",
        "EMNLP 2020, doi 10.18653/v1/2020.emnlp-main.597",
        "reconstruction: a third party's code, frozen features",
    )

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        self.projection = nn.Linear(sum(self.dims.values()), size)
        self.layers = nn.ModuleList(
            RelationAttention(size, settings.heads, settings.encoding) for _ in range(settings.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(settings.layers))
        self.inner, self.output = nn.Linear(2 * size, size // 2), nn.Linear(size // 2, self.classes)
        self.dropout = Dropout(settings.dropout)
        self.keep_prior()

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        settings = self.settings
        known = torch.stack([batch.present[m] for m in self.dims]).any(0)
        relations = SpeakerRelations(batch.packing, batch.people, known, settings.past, settings.future)
        x = y = self.dropout(self.projection(self.concatenated(batch)))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = norm(layer(y, relations))
        logits = self.output(torch.relu(self.inner(torch.cat([x, y], 1))))
        return ModelOutput(torch.where(known[:, None], logits, self.log_prior))
