"""A reconstruction of MERC-GCN (Feng and Fan, arXiv 2501.15063).

Neither its code nor its full text is public. What is known: modalities are aligned pair by pair with co-attention
transformers, their context is fused, a graph convolution follows over a directed graph with learned edge weights within
and between speakers, and emotions are learned together with coarse groups of emotions. Every equation, size and weight
below was chosen here, so scores cannot be compared with the paper's; `docs/explanation/models/merc-gcn.md` lists the
choices.

The paper uses three modalities. With two there is one pair; with one there is none, and the context comes from its
features alone. An absent feature is not a key, and its part of the fused context is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.sequence import RecurrentLayer
from ...layers.sequences.cross_attention import CoAttention
from ...layers.sequences.encoder import WholeDialogueAttention, dialogue_positions
from ...layers.subgraphs.adaptive_graph import EdgeWeights, KindConvolution, WeightedConvolution, edge_kinds
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads


@dataclass
class Settings:
    """Section `model`. The paper's values are not known; all defaults were chosen here.

    Attributes:
        hidden: channels of the modalities and of the fused context.
        graph_hidden: channels of the graph's nodes and of the classifier's inner layer.
        heads: attention heads of the co-attention blocks.
        layers: co-attention blocks of each direction of a pair.
        window: how many utterances back and ahead the graph reaches.
        dropout: on projected features, in co-attention, on the fused context and before the classifiers.
        coarse: for each class, in the order of the store's labels, the number of the coarse group that it belongs to,
            from 0; -1 for a class that belongs to none. null disables the coarse classifier.
        coarse_weight: weight of the coarse cross-entropy in the loss.
    """

    name: str = "merc-gcn"
    hidden: int = setting(200, least=2)
    graph_hidden: int = setting(100, least=1)
    heads: int = setting(5, least=1)
    layers: int = setting(2, least=1)
    window: int = setting(10, least=0)
    dropout: float = setting(0.4, least=0, below=1)
    coarse: list[int] | None = None
    coarse_weight: float = setting(0.3, least=0)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)
        if self.coarse is not None:
            groups = sorted(set(self.coarse) - {-1})
            if len(groups) < 2 or groups != list(range(len(groups))):
                raise UserError(
                    f"{where}: model.coarse={self.coarse} must number two or more groups from 0, each with a class"
                )


class MERCGCN(Model[Settings]):
    """Cross-modal context fusion and adaptive graph convolution.

    Raises:
        UserError: `settings.coarse` does not have one entry per class.
    """

    speaker_use = "identity"
    Settings = Settings
    about = ModelInfo("MERC-GCN", "arXiv 2501.15063", "reconstruction: neither full text nor code is public")
    groups: Tensor | None

    def build(self) -> None:
        settings = self.settings
        size = settings.hidden
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size) for m, dim in self.dims.items()})
        self.pairs = nn.ModuleDict(
            {
                f"{m}+{n}": CoAttention(size, settings.heads, settings.layers, settings.dropout)
                for m, n in combinations(self.dims, 2)
            }
        )
        self.context = RecurrentLayer(nn.GRU, len(self.dims) ** 2 * size, size // 2)
        self.edge_weights = EdgeWeights(size)
        self.by_kind = KindConvolution(size, settings.graph_hidden)
        self.convolution = WeightedConvolution(settings.graph_hidden, settings.graph_hidden)
        self.classifier = nn.Linear(size + settings.graph_hidden, settings.graph_hidden)
        self.fine = nn.Linear(settings.graph_hidden, self.classes)
        self.coarse, groups = None, None
        if settings.coarse is not None:
            if len(settings.coarse) != self.classes:
                raise UserError(
                    f"model.coarse has {len(settings.coarse)} entries, but the number of classes is {self.classes}"
                )
            groups = torch.tensor(settings.coarse)
            self.coarse = nn.Linear(settings.graph_hidden, max(settings.coarse) + 1)
        self.register_buffer("groups", groups, persistent=False)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch; with G coarse groups, `parts["coarse"]` has their logits [N, G]."""
        z = self.dropout(self.context(torch.cat(self._aligned(batch), 1), batch.offsets))
        kinds, blocks = edge_kinds(batch.people, batch.dialogue, self.settings.window, batch.longest)
        weights = self.edge_weights(z, kinds, blocks)
        g = F.relu(self.by_kind(z, weights, kinds, blocks))
        g = F.relu(self.convolution(g, weights, blocks))
        y = self.dropout(F.relu(self.classifier(torch.cat([z, g], 1))))
        return ModelOutput(self.fine(y), parts={} if self.coarse is None else {"coarse": self.coarse(y)})

    def _aligned(self, batch: Batch) -> list[Tensor]:
        """Each modality, and each attending to each other one: M x M times [N, hidden], zeros where it is absent."""
        present = batch.present
        codes = dialogue_positions(batch.packing, self.settings.hidden, self.fine.weight)
        x = {m: self.dropout(projection(batch.features[m]) + codes) for m, projection in self.projections.items()}
        attend = WholeDialogueAttention(batch.packing).attend
        found = [y * present[m][:, None] for m, y in x.items()]
        for m, n in combinations(x, 2):
            a, b = self.pairs[f"{m}+{n}"](x[m], x[n], attend, present[m], present[n])
            found += [a * present[m][:, None], b * present[n][:, None]]
        return found

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Class-weighted cross-entropy of the emotions, plus `coarse_weight` times that of their groups, unweighted."""
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        if self.coarse is not None and self.groups is not None:
            groups = self.groups[batch.labels.clamp_min(0)].masked_fill(batch.labels < 0, -1)
            total = total + self.settings.coarse_weight * weighted_loss(output.parts["coarse"], groups)
        return total
