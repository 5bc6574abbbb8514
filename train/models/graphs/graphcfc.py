"""GraphCFC (IEEE TMM 26, 2024, doi 10.1109/TMM.2023.3260635), following its released code.

Each modality is encoded, text by an LSTM over the dialogue; the speaker's vector is added, and one dense block of each
modality and one that all share follow. Streams are then fused in pairs, audio with visual, the result with text, and
that with the shared one: a pair goes through graph attention (`erc_toolkit.train.layers.relations.pair_graph`), then
both are mapped to one. Every modality and the shared stream have classifiers of their own, which only the loss uses.
`docs/explanation/models/graphcfc.md` has the equations.

With one modality its stream goes through the graph alone, as in their code. Utterances may lack modalities: an absent
feature is no source in the graph, is zeros where streams are joined, and is excluded from its classifier's loss. An
utterance without any has the log prior of the training split as logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.losses import weighted_loss
from ...layers.relations.pair_graph import Edges, PairGraph, PairLayer, pair_relations
from ...layers.sequence import RecurrentLayer
from ...layers.speakers import SpeakerEmbedding
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput

_ORDER = ("audio", "visual", "text")  # in which they are fused


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' program.

    Attributes:
        hidden: width of every stream, and of each direction of the LSTM.
        encoder_input: width to which text is mapped before the LSTM.
        encoder_layers: of the LSTM.
        layers: how often a pair goes through graph attention.
        shared_layers: whether these are one layer with the same weights, as in the released code, which puts one and
            the same layer into its list; otherwise each has its own.
        heads: attention heads in the graph, each as wide as `hidden`.
        past, future: how many utterances back and ahead an utterance attends to.
        dropout: between layers of the LSTM, and in the feed-forward networks.
    """

    name: str = "graphcfc"
    hidden: int = setting(200, least=1)
    encoder_input: int = setting(400, least=1)
    encoder_layers: int = setting(2, least=1)
    layers: int = setting(5, least=1, most=100)
    shared_layers: bool = True
    heads: int = setting(4, least=1)
    past: int = setting(18, least=0)
    future: int = setting(18, least=0)
    dropout: float = setting(0.1, least=0, below=1)


class DenseBlock(nn.Module):
    """LN(W_2 gelu(W_1 x)), of twice the width inside, without a residual.

    Args:
        size: channels.
        dropout: after both maps.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.norm, self.dropout = nn.LayerNorm(size), Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, size] to [N, size]."""
        return self.norm(self.dropout(self.outer(self.dropout(F.gelu(self.inner(x))))))


class GraphCFC(Model[Settings]):
    """Directed-graph based cross-modal feature complementation."""

    speaker_use = "embedding"
    Settings = Settings
    about = ModelInfo("GraphCFC", "IEEE TMM 26, 2024, doi 10.1109/TMM.2023.3260635", "their code")

    def build(self) -> None:
        settings, size = self.settings, self.settings.hidden
        chosen = [m for m in _ORDER if m in self.dims]
        widths = {m: settings.encoder_input if m == "text" else size for m in chosen}
        self.projections = nn.ModuleDict({m: nn.Linear(self.dims[m], widths[m]) for m in chosen})
        self.encoder = self.encoded = None
        if "text" in chosen:
            self.encoder = RecurrentLayer(
                nn.LSTM, settings.encoder_input, size, settings.encoder_layers, dropout=settings.dropout
            )
            self.encoded = nn.Linear(2 * size, size)
        self.speaker = SpeakerEmbedding(self.speakers, size)
        several = len(chosen) > 1
        self.relation = nn.Embedding(pair_relations(self.speakers) + several, size)
        self.dense = nn.ModuleDict({m: DenseBlock(size, settings.dropout) for m in chosen})
        self.shared = DenseBlock(size, settings.dropout) if several else None
        self.shared_join = nn.Linear(len(chosen) * size, size) if several else None
        self.heads = nn.ModuleDict({m: nn.Linear(size, self.classes) for m in chosen})
        self.shared_head = nn.Linear(size, self.classes) if several else None
        count = 1 if settings.shared_layers else settings.layers
        # With several modalities, one stack for every modality after the first, and one for the shared stream.
        self.stacks = nn.ModuleList(
            nn.ModuleList(PairLayer(size, settings.heads, settings.dropout) for _ in range(count)) for _ in chosen
        )
        self.joins = nn.ModuleList(nn.Linear(2 * size, size) for _ in chosen if several)
        self.output = nn.Linear(size, self.classes)
        self.keep_prior()

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """The logits, those of each modality, and as the part "shared" those of the shared stream."""
        there = {m: batch.present[m] for m in self.heads}
        anything = torch.stack(list(there.values())).any(0)
        x = self._encoded(batch)
        streams = {m: dense(x[m]) for m, dense in self.dense.items()}
        unimodal = {m: head(streams[m]) for m, head in self.heads.items()}
        parts: dict[str, Tensor] = {}
        graph = PairGraph(
            batch.host_speakers,
            batch.host_people,
            batch.dialogue,
            self.settings.past,
            self.settings.future,
            batch.longest,
            self.speakers,
            across=self.shared is not None,
            dtype=self.relation.weight.dtype,
        )
        vectors = self.relation(graph.relations)
        queue = [(stream, there[m]) for m, stream in streams.items()]
        if self.shared is not None and self.shared_join is not None and self.shared_head is not None:
            common = torch.cat([self.shared(x[m]) * there[m][:, None] for m in streams], 1)
            queue.append((self.shared_join(common), anything))
            parts["shared"] = self.shared_head(queue[-1][0])
            fused, present = queue[0]
            for stack, join, (stream, there_too) in zip(self.stacks, self.joins, queue[1:], strict=True):
                edges = graph.edges([present, there_too])
                pair = self._through(stack, torch.stack([fused, stream]), vectors, edges)
                pair = pair * torch.stack([present, there_too])[..., None]
                fused, present = join(torch.cat(pair.unbind(), 1)), present | there_too
        else:
            stream, present = queue[0]
            fused = self._through(self.stacks[0], stream[None], vectors, graph.edges([present]))[0]
        logits = torch.where(anything[:, None], self.output(fused), self.log_prior)
        return ModelOutput(logits, unimodal, parts)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Half the sum of the cross-entropies of all classifiers, each a mean weighted by class: a scalar."""
        present = torch.stack([batch.present[m] for m in output.unimodal])
        counted = [*present, *(present.any(0) for _ in output.parts)]
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        for logits, there in zip((*output.unimodal.values(), *output.parts.values()), counted, strict=True):
            total = total + weighted_loss(logits, batch.labels.masked_fill(~there, -1), self.class_weights)
        return total / 2

    def _encoded(self, batch: Batch) -> dict[str, Tensor]:
        """The modalities with the speaker's vector, [N, hidden] each."""
        x = {m: projection(batch.features[m]) for m, projection in self.projections.items()}
        speaker = self.speaker(batch.speakers)
        for m, y in x.items():
            if m == "text" and self.encoder is not None and self.encoded is not None:
                y = self.encoded(self.encoder(y * batch.present[m][:, None], batch.offsets))
            else:
                y = torch.tanh(y)
            x[m] = y + speaker
        return x

    def _through(self, stack: nn.Module, x: Tensor, relations: Tensor, edges: Edges) -> Tensor:
        layers = list(stack.children())
        for number in range(self.settings.layers):
            x = layers[number % len(layers)](x, relations, edges)
        return x
