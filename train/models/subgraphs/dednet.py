"""DEDNet (IEEE TAFFC 16, 2025, doi 10.1109/TAFFC.2024.3461148): relational subgraphs of the text, gated encoders.

It follows the authors' code. The text goes through relational graph attention twice, over the subgraph to the other
speakers' utterances and over that to the speaker's own; audio and video each go through a Transformer encoder with
positions and speakers, and a gate. Each modality has its own classifier; their logits are added. AMB-DSGDN is built on
it, and shares its layers. `docs/explanation/models/dednet.md` has the equations.

Utterances may lack modalities: an absent feature is neither a neighbour nor a key, and is excluded from the sum and
from its classifier's loss. An utterance without any has the log prior of the training split as logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.sequences.encoder import TransformerEncoder, WholeDialogueAttention, dialogue_positions
from ...layers.speakers import SpeakerEmbedding
from ...layers.subgraphs.diff_graph_attention import DiffRGCN
from ...layers.subgraphs.graph import RELATIONS, Graph, speaker_graphs
from ...layers.subgraphs.graph_attention import RELATION_SIZE, GraphAttention
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput, check_heads


@dataclass
class Settings:
    """Section `model`. Defaults are those of the authors' IEMOCAP script.

    Attributes:
        hidden: channels of every modality's representation.
        heads: attention heads of the audio and visual encoders.
        window: how many utterances back and ahead the subgraphs reach.
        dropout: in encoders and before the classifiers.
        graph_heads: attention heads of each graph block; 2 in their code, regardless of its options.
        graph_dropout: in graph blocks; 0.2 in their code.
    """

    name: str = "dednet"
    hidden: int = setting(512, least=2)
    heads: int = setting(8, least=1)
    window: int = setting(20, least=0)
    dropout: float = setting(0.5, least=0, below=1)
    graph_heads: int = setting(2, least=1)
    graph_dropout: float = setting(0.2, least=0, below=1)

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)


class SharedRelations(GraphAttention):
    """Graph attention whose relation vectors are those of all heads and layers of the model, which the graph has."""

    def __init__(self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool) -> None:
        super().__init__(d_in, d_out, heads, dropout, normalised)
        del self.relation

    def relations(self, graph: Graph) -> Tensor:
        assert graph.vectors is not None  # DEDNet's forward
        return graph.vectors.expand(self.weight.shape[1], -1, -1)


class DEDNet(Model[Settings]):
    """Dynamic emotion-dependent network with relational subgraph interaction."""

    capturable = True
    speaker_use = "identity"
    Settings = Settings
    about = ModelInfo("DEDNet", "IEEE TAFFC 16, 2025, doi 10.1109/TAFFC.2024.3461148", "their code")

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size) for m, dim in self.dims.items()})
        self.inter = self.intra = self.speaker = None
        if "text" in self.dims:
            self.relation = nn.Parameter(torch.randn(RELATIONS, RELATION_SIZE))
            self.inter, self.intra = (
                DiffRGCN(size, settings.graph_heads, settings.graph_dropout, layer=SharedRelations) for _ in range(2)
            )
        encoded = [m for m in self.dims if m != "text"]
        if encoded:
            self.speaker = SpeakerEmbedding(self.speakers, size, padding=True)
            self.speaker_use = "embedding"
        self.encoders = nn.ModuleDict({m: TransformerEncoder(size, settings.heads, settings.dropout) for m in encoded})
        self.gates = nn.ModuleDict({m: nn.Linear(size, size) for m in encoded})
        self.heads = nn.ModuleDict({m: nn.Linear(size, self.classes) for m in self.dims})
        self.dropout = Dropout(settings.dropout)
        self.keep_prior()

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """The sum of the modalities' logits, and those of each."""
        x = {m: projection(batch.features[m]) for m, projection in self.projections.items()}
        if self.inter is not None and self.intra is not None:
            there = batch.present["text"]
            graphs = speaker_graphs(batch.people, batch.dialogue, self.settings.window, batch.longest)
            for block, graph in zip((self.inter, self.intra), graphs, strict=True):
                x["text"] = block(x["text"], graph.without(~there)._replace(vectors=self.relation))
        if self.speaker is not None:
            positions = dialogue_positions(batch.packing, self.settings.hidden, self.speaker.weight)
            added = positions + self.speaker(batch.speakers)
            attend = WholeDialogueAttention(batch.packing).attend
            for m, encoder in self.encoders.items():
                y = encoder(x[m], added, attend, batch.present[m])
                x[m] = torch.sigmoid(self.gates[m](y)) * y
        unimodal = {m: self.heads[m](self.dropout(F.relu(y))) for m, y in x.items()}
        return ModelOutput(self._sum(unimodal, batch), unimodal)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The cross-entropy of the sum, and a tenth of the square of each modality's, a scalar.

        Each is a mean over labelled utterances, weighted by class.
        """
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        for modality, logits in output.unimodal.items():
            labels = batch.labels.masked_fill(~batch.present[modality], -1)
            total = total + weighted_loss(logits, labels, self.class_weights).square() / 10
        return total

    def _sum(self, unimodal: dict[str, Tensor], batch: Batch) -> Tensor:
        present = torch.stack([batch.present[m] for m in unimodal])
        logits = torch.where(present[..., None], torch.stack(list(unimodal.values())), 0).sum(0)
        return torch.where(present.any(0)[..., None], logits, self.log_prior)
