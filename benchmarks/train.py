"""One epoch of AMB-DSGDN compared with a naive version of it, on synthetic features in the real shapes.

    python benchmarks/train.py [--corpora iemocap meld] [--batch 16 64] [--device cpu] [--rounds 3] [--long]

An epoch is a training pass over the training split, and an evaluation of the test split. The naive version computes the
same function (checked for every corpus before anything is timed) as research code usually does: dialogues padded to the
longest of their batch, graphs pair by pair in Python, dense attention, one head and one branch at a time,
F1 by scikit-learn on the CPU in every batch. With --long it times dialogues of up to 100,000 utterances instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    del sys.path[0]  # this file has the same name as a package

import argparse
import math
import multiprocessing
import resource
import statistics
import tempfile
import time

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from erc_toolkit.toolkit.base.device import device_name, pick_device
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.config import Config, load_config
from erc_toolkit.train.data.batch import Batch, Conversations
from erc_toolkit.train.data.features import conversations, fit_normalisers, read_feature, rows_of
from erc_toolkit.train.layers.encoder import sinusoidal_positions
from erc_toolkit.train.layers.modality_dropout import drop_modalities, dropout_ratios
from erc_toolkit.train.loop.epoch import new_state, train_epoch
from erc_toolkit.train.loop.evaluation import predict, score
from erc_toolkit.train.loop.plan import Plan, make_plan
from erc_toolkit.train.loop.seeding import seed_everything
from erc_toolkit.train.models.amb_dsgdn import AMBDSGDN

# dialogues and utterances of the training and test splits, longest dialogue, widths, classes, speakers of a dialogue
SHAPES = {
    "iemocap": ((120, 5810), (31, 1623), 110, {"text": 1024, "audio": 1582, "visual": 342}, 6, 2),
    "meld": ((1152, 11098), (280, 2610), 33, {"text": 1024, "audio": 300, "visual": 342}, 7, 9),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")


def lengths_of(dialogues: int, utterances: int, longest: int, rng: np.random.Generator) -> np.ndarray:
    """Random lengths from 1 to `longest`, which occurs, with the given sum."""
    lengths = np.clip(rng.gamma(3, utterances / dialogues / 3, dialogues).round().astype(int), 1, longest)
    lengths[0] = longest
    while (difference := utterances - lengths.sum()) != 0:
        step = int(np.sign(difference))
        free = np.flatnonzero((lengths[1:] + step >= 1) & (lengths[1:] + step <= longest)) + 1
        lengths[rng.choice(free, min(abs(difference), len(free)), replace=False)] += step
    return lengths


def write_store(path: Path, corpus: str) -> None:
    """A store of random features in the shape of a corpus."""
    train, test, longest, dims, classes, speakers = SHAPES[corpus]
    rng = np.random.default_rng(0)
    utterances = []
    for split, (dialogues, total) in (("train", train), ("test", test)):
        for d, length in enumerate(lengths_of(dialogues, total, longest, rng)):
            for position in range(length):
                utterances.append(
                    Utterance(
                        id=f"{split}{d}_{position}",
                        dialogue=f"{split}{d}",
                        position=position,
                        speaker=f"s{int(rng.integers(speakers))}",
                        text="",
                        label=f"c{int(rng.integers(classes))}",
                        split=split,
                    )
                )
    n = len(utterances)
    with StoreWriter(path, corpus=corpus, labels=[f"c{c}" for c in range(classes)], utterances=utterances) as writer:
        for modality, dim in dims.items():
            writer.add_feature(modality, "x", rng.standard_normal((n, dim), np.float32), np.ones(n, bool), [""] * n)


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
    slots = plan.speakers.slots
    for training, dialogues in ((True, plan.division.train), (False, plan.division.test)):
        model.train(training)
        order = torch.from_numpy(dialogues)
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


def clock(work, device: torch.device, rounds: int) -> float:
    """Median seconds of some rounds after one to warm up."""
    seconds = []
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


class Silent:
    """No progress."""

    def step(self, done: int, steps: int) -> None:
        """Says nothing."""


def share_of_products(work) -> float:
    """Share of an epoch's CPU time that is spent inside matrix products."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    averages = profile.key_averages()
    total = sum(e.self_cpu_time_total for e in averages)
    return sum(e.self_cpu_time_total for e in averages if e.key.startswith(PRODUCTS)) / total


def compare(
    corpus: str, sizes: list[int], device: torch.device, rounds: int, precisions: list[str], naive: bool
) -> None:
    """Times epochs of a corpus' shape and prints a line for each batch size."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.h5"
        write_store(path, corpus)
        with FeatureStore.open(path) as store:
            for size in sizes:
                config = load_config(
                    corpus, [f"train.batch_size={size}", "train.protocol=best-on-test", "train.epochs=1000"]
                )
                plan = make_plan(store, config)
                matrices = {m: read_feature(store, f) for m, f in plan.features.items()}
                rows = rows_of(store.offsets, plan.division.train)
                normalisers = fit_normalisers(matrices, rows, config.data.normalise, config.data.clip)
                data = conversations(store, matrices, normalisers, plan.speakers).to(device)
                plain = None
                if naive:
                    plain = time_naive(plan, data, device, rounds)
                for precision in precisions:
                    changed = Config(config.data, config.model, config.train)
                    changed.train.precision = precision
                    plan.config = changed
                    report(corpus, plan, data, device, rounds, plain)


def time_naive(plan: Plan, data: Conversations, device: torch.device, rounds: int) -> float:
    """Seconds of a naive epoch, after checking that the naive model has the same logits as ours."""
    seed_everything(0)
    ours = plan.model().to(device).eval()
    dims = {m: f.dim for m, f in plan.features.items()}
    naive = Naive(plan.config.model, dims, plan.speakers.slots, ours.classes).to(device).load(ours).eval()
    batch = data.batch(torch.from_numpy(plan.division.test[:16]))
    features, speakers, mask, _ = padded(batch, plan.speakers.slots)
    with torch.no_grad():
        torch.testing.assert_close(
            sum(naive(features, speakers, mask).values())[mask], ours(batch).logits, rtol=1e-3, atol=1e-3
        )
    optimizer = torch.optim.Adam(
        naive.parameters(), lr=plan.config.train.lr, weight_decay=plan.config.train.weight_decay
    )
    return clock(lambda: naive_epoch(naive, optimizer, data, plan, plan.config.train.batch_size), device, rounds)


def report(
    corpus: str, plan: Plan, data: Conversations, device: torch.device, rounds: int, plain: float | None
) -> None:
    """Times our epoch and prints its line."""
    config = plan.config
    seed_everything(0)
    state = new_state(plan.model().to(device), config.train)

    def epoch() -> None:
        train_epoch(plan, state, data, Silent())
        prediction = predict(state.model, data, plan.division.test, config.train.batch_size, config.train.precision)
        score(prediction, plan.store.column("label"), plan.store.labels, plan.counts)

    ours = clock(epoch, device, rounds)
    products = f"{share_of_products(epoch):6.0%}" if device.type == "cpu" else "      "
    times = f"{plain:8.2f} {ours:8.2f} {plain / ours:7.1f}" if plain else f"{'':8} {ours:8.2f} {'':7}"
    print(f"{corpus:8} {config.train.batch_size:5} {config.train.precision:9} {times} {products}", flush=True)


def long_dialogue(length: int, window: int | None, pipe) -> None:
    """Sends seconds, and peak memory of this process in MiB, of one forward pass over one dialogue."""
    config = load_config("iemocap").model
    config.encoder_window = window
    dims = SHAPES["iemocap"][3]
    seed_everything(0)
    model = AMBDSGDN(config, dims, 2, torch.ones(6)).eval()
    everyone = torch.ones(length, dtype=torch.bool)
    batch = Batch(
        {m: torch.randn(length, dim) for m, dim in dims.items()},
        dict.fromkeys(dims, everyone),
        torch.randint(2, (length,)),
        torch.zeros(length, dtype=torch.int64),
        torch.zeros(length, dtype=torch.int64),
        torch.tensor([0, length]),
    )
    began = time.perf_counter()
    with torch.inference_mode():
        assert model(batch).logits.isfinite().all()
    pipe.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def long_dialogues(window: int) -> None:
    """Prints time and memory for increasingly long dialogues, with local and with whole-dialogue encoders."""
    print(f"{'utterances':>10} {'encoders':>8} {'seconds':>8} {'peak MiB':>9}")
    context = multiprocessing.get_context("spawn")  # a separate process for each, as peak memory is measured
    for reach, lengths in ((window, (6_250, 12_500, 25_000, 50_000, 100_000)), (None, (6_250, 12_500, 25_000))):
        for length in lengths:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=long_dialogue, args=(length, reach, there))
            process.start()
            there.close()
            seconds, memory = here.recv()
            process.join()
            print(f"{length:10} {'whole' if reach is None else reach:>8} {seconds:8.2f} {memory:9.0f}", flush=True)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpora", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--no-naive", action="store_true", help="skip the naive version")
    parser.add_argument("--long", action="store_true", help="time long dialogues instead")
    parser.add_argument("--encoder-window", type=int, default=50, help="encoder window for long dialogues")
    options = parser.parse_args()
    device = pick_device(options.device)
    print(f"{device_name(device)}, torch {torch.__version__}")
    if options.long:
        long_dialogues(options.encoder_window)
        return
    print(f"{'':24}    naive     ours naive/ours  in products")
    for corpus in options.corpora:
        compare(corpus, options.batch, device, options.rounds, options.precision, not options.no_naive)


if __name__ == "__main__":
    main()
