"""Graphs, differential attention, encoder and modality dropout against slow, obvious versions of themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from train.layers.diff_graph_attention import DiffGraphAttention, DiffRGCN, lambda_init
from train.layers.encoder import TransformerEncoder, sinusoidal_positions
from train.layers.graph import speaker_graphs
from train.layers.modality_dropout import drop_modalities, dropout_ratios, weighted_f1


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
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=3), st.integers(0, 10), st.data()
)
@settings(deadline=None, max_examples=80)
def test_graphs_equal_the_double_loop(dialogues, window, data):
    length = max(map(len, dialogues)) + data.draw(st.integers(0, 2))
    speakers = torch.full((len(dialogues), length), 4)
    mask = torch.zeros(speakers.shape, dtype=torch.bool)
    for row, dialogue in enumerate(dialogues):
        speakers[row, : len(dialogue)] = torch.tensor(dialogue)
        mask[row, : len(dialogue)] = True
    inter, intra = speaker_graphs(speakers, mask, window)
    for row, dialogue in enumerate(dialogues):
        n = len(dialogue)
        expected_intra, expected_inter = adjacency_by_loops(dialogue, window)
        assert (intra.adjacency()[row, :n, :n].numpy() == expected_intra).all()
        assert (inter.adjacency()[row, :n, :n].numpy() == expected_inter).all()
        assert not intra.mask[row, :n, n:].any() and not inter.mask[row, :n, n:].any()  # nobody hears padding
        assert intra.mask[row].diagonal().all() and inter.mask[row].diagonal().all()


def test_graphs_of_the_dialogue_a_b_a():
    speakers, mask = torch.tensor([[0, 1, 0]]), torch.ones(1, 3, dtype=torch.bool)
    inter, intra = speaker_graphs(speakers, mask, 1)
    assert intra.adjacency().tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    assert inter.adjacency().tolist() == [[[1, 4, 0], [5, 1, 4], [0, 5, 1]]]
    _, intra = speaker_graphs(speakers, mask, 2)
    assert intra.adjacency()[0, 0, 2] == 3 and intra.adjacency()[0, 2, 0] == 2


def test_absent_utterances_are_no_neighbours():
    inter, _ = speaker_graphs(torch.tensor([[0, 1, 0]]), torch.ones(1, 3, dtype=torch.bool), 2)
    assert inter.without(torch.tensor([[False, True, False]])).adjacency().tolist() == [[[1, 0, 0], [5, 1, 4], [0, 0, 1]]]


def attention_by_loops(layer, x, adjacency):
    """Equations 9 to 17 for one dialogue, number by number, then LayerNorm, 1 - lambda_init and GELU."""
    p = dict(layer.named_parameters())
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
        row = sum((a - coefficient * b) * wh[j] for a, b, j in zip(alpha[0], alpha[1], neighbours))
        mean = row.mean()
        row = (row - mean) / torch.sqrt(((row - mean) ** 2).mean() + 1e-5) * p["norm.weight"] + p["norm.bias"]
        row = (0.6 * math.exp(-0.3) + 0.2) * row
        rows.append(row * 0.5 * (1 + torch.erf(row / math.sqrt(2))))
    return torch.stack(rows)


@pytest.mark.parametrize("which", [0, 1], ids=["inter", "intra"])
def test_attention_and_its_gradients_equal_the_loops(which):
    torch.manual_seed(3)
    layer = DiffGraphAttention(6, 8, dropout=0.2).double().eval()
    x = torch.randn(1, 7, 6, dtype=torch.float64, requires_grad=True)
    graph = speaker_graphs(torch.tensor([[0, 1, 1, 0, 2, 0, 1]]), torch.ones(1, 7, dtype=torch.bool), 3)[which]
    weight = torch.randn(7, 8, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    fast = layer(x, graph)
    slow = attention_by_loops(layer, x[0], graph.adjacency()[0].tolist())
    assert torch.allclose(fast[0], slow, atol=1e-9)
    for a, b in zip(torch.autograd.grad((fast[0] * weight).sum(), inputs), torch.autograd.grad((slow * weight).sum(), inputs)):
        assert torch.allclose(a, b, atol=1e-6)


def test_attention_weights_of_a_row_sum_to_one_minus_lambda():
    torch.manual_seed(0)
    layer = DiffGraphAttention(4, 4, dropout=0.0).double()
    graph = speaker_graphs(torch.tensor([[0, 1, 0, 2]]), torch.tensor([[True, True, True, False]]), 2)[0]
    weights = layer.attention(torch.randn(1, 4, 4, dtype=torch.float64), graph)
    assert torch.allclose(weights.sum(-1), 1 - layer.coefficient().expand(1, 4))
    assert (weights[~graph.mask] == 0).all()


def test_lambda_init_and_scale_of_the_vectors():
    assert lambda_init() == pytest.approx(0.355509, abs=5e-7)
    torch.manual_seed(0)
    layer = DiffGraphAttention(8, 4000, dropout=0.0)
    assert layer.lambda_left.std().item() == pytest.approx(0.1, rel=0.05)  # a deviation, not a variance, of 0.1


def test_attention_has_the_published_number_of_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(DiffGraphAttention(512, 512, 0.2)) == 265_296
    assert count(DiffGraphAttention(1024, 512, 0.2)) == 527_440
    assert count(DiffRGCN(512)) == 1_321_712
    assert count(TransformerEncoder(512, 8, 0.5)) == 1_577_984


def test_block_is_heads_output_layer_linear_map_and_residual():
    torch.manual_seed(1)
    block = DiffRGCN(4, heads=2, dropout=0.5).double().eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    graph = speaker_graphs(torch.randint(2, (2, 5)), torch.ones(2, 5, dtype=torch.bool), 2)[0]
    heads = torch.cat([block.heads[0](x, graph), block.heads[1](x, graph)], -1)
    y = torch.nn.functional.gelu(block.output(heads, graph))
    expected = torch.nn.functional.layer_norm(x + block.linear(y), (4,), block.norm.weight, block.norm.bias)
    assert torch.allclose(block(x, graph), expected)


def test_encoder_equals_its_equations():
    torch.manual_seed(2)
    encoder = TransformerEncoder(8, 2, dropout=0.5).double().eval()
    x, speaker = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64)
    keys = torch.tensor([[True, True, False, True, True, False], [True] * 6])
    p = {name: value.detach().numpy() for name, value in encoder.named_parameters()}
    got = encoder(x, speaker, keys).detach().numpy()
    for b in range(2):
        h = (x + speaker)[b].numpy().copy()
        for place in range(6):
            for j in range(4):
                angle = place / 10000 ** (2 * j / 8)
                h[place, 2 * j] += math.sin(angle)
                h[place, 2 * j + 1] += math.cos(angle)
        q, k, v = (h @ p[f"{n}.weight"].T + p[f"{n}.bias"] for n in ("query", "key", "value"))
        heard = np.zeros((6, 8))
        for i in range(6):
            for head in (slice(0, 4), slice(4, 8)):
                weight = np.array([math.exp(q[i, head] @ k[j, head] / 2) if keys[b, j] else 0 for j in range(6)])
                heard[i, head] = weight / weight.sum() @ v[:, head]
        r = h + heard @ p["output.weight"].T + p["output.bias"]
        norm = (r - r.mean(1, keepdims=True)) / np.sqrt(r.var(1, keepdims=True) + 1e-6) * p["norm.weight"] + p["norm.bias"]
        inner = norm @ p["inner.weight"].T + p["inner.bias"]
        inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        assert np.allclose(got[b], r + inner @ p["outer.weight"].T + p["outer.bias"], atol=1e-9)


def test_encoder_is_finite_where_nothing_may_be_attended_to():
    encoder = TransformerEncoder(8, 2, dropout=0.0)
    x = torch.randn(1, 3, 8)
    assert encoder(x, x, torch.zeros(1, 3, dtype=torch.bool)).isfinite().all()


def test_positions_go_beyond_the_released_table():
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
def test_dropout_ratios_equal_the_loops_and_spare_the_weakest(performance):
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
