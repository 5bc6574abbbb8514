"""AMB-DSGDN as research code usually has it, to compare with: one dialogue, graph and head after the other.

It computes the same function as the model "amb-dsgdn" in the variant "released", from the same weights.
"""

from __future__ import annotations

import math

import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from erc_toolkit.train.data.batch import Batch, Conversations
from erc_toolkit.train.layers.modality_dropout import drop_modalities, dropout_ratios
from erc_toolkit.train.layers.sequences.encoder import sinusoidal_positions
from erc_toolkit.train.loop.plan import Plan
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN


class NaiveHead(nn.Module):
    """One head of differential graph attention, as in the equations."""

    def __init__(self, d_in: int, d_out: int, dropout: float) -> None:
        super().__init__()
        half = d_out // 2
        self.w = nn.Parameter(torch.empty(d_in, d_out))
        self.left_pos, self.right_pos, self.left_neg, self.right_neg = (
            nn.Parameter(torch.empty(half)) for _ in range(4)
        )
        self.score_pos, self.score_neg = nn.Parameter(torch.empty(10)), nn.Parameter(torch.empty(10))
        self.relation = nn.Embedding(6, 10)
        self.a1, self.b1, self.a2, self.b2 = (nn.Parameter(torch.empty(half)) for _ in range(4))
        self.norm, self.dropout = nn.LayerNorm(d_out), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        h = x @ self.w
        positive, negative = h.chunk(2, -1)
        relation = self.relation(adjacency)
        alphas = []
        for part, left, right, weight in (
            (positive, self.left_pos, self.right_pos, self.score_pos),
            (negative, self.left_neg, self.right_neg, self.score_neg),
        ):
            e = (part @ left)[:, :, None] + (part @ right)[:, None, :] + relation @ weight
            e = F.leaky_relu(e, 0.2)
            alphas.append(torch.where(adjacency > 0, e, -9e15).softmax(-1))
        start = 0.8 - 0.6 * math.exp(-0.3)
        coefficient = (self.a1 * self.b1).sum().exp() - (self.a2 * self.b2).sum().exp() + start
        y = self.dropout(alphas[0] - coefficient * alphas[1]) @ h
        return F.gelu((1 - start) * self.norm(y))


class NaiveBlock(nn.Module):
    """DiffRGCN."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(NaiveHead(size, size, dropout) for _ in range(2))
        self.out = NaiveHead(2 * size, size, dropout)
        self.fc, self.norm, self.dropout = nn.Linear(size, size), nn.LayerNorm(size), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        y = self.dropout(x)
        y = self.dropout(torch.cat([head(y, adjacency) for head in self.heads], -1))
        return self.norm(x + self.fc(F.gelu(self.out(y, adjacency))))


class NaiveEncoder(nn.Module):
    """The audio or visual encoder."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o, self.inner, self.outer = (nn.Linear(size, size) for _ in range(6))
        self.norm, self.dropout = nn.LayerNorm(size, eps=1e-6), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.dropout(x)
        b, n, size = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(2, 3) / math.sqrt(size // self.heads)).masked_fill(~mask[:, None, None], -1e10)
        x = x + self.dropout(self.o((self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).reshape(b, n, size)))
        y = self.dropout(F.gelu(self.inner(self.norm(x)), approximate="tanh"))
        return x + self.dropout(self.outer(y))


class Naive(nn.Module):
    """AMB-DSGDN, variant "released", for padded batches."""

    def __init__(self, config, dims: dict[str, int], speakers: int, classes: int) -> None:
        super().__init__()
        size, self.config, self.classes = config.hidden, config, classes
        self.speaker = nn.Embedding(speakers + 1, size, padding_idx=speakers)
        self.projections = nn.ModuleDict({m: nn.Linear(dim, size) for m, dim in dims.items()})
        self.encoders = nn.ModuleDict(
            {m: NaiveEncoder(size, config.heads, config.dropout) for m in dims if m != "text"}
        )
        self.inter, self.intra = (
            nn.ModuleDict({m: NaiveBlock(size, config.graph_dropout) for m in dims}) for _ in range(2)
        )
        self.gates = nn.ModuleDict({m: nn.Linear(size, size) for m in dims if m != "text"})
        self.classifiers = nn.ModuleDict({m: nn.Linear(size, classes) for m in dims})
        self.dropout = nn.Dropout(config.dropout)

    def load(self, model: AMBDSGDN) -> Naive:
        """Copies the weights of our model."""
        pairs = [(self.speaker, model.speaker)]
        with torch.no_grad():
            for m, stream in model.streams.items():
                pairs += [(self.projections[m], stream.projection), (self.classifiers[m], model.heads[m])]
                if m != "text":
                    e, ours = self.encoders[m], stream.encoder
                    pairs += [(e.q, ours.query), (e.k, ours.key), (e.v, ours.value), (e.o, ours.output)]
                    pairs += [
                        (e.inner, ours.inner),
                        (e.outer, ours.outer),
                        (e.norm, ours.norm),
                        (self.gates[m], stream.gate),
                    ]
                for block, ours in ((self.inter[m], stream.inter), (self.intra[m], stream.intra)):
                    pairs += [(block.fc, ours.linear), (block.norm, ours.norm)]
                    for head, layer, h in (
                        (block.heads[0], ours.heads, 0),
                        (block.heads[1], ours.heads, 1),
                        (block.out, ours.output, 0),
                    ):
                        head.w.copy_(layer.weight[:, h])
                        for mine, theirs in (
                            ((head.left_pos, head.left_neg), layer.left),
                            ((head.right_pos, head.right_neg), layer.right),
                            ((head.score_pos, head.score_neg), layer.relation_score),
                            ((head.a1, head.a2), layer.lambda_left),
                            ((head.b1, head.b2), layer.lambda_right),
                        ):
                            mine[0].copy_(theirs[h, 0]), mine[1].copy_(theirs[h, 1])
                        head.relation.weight.copy_(layer.relation[h])
                        head.norm.weight.copy_(layer.norm_weight[h]), head.norm.bias.copy_(layer.norm_bias[h])
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())
        return self

    def graphs(self, speakers: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Relation ids of both graphs, pair by pair."""
        who, lengths = speakers.tolist(), mask.sum(1).tolist()
        n = mask.shape[1]
        inter = [[[0] * n for _ in range(n)] for _ in who]
        intra = [[[0] * n for _ in range(n)] for _ in who]
        for b, length in enumerate(lengths):
            for i in range(length):
                for j in range(length):
                    if i == j:
                        inter[b][i][j] = intra[b][i][j] = 1
                    elif abs(i - j) <= self.config.window:
                        if who[b][i] == who[b][j]:
                            intra[b][i][j] = 2 if i > j else 3
                        else:
                            inter[b][i][j] = 4 if i < j else 5
        return torch.tensor(inter, device=mask.device), torch.tensor(intra, device=mask.device)

    def forward(self, features, speakers, mask, labels=None, epoch: int = 0) -> dict[str, torch.Tensor]:
        """Logits of every modality, [B, L, classes]; with labels, modality dropout from epoch `dropout_warm_up` on."""
        inter, intra = self.graphs(speakers, mask)
        nodes = {}
        for m, x in features.items():
            x = self.projections[m](x)
            if m != "text":
                x = self.encoders[m](x + sinusoidal_positions(x.shape[1], x.shape[2], x) + self.speaker(speakers), mask)
            x = self.intra[m](self.inter[m](x, inter), intra)
            nodes[m] = torch.sigmoid(self.gates[m](x)) * x if m != "text" else x
        if labels is not None and epoch >= self.config.dropout_warm_up and torch.rand(()).item() < self.config.p_exe:
            truth = labels[mask].cpu().numpy()
            performance = []
            for m, x in nodes.items():
                predicted = self.classify(m, x).argmax(-1)[mask].cpu().numpy()
                performance.append(f1_score(truth, predicted, average="weighted", zero_division=0))
            ratios = dropout_ratios(torch.tensor(performance), self.config.q_base, self.config.lam)
            factor = drop_modalities(ratios, len(mask)).factor.to(mask.device)
            nodes = {m: x * factor[i, :, None, None] for i, (m, x) in enumerate(nodes.items())}
        return {m: self.classify(m, x) for m, x in nodes.items()}

    def classify(self, m: str, x: torch.Tensor) -> torch.Tensor:
        return self.classifiers[m](self.dropout(F.relu(x)))


def padded(batch: Batch, speakers: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, speakers, mask and labels of a batch, [B, L, ...]."""
    lengths = batch.offsets.diff().tolist()

    def pad(x: torch.Tensor, value: float = 0) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True, padding_value=value)

    mask = pad(torch.ones_like(batch.labels, dtype=torch.bool))
    return {m: pad(x) for m, x in batch.features.items()}, pad(batch.speakers, speakers), mask, pad(batch.labels, -1)


def naive_epoch(model: Naive, optimizer, data: Conversations, plan: Plan, batch_size: int) -> None:
    """A training pass and a test pass of the naive model."""
    naive_pass(model, optimizer, data, plan, batch_size, True)
    naive_pass(model, optimizer, data, plan, batch_size, False)


def naive_pass(model: Naive, optimizer, data: Conversations, plan: Plan, batch_size: int, training: bool) -> None:
    """A pass over the training split, with steps of the optimizer, or over the test split."""
    slots = plan.speakers.slots
    model.train(training)
    order = torch.from_numpy(plan.division.train if training else plan.division.test)
    order = order[torch.randperm(len(order))] if training else order
    with torch.set_grad_enabled(training):
        for part in order.split(batch_size):
            features, speakers, mask, labels = padded(data.batch(part), slots)
            logits = model(features, speakers, mask, labels if training else None)
            fused = sum(logits.values())
            loss = F.cross_entropy(fused[mask], labels[mask])
            for z in logits.values():
                single = F.cross_entropy(z[mask], labels[mask])
                loss = loss + single**2 / 10
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()
            f1_score(
                labels[mask].cpu().numpy(),
                fused[mask].argmax(-1).cpu().numpy(),
                average="weighted",
                zero_division=0,
            )
