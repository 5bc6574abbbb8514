"""The parts of DF-GCN: a modality's stream, and the fusion of the reconstruction and of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ....toolkit.base.errors import UserError
from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.dynamic_linear import DynamicLinear
from ...layers.sequence import PaddedDialogues
from ...layers.sequences.encoder import TransformerEncoder, WholeDialogueAttention, dialogue_positions
from ...layers.subgraphs.diff_graph_attention import DiffRGCN
from ...layers.subgraphs.graph import RELATIONS, Graph, speaker_graphs
from ...layers.subgraphs.graph_attention import GAIN, RELATION_SIZE, GraphAttention
from ...layers.subgraphs.graph_ode import GraphODE
from .variants import Settings, Switches

GRAPH_HEADS = 2  # fixed in the authors' code


class BatchContext(NamedTuple):
    """What the modalities and the fusion share in a batch of N rows.

    Attributes:
        added: [N, hidden], codes of positions and speakers.
        attend: attention over the whole dialogue.
        inter, intra: speaker graphs, in which rows without any modality are not neighbours.
        present: [N] bool, rows that hold an utterance with any modality.
        real: [N] bool, rows that hold an utterance; None if all do.
        dialogue: [N] int64, number of the dialogue.
        layout: positions of the rows in a padded batch.
    """

    added: Tensor
    attend: Callable[..., Tensor]
    inter: Graph
    intra: Graph
    present: Tensor
    real: Tensor | None
    dialogue: Tensor
    layout: PaddedDialogues

    def level(self, x: Tensor) -> Tensor:
        """Rows [N, D] in which padding holds the mean of all rows of its dialogue.

        In the authors' code padding has no neighbours, and its softmax over nothing attends to all rows equally. Here
        it attends only to itself, so it is replaced by the mean of all rows; no other row attends to it.
        """
        if self.real is None:
            return x
        mean = self.layout.pad(x).mean(1)
        return torch.where(self.real[:, None], x, mean[self.dialogue])

    def mean(self, x: Tensor) -> Tensor:
        """Mean of the rows that are present, or of all if there is padding: [N, D] to [dialogues, D]; 0 if none is."""
        if self.real is not None:
            return self.layout.pad(x).mean(1)
        present = self.present[:, None].to(x.dtype)
        return self.layout.pad(x * present).sum(1) / self.layout.pad(present).sum(1).clamp_min(1)


def context(
    batch: Batch, speaker: nn.Embedding, window: int, real: Tensor | None, identity: Tensor | None = None
) -> BatchContext:
    """The context of a batch.

    Args:
        batch: if there is padding, all of its dialogues have the same length.
        speaker: table of speaker embeddings.
        window: how many utterances back and ahead the graphs reach.
        real: as in `BatchContext`.
        identity: [N] int; in the graphs, utterances with equal values have the same speaker. None uses the speakers.
    """
    added = dialogue_positions(batch.packing, speaker.embedding_dim, speaker.weight) + speaker(batch.speakers)
    present = torch.stack(list(batch.present.values())).any(0)
    apart = batch.dialogue
    if real is not None:  # each row of padding is a separate dialogue, so that it attends only to itself
        apart = torch.where(real, apart, len(batch) + torch.arange(len(real), device=real.device))
    graphs = speaker_graphs(batch.people if identity is None else identity, apart, window, batch.longest)
    inter, intra = (graph.without(~present) for graph in graphs)
    attend = WholeDialogueAttention(batch.packing).attend
    return BatchContext(
        added, attend, inter, intra, present, real, batch.dialogue, PaddedDialogues(batch.offsets, added.device)
    )


class TextNorm(nn.BatchNorm1d):
    """Batch norm that accepts a single row in training; it has no variance, so the running statistics are used."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] to [N, D]."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class ModalityStream(nn.Module):
    """One modality from features to representations: weight-normalised linear map, Transformer encoder, sigmoid gate.

    Args:
        dim: width of the features.
        layers: number of vectors concatenated in a feature, which are averaged; 1 for all but text.
        norm: whether the features are batch-normalised first.
        settings: of the model.
    """

    def __init__(self, dim: int, layers: int, norm: bool, settings: Settings) -> None:
        super().__init__()
        if dim % layers:
            raise UserError(f"model.text_layers={layers} does not divide the width of the text feature, which is {dim}")
        size = settings.hidden
        self.layers = layers
        self.norm = TextNorm(dim) if norm else None
        self.projection = weight_norm(nn.Linear(dim // layers, size))
        self.encoder = TransformerEncoder(size, settings.heads, settings.dropout)
        self.gate = nn.Linear(size, size)

    def forward(self, features: Tensor, present: Tensor, where: BatchContext) -> Tensor:
        """Features [N, D], present [N], to [N, hidden]; zeros where not present."""
        if self.norm is not None:
            features = self.norm(features)
        if self.layers > 1:
            features = features.unflatten(1, (self.layers, -1)).mean(1)
        x = self.encoder(self.projection(features), where.added, where.attend, present)
        # Padding, if there is any, keeps its values, because the means include it.
        kept = present if where.real is None else present | ~where.real
        return torch.where(kept[:, None], torch.sigmoid(self.gate(x)) * x, 0)


class ReconstructionFusion(nn.Module):
    """The reconstruction of the abstract: a graph ODE over utterances, then a dialogue-dependent linear map.

    H = LayerNorm(X + X(horizon)) of the ODE that starts at X, the sum of the modalities; g_i, the global information
    vector, is the mean over the dialogue of an encoder's output for H, to which an utterance adds its own row if the
    map depends on the utterance; the result is H_i W(g_i) + H_i.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size = settings.hidden
        self.by_utterance = settings.dynamic == "utterance"
        self.dropout = Dropout(settings.graph_dropout)
        self.ode = None
        if settings.ode_steps:
            self.ode = GraphODE(
                size, settings.ode_steps, settings.horizon, settings.solver, settings.restart, settings.relations
            )
        self.norm = nn.LayerNorm(size)
        self.summary = self.map = None
        if settings.dynamic != "none":
            self.map = DynamicLinear(size, settings.boxes, settings.temperature)
            if settings.boxes > 1:
                self.summary = TransformerEncoder(size, settings.heads, settings.dropout)

    def forward(self, x: Tensor, where: BatchContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums of the modalities [N, hidden] to the same shape; and the weights of the matrices, if there are any."""
        x = self.dropout(x)
        h = self.norm(x + (x if self.ode is None else self.ode(x, where.inter, where.intra)))
        if self.map is None:
            return h, {}
        g = h
        if self.summary is not None:
            encoded = self.summary(h, torch.zeros_like(h), where.attend, where.present)
            g = where.mean(encoded)[where.dialogue]
            if self.by_utterance:
                g = g + encoded
        weights = self.map.weights(g)
        return h + self.map(h, weights), {"boxes": weights}


class SharedTableAttention(GraphAttention):
    """Graph attention whose relation vectors are in a table that all layers share, as in the authors' code.

    Args:
        d_in, d_out, heads, dropout, normalised: as for `GraphAttention`.
        table: [RELATIONS, RELATION_SIZE], a module of the model, not registered as part of this one.
    """

    def __init__(
        self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool = True, *, table: nn.Embedding
    ) -> None:
        super().__init__(d_in, d_out, heads, dropout, normalised)
        self.relation = None
        self._table = (table,)  # a module in a tuple is not registered a second time
        for score in (self.left, self.right, self.relation_score):  # their code initialises all three as one column
            bound = GAIN * (6 / (2 * self.left.shape[-1] + RELATION_SIZE + 1)) ** 0.5
            nn.init.uniform_(score, -bound, bound)

    def relations(self, graph: Graph) -> Tensor:
        """The table, for every head."""
        return self._table[0].weight.expand(len(self.left), -1, -1)


class RelationalAttention(DiffRGCN):
    """Two heads of graph attention, an output head, a linear map, residual and LayerNorm ("RGAT" in their code)."""

    def __init__(self, size: int, dropout: float, table: nn.Embedding) -> None:
        super().__init__(size, GRAPH_HEADS, dropout, layer=partial(SharedTableAttention, table=table))

    def forward(self, x: Tensor, graph: Graph, level: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
        """[N, size] to [N, size]; `level` transforms the input of both attention layers, see `BatchContext.level`."""
        y = self.dropout(self.heads(level(self.input_dropout(x)), graph))
        y = F.gelu(self.output(level(y), graph))
        return self.norm(x + self.linear(y))


class ReleasedFusion(nn.Module):
    """The authors' code: attention to other speakers' and to one's own utterances, an encoder, and the prompt's map.

    The prompt of a dialogue is the softmax of an MLP on the mean of its utterances, one number per channel; it scales
    the rows of one matrix, which maps every utterance of the dialogue.
    """

    def __init__(self, settings: Settings, switches: Switches, text: bool) -> None:
        super().__init__()
        size = settings.hidden
        self.frozen = switches.frozen_prompt
        self.relation = nn.Embedding(RELATIONS, RELATION_SIZE)
        self.inter, self.intra = (RelationalAttention(size, settings.graph_dropout, self.relation) for _ in range(2))
        again = switches.text_encoder_again and text
        self.encoder = None if again else TransformerEncoder(size, settings.heads, settings.dropout)
        self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        box = nn.init.xavier_uniform_(torch.empty(size, size))
        if self.frozen:
            self.mlp.requires_grad_(False)
            self.register_buffer("box", box)
        else:
            self.box = nn.Parameter(box)

    def forward(
        self, x: Tensor, where: BatchContext, text: TransformerEncoder | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums of the modalities [N, hidden] to the same shape; and the prompts [N, hidden].

        Args:
            x: the sums.
            where: the batch.
            text: the text's encoder, used if the fusion has none.
        """
        x = self.inter(x, where.inter, where.level)
        x = self.intra(x, where.intra, where.level)
        encoder = text if self.encoder is None else self.encoder
        if encoder is None:
            raise TypeError("a fusion without an encoder needs the text's")
        x = encoder(x, where.added, where.attend, where.present)
        prompt = self.mlp(where.mean(x)).softmax(-1)[where.dialogue]
        if self.frozen:
            prompt = prompt.detach()
        return (x * prompt) @ self.box, {"prompt": prompt}
