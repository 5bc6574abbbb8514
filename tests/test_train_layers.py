"""Graphs, differential attention, encoder and modality dropout against slow, straightforward implementations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag
from sklearn.metrics import f1_score
from test_train_support import dense, packing
from torch.nn import functional as F

from erc_toolkit.train.layers.blocks import Blocks
from erc_toolkit.train.layers.dropout import Dropout, dropout
from erc_toolkit.train.layers.modality_dropout import drop_modalities, dropout_ratios, weighted_f1
from erc_toolkit.train.layers.sequences import encoder as encoders
from erc_toolkit.train.layers.sequences.encoder import (
    LocalDialogueAttention,
    TransformerEncoder,
    WholeDialogueAttention,
    sinusoidal_positions,
)
from erc_toolkit.train.layers.subgraphs.diff_graph_attention import DiffGraphAttention, DiffRGCN, lambda_init
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.layers.subgraphs.graph_attention import GraphAttention
from erc_toolkit.train.layers.subgraphs.graph_convolution import GraphConvolution
from erc_toolkit.train.packing import Packing


def adjacency_by_loops(speakers, window):
    """Equations 7 and 8, pair by pair."""
    n = len(speakers)
    intra, inter = np.zeros((n, n), int), np.zeros((n, n), int)
    for i in range(n):
        for j in range(n):
            if i == j:
                intra[i, j] = inter[i, j] = 1
            elif abs(i - j) <= window:
                if speakers[i] == speakers[j]:
                    intra[i, j] = 2 if i > j else 3
                else:
                    inter[i, j] = 4 if i < j else 5
    return intra, inter


@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 11), min_size=30, max_size=90)
        ),
        min_size=1,
        max_size=4,
    ),
    st.one_of(st.integers(0, 10), st.integers(11, 120)),
    st.integers(0, 2),
)
@settings(deadline=None, max_examples=80)
def test_graphs_equal_the_double_loop(dialogues, window, beyond):
    speakers = torch.tensor([speaker for dialogue in dialogues for speaker in dialogue])
    lengths = [len(dialogue) for dialogue in dialogues]
    inter, intra = speaker_graphs(speakers, packing(lengths)[0], window, max(lengths) + beyond)
    expected = [adjacency_by_loops(dialogue, window) for dialogue in dialogues]
    assert (dense(intra).numpy() == block_diag(*(a for a, _ in expected))).all()
    assert (dense(inter).numpy() == block_diag(*(b for _, b in expected))).all()


def test_graphs_of_the_dialogue_a_b_a():
    speakers, (dialogue, _) = torch.tensor([0, 1, 0]), packing([3])
    inter, intra = speaker_graphs(speakers, dialogue, 1, 3)
    assert dense(intra).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert dense(inter).tolist() == [[1, 4, 0], [5, 1, 4], [0, 5, 1]]
    _, intra = speaker_graphs(speakers, dialogue, 2, 3)
    assert dense(intra)[0, 2] == 3 and dense(intra)[2, 0] == 2


def test_absent_utterances_are_not_neighbours():
    inter, _ = speaker_graphs(torch.tensor([0, 1, 0]), packing([3])[0], 2, 3)
    assert dense(inter.without(torch.tensor([False, True, False]))).tolist() == [[1, 0, 0], [5, 1, 4], [0, 0, 1]]


@pytest.mark.parametrize("reach", [0, 3, 20, 200])
def test_blocks_contain_every_row_in_reach_once(reach):
    blocks = Blocks(100, reach, torch.device("cpu"))
    numbers = torch.arange(100.0)[None, :, None]
    own, seen = blocks.own(numbers, -1)[0, ..., 0], blocks.seen(numbers, -1)[0, ..., 0]
    assert torch.equal(blocks.flat(blocks.own(numbers)), numbers)
    for i in range(100):
        (b,), (r,) = (own == i).nonzero(as_tuple=True)
        within = seen[b][(blocks.distance[r].abs() <= reach) & (seen[b] >= 0)]
        assert within.tolist() == list(range(max(0, i - reach), min(100, i + reach + 1)))
    local = torch.zeros(100, 100, dtype=torch.bool)
    b, r, c = blocks.local(torch.tensor([0] * 40 + [1] * 60)).nonzero(as_tuple=True)
    local[own[b, r].long(), seen[b, c].long()] = True
    place = torch.arange(100)
    assert torch.equal(local, ((place[:, None] - place).abs() <= reach) & ((place[:, None] < 40) == (place < 40)))


def attention_by_loops(layer, head, x, adjacency):
    """Equations 9 to 17 of one head for one dialogue, element by element, then LayerNorm, 1 - lambda_init and GELU."""
    p = {n: x[:, head] if n == "weight" else x[head] for n, x in layer.named_parameters()}
    wh = x @ p["weight"]
    n, width = wh.shape
    half = width // 2

    def dot(a, b):
        return sum(a[c] * b[c] for c in range(len(a)))

    exponentials = [torch.exp(dot(p["lambda_left"][b], p["lambda_right"][b])) for b in (0, 1)]
    coefficient = exponentials[0] - exponentials[1] + 0.8 - 0.6 * math.exp(-0.3)
    rows = []
    for i in range(n):
        neighbours = [j for j in range(n) if adjacency[i][j] > 0]
        alpha = []
        for branch in (0, 1):
            h = wh[:, branch * half : (branch + 1) * half]
            scores = []
            for j in neighbours:
                relation = dot(p["relation_score"][branch], p["relation"][adjacency[i][j]])
                e = dot(p["left"][branch], h[i]) + dot(p["right"][branch], h[j]) + relation
                scores.append(torch.exp(e if e > 0 else 0.2 * e))
            alpha.append([s / sum(scores) for s in scores])
        row = sum((a - coefficient * b) * wh[j] for a, b, j in zip(alpha[0], alpha[1], neighbours, strict=True))
        mean = row.mean()
        row = (row - mean) / torch.sqrt(((row - mean) ** 2).mean() + 1e-5) * p["norm_weight"] + p["norm_bias"]
        row = (0.6 * math.exp(-0.3) + 0.2) * row
        rows.append(row * 0.5 * (1 + torch.erf(row / math.sqrt(2))))
    return torch.stack(rows)


@pytest.mark.parametrize("which", [0, 1], ids=["inter", "intra"])
def test_attention_and_its_gradients_equal_the_loops(which):
    torch.manual_seed(3)
    layer = DiffGraphAttention(6, 8, 2, dropout=0.2).double().eval()
    torch.nn.init.normal_(layer.norm_weight), torch.nn.init.normal_(layer.norm_bias)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    graph = speaker_graphs(torch.tensor([0, 1, 1, 0, 2, 0, 1]), packing([7])[0], 3, 7)[which]
    weight = torch.randn(7, 16, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    fast = layer(x, graph)
    slow = torch.cat([attention_by_loops(layer, head, x, dense(graph).tolist()) for head in (0, 1)], 1)
    assert torch.allclose(fast, slow, atol=1e-9)
    for a, b in zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((slow * weight).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6)


def test_attention_weights_of_a_row_sum_to_one_minus_lambda():
    torch.manual_seed(0)
    layer = DiffGraphAttention(4, 4, 3, dropout=0.0).double()
    graph = speaker_graphs(torch.tensor([0, 1, 0, 2]), packing([3, 1])[0], 2, 3)[0]
    weights = layer.attention(torch.randn(4, 12, dtype=torch.float64), graph)
    assert torch.allclose(weights.sum(-1), 1 - layer.coefficient()[:, None, None].expand(weights.shape[:-1]))
    assert layer.coefficient().unique().numel() == 3 and (weights[:, ~graph.mask] == 0).all()


def test_lambda_init_and_scale_of_the_vectors():
    assert lambda_init() == pytest.approx(0.355509, abs=5e-7)
    torch.manual_seed(0)
    layer = DiffGraphAttention(8, 4000, 1, dropout=0.0)
    assert layer.lambda_left.std().item() == pytest.approx(
        0.1, rel=0.05
    )  # a standard deviation, not a variance, of 0.1


def test_attention_has_the_published_number_of_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(DiffGraphAttention(512, 512, 1, 0.2)) == 265_296
    assert count(DiffGraphAttention(1024, 512, 1, 0.2)) == 527_440
    assert count(DiffRGCN(512)) == 1_321_712
    assert count(TransformerEncoder(512, 8, 0.5)) == 1_577_984


def test_block_is_heads_output_layer_linear_map_and_residual():
    torch.manual_seed(1)
    block = DiffRGCN(4, heads=2, dropout=0.5).double().eval()
    x = torch.randn(10, 4, dtype=torch.float64)
    graph = speaker_graphs(torch.randint(2, (10,)), packing([5, 5])[0], 2, 5)[0]
    y = torch.nn.functional.gelu(block.output(block.heads(x, graph), graph))
    expected = torch.nn.functional.layer_norm(x + block.linear(y), (4,), block.norm.weight, block.norm.bias)
    assert torch.allclose(block(x, graph), expected)


def attention_of_the_encoder(q, k, v, keys, heads):
    """Equation 4 of one dialogue, [n, size] each; `keys[i]` lists what utterance i may attend to."""
    attended, width = np.zeros_like(q), q.shape[1] // heads
    for i in range(len(q)):
        for head in (slice(h * width, (h + 1) * width) for h in range(heads)):
            weight = np.array([math.exp(q[i, head] @ k[j, head] / math.sqrt(width)) for j in keys[i]])
            attended[i, head] = weight / weight.sum() @ v[keys[i]][:, head]
    return attended


def test_encoder_equals_its_equations():
    torch.manual_seed(2)
    encoder = TransformerEncoder(8, 2, dropout=0.5).double().eval()
    x, added = torch.randn(12, 8, dtype=torch.float64), torch.randn(12, 8, dtype=torch.float64)
    present = torch.tensor([True, True, False, True, True, False] + [True] * 6)
    attend = WholeDialogueAttention(Packing.of(packing([6, 6])[1], x.device)).attend
    p = {name: value.detach().numpy() for name, value in encoder.named_parameters()}
    got = encoder(x, added, attend, present).detach().numpy()
    for part in (slice(0, 6), slice(6, 12)):
        h = (x + added)[part].numpy()
        q, k, v = (h @ p[f"{n}.weight"].T + p[f"{n}.bias"] for n in ("query", "key", "value"))
        keys = [present[part].nonzero()[:, 0].tolist()] * 6
        r = h + attention_of_the_encoder(q, k, v, keys, 2) @ p["output.weight"].T + p["output.bias"]
        norm = (r - r.mean(1, keepdims=True)) / np.sqrt(r.var(1, keepdims=True) + 1e-6) * p["norm.weight"] + p[
            "norm.bias"
        ]
        inner = norm @ p["inner.weight"].T + p["inner.bias"]
        inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        assert np.allclose(got[part], r + inner @ p["outer.weight"].T + p["outer.bias"], atol=1e-9)


@given(
    lengths=st.lists(st.one_of(st.integers(1, 9), st.sampled_from([40, 130, 300])), min_size=1, max_size=5),
    window=st.one_of(st.none(), st.integers(0, 12), st.just(500)),
    absent=st.sampled_from([0.0, 0.5, 1.0]),
    causal=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_attention_within_dialogues_equals_the_loops(lengths, window, absent, causal, seed):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
    present = torch.rand(n, generator=generator) >= absent
    dialogue, offsets = packing(lengths)
    whole = WholeDialogueAttention(Packing.of(offsets, q.device), causal)
    attention = whole if window is None else LocalDialogueAttention(dialogue, window, max(lengths), causal)
    got = attention.attend(q, k, v, present, 2, 0.0).numpy()
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        attended = present[start:end].tolist()
        keys = [
            [
                j
                for j in range(end - start)
                if attended[j] and (window is None or abs(i - j) <= window) and (j <= i or not causal)
            ]
            or (list(range(end - start)) if window is None and not causal else [i])
            for i in range(end - start)
        ]
        part = slice(start, end)
        expected = attention_of_the_encoder(q[part].numpy(), k[part].numpy(), v[part].numpy(), keys, 2)
        assert np.allclose(got[part], expected, atol=1e-10)


def test_attention_of_long_dialogues_in_training_equals_that_in_pieces(monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 50, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 1, 50) < 0.8
    results = []
    for queries in (100, 7):
        monkeypatch.setattr(encoders, "QUERIES", queries)
        # A dropout rate too small to drop anything, on the same code path as dropout.
        y = encoders._attention(q, k, v, mask, 1e-12)
        results.append((y, *torch.autograd.grad(y.square().sum(), (q, k, v))))
    assert all(torch.allclose(a, b) for a, b in zip(*results, strict=True))


def test_encoder_is_finite_if_nothing_may_be_attended_to():
    encoder = TransformerEncoder(8, 2, dropout=0.0)
    x, (dialogue, offsets) = torch.randn(3, 8), packing([3])
    for attention in (WholeDialogueAttention(Packing.of(offsets, x.device)), LocalDialogueAttention(dialogue, 1, 3)):
        assert encoder(x, x, attention.attend, torch.zeros(3, dtype=torch.bool)).isfinite().all()


def test_positions_extend_beyond_the_released_table():
    codes = sinusoidal_positions(2000, 8, torch.zeros(1))
    assert codes.shape == (2000, 8) and codes.dtype == torch.float32
    assert codes[1999, 2].item() == pytest.approx(math.sin(1999 / 10000 ** (2 / 8)), abs=1e-6)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_weighted_f1_equals_scikit_learn(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(-1, classes, n), rng.integers(0, classes, n)
    counted = (labels >= 0) & (rng.random(n) < 0.8)
    got = weighted_f1(torch.from_numpy(predicted), torch.from_numpy(labels), torch.from_numpy(counted), classes)
    expected = 0.0
    if counted.any():
        expected = f1_score(labels[counted], predicted[counted], average="weighted", zero_division=0)
    assert got.item() == pytest.approx(expected, abs=1e-6)


def ratios_by_loops(performance, base, scale):
    """Equations 20 to 24 with the clipping of the released code."""
    q = []
    for m, p in enumerate(performance):
        r = [max(p / (other + 1e-5) - 1, 0) for j, other in enumerate(performance) if j != m and other >= 1e-5]
        total = sum(math.exp(x - max(r)) for x in r)
        mean = sum(math.exp(x - max(r)) / total * x for x in r) / len(r) if r else 0
        q.append(min(max(base * (1 + scale * mean), 0), 1) if mean > 0 else 0)
    return q


def test_dropout_ratios_of_the_worked_example():
    q = dropout_ratios(torch.tensor([0.69, 0.35, 0.60], dtype=torch.float64), 0.3, 0.9)
    assert q.tolist() == pytest.approx([0.39726, 0, 0.36473], abs=5e-6)


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-6, 0.5])), min_size=1, max_size=3))
def test_dropout_ratios_equal_the_loops_and_never_drop_the_weakest(performance):
    q = dropout_ratios(torch.tensor(performance, dtype=torch.float64), 0.3, 0.9).tolist()
    assert q == pytest.approx(ratios_by_loops(performance, 0.3, 0.9), abs=1e-9)
    assert q[int(np.argmin(performance))] == 0


def test_dropping_is_per_dialogue_and_rescaled():
    torch.manual_seed(0)
    ratios = torch.tensor([0.6, 0.0, 0.3])
    dropped = drop_modalities(ratios, 20_000)
    assert dropped.kept.shape == (3, 20_000) and dropped.kept[1].all()
    assert (~dropped.kept).float().mean(1).tolist() == pytest.approx([0.6, 0, 0.3], abs=0.02)
    assert sorted(dropped.factor.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert ((dropped.factor > 0) == dropped.kept).all()
    assert drop_modalities(torch.ones(2), 5).factor.isfinite().all()


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_dropout_preserves_the_mean_and_drops_at_its_rate(p):
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 3.0)  # not a multiple of the four draws per random number
    y = dropout(x, p, True)
    kept = y != 0
    # Five standard deviations of a Bernoulli mean over a million draws.
    assert abs(kept.double().mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / x.numel()) + 2**-16
    assert torch.allclose(y[kept], torch.tensor(3.0 / (1 - p)), rtol=2**-16 / (1 - p))
    neighbours = (kept[:, 1:] & kept[:, :-1]).double().mean()
    assert abs(neighbours - (1 - p) ** 2) < 0.005
    assert dropout(x, p, False) is x


def test_dropout_passes_gradients_where_it_passes_values_and_follows_the_seed():
    x = torch.randn(7, 33, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    first = Dropout(0.3)(x)
    first.sum().backward()
    assert first.dtype == torch.float64 and torch.allclose(x.grad * x, first)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.3)(x), first) and not torch.equal(Dropout(0.3)(x), first)
    assert torch.equal(Dropout(0.3).eval()(x), x)


def test_plain_attention_is_one_softmax():
    torch.manual_seed(0)
    layer = GraphAttention(6, 4, 2, dropout=0.0, normalised=False).double()
    speakers, (dialogue, _) = torch.tensor([0, 1, 0, 2, 1]), packing([3, 2])
    graph = speaker_graphs(speakers, dialogue, 2, 3)[0]
    x = torch.randn(5, 6, dtype=torch.float64)
    relation, got = dense(graph), layer(x, graph).view(5, 2, 4)
    for head in range(2):
        h = x @ layer.weight[:, head]
        for i in range(5):
            around = [j for j in range(5) if relation[i, j]]
            scores = torch.stack(
                [
                    F.leaky_relu(
                        layer.left[head, 0] @ h[i]
                        + layer.right[head, 0] @ h[j]
                        + layer.relation_score[head, 0] @ layer.relation[head, relation[i, j]],
                        0.2,
                    )
                    for j in around
                ]
            )
            assert torch.allclose(got[i, head], scores.softmax(0) @ h[around])


@pytest.mark.parametrize("which", [0, 1], ids=["inter", "intra"])
def test_graph_convolution_is_the_normalised_adjacency_times_the_features(which):
    torch.manual_seed(0)
    layer = GraphConvolution(6, 4, 2, dropout=0.0).double()
    speakers, (dialogue, _) = torch.tensor([0, 1, 0, 2, 1, 1]), packing([4, 2])
    graph = speaker_graphs(speakers, dialogue, 2, 4)[which]
    x = torch.randn(6, 6, dtype=torch.float64)
    adjacency = (dense(graph) > 0).double()
    assert torch.equal(adjacency, adjacency.T)
    scale = torch.diag(adjacency.sum(1) ** -0.5)
    expected = F.gelu(
        scale @ adjacency @ scale @ (x @ layer.linear.weight.T)
        + (scale @ adjacency @ scale).sum(1)[:, None] * layer.linear.bias
    )
    assert torch.allclose(layer(x, graph), expected)
