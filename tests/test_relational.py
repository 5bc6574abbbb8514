"""Relational graphs and the layers over them, against edge-by-edge implementations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import packing

from erc_toolkit.train.layers.relations.nodal_attention import NodalAttention
from erc_toolkit.train.layers.relations.relational import (
    NeighbourAttention,
    NeighbourSum,
    PlaceWeights,
    RelationalConvolution,
    RelationalGraph,
)
from erc_toolkit.train.layers.sequences.encoder import WholeDialogueAttention
from erc_toolkit.train.layers.sequences.post_norm import PostNormEncoder
from erc_toolkit.train.packing import Packing

SIZE, WIDTH = 3, 4


def slow_edges(speakers, lengths, past, future, slots):
    """(i, j, relation) of every edge: i attends to j."""
    edges, begin = [], 0
    for length in lengths:
        for i in range(begin, begin + length):
            for j in range(begin, begin + length):
                if i - past <= j <= i + future:
                    order = 0 if j < i else 1
                    edges.append((i, j, (int(speakers[j]) * slots + int(speakers[i])) * 2 + order))
        begin += length
    return edges


@st.composite
def conversations(draw):
    """Lengths, speakers of every utterance, number of speakers, past, future, seed."""
    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 7, 19, 40]), min_size=1, max_size=4))
    slots = draw(st.integers(1, 4))
    n = sum(lengths)
    speakers = draw(st.lists(st.integers(0, slots - 1), min_size=n, max_size=n))
    past, future = draw(st.integers(0, 6)), draw(st.sampled_from([0, 1, 2, 5, 20, 1000]))
    return lengths, torch.tensor(speakers), slots, past, future, draw(st.integers(0, 100))


def graph_of(lengths, speakers, past, future):
    return RelationalGraph(speakers, packing(lengths)[0], past, future, max(lengths))


def dense(graph, weights):
    """Block-wise weights for every pair (i, j), 0 where there is no edge."""
    block, row, column = weights.nonzero(as_tuple=True)
    i = block * graph.blocks.size + row
    real = i < graph.blocks.rows
    block, row, column, i = block[real], row[real], column[real], i[real]
    matrix = weights.new_zeros(graph.blocks.rows, graph.blocks.rows)
    matrix[i, i - graph.blocks.distance[row, column]] = weights[block, row, column]
    return matrix


@settings(max_examples=40, deadline=None)
@given(conversations())
def test_edges_and_relations(conversation):
    lengths, speakers, slots, past, future, _ = conversation
    i, j, relation = graph_of(lengths, speakers, past, future).edges(slots)
    found = sorted(zip(i.tolist(), j.tolist(), relation.tolist(), strict=True))
    assert found == sorted(slow_edges(speakers, lengths, past, future, slots))


@settings(max_examples=25, deadline=None)
@given(conversations(), st.sampled_from([None, 2]), st.booleans())
def test_relational_convolution(conversation, bases, weighted):
    lengths, speakers, slots, past, future, seed = conversation
    torch.manual_seed(seed)
    layer = RelationalConvolution(SIZE, WIDTH, slots, bases).double()
    graph = graph_of(lengths, speakers, past, future)
    x = torch.randn(len(speakers), SIZE, dtype=torch.float64)
    weights = torch.rand(graph.mask.shape, dtype=torch.float64) * graph.mask if weighted else None
    edges = slow_edges(speakers, lengths, past, future, slots)
    alike = {}
    for i, _, relation in edges:
        alike[i, relation] = alike.get((i, relation), 0) + 1
    pairs = dense(graph, weights) if weighted else None
    expected = x @ layer.root + layer.bias
    for i, j, relation in edges:
        matrix = (
            layer.weight[relation]
            if bases is None
            else sum(layer.coefficients[relation, b] * layer.weight[b] for b in range(bases))
        )
        weight = pairs[i, j] if weighted else 1 / alike[i, relation]
        step = torch.zeros_like(expected)
        step[i] = weight * (x[j] @ matrix)
        expected = expected + step
    torch.testing.assert_close(layer(x, graph, weights), expected)


@settings(max_examples=25, deadline=None)
@given(conversations(), st.integers(1, 9))
def test_place_weights(conversation, places):
    lengths, speakers, slots, past, future, seed = conversation
    torch.manual_seed(seed)
    layer, graph = PlaceWeights(SIZE, places).double(), graph_of(lengths, speakers, past, future)
    x = 10 * torch.randn(len(speakers), SIZE, dtype=torch.float64)
    place = torch.cat([torch.arange(n) for n in lengths])
    found = dense(graph, layer(x, graph, place).detach())
    edges = slow_edges(speakers, lengths, past, future, slots)
    for j in range(len(x)):
        hearers = [i for i, k, _ in edges if k == j]
        expected = (x[hearers] @ layer.weight[min(int(place[j]), places - 1)]).softmax(0).detach()
        torch.testing.assert_close(found[hearers, j], expected)
        assert float(found[:, j].sum()) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(conversations(), st.integers(1, 3))
def test_sum_of_and_attention_to_neighbours(conversation, heads):
    lengths, speakers, slots, past, future, seed = conversation
    torch.manual_seed(seed)
    graph = graph_of(lengths, speakers, past, future)
    x = torch.randn(len(speakers), SIZE, dtype=torch.float64)
    plain, attentive = NeighbourSum(SIZE, WIDTH).double(), NeighbourAttention(SIZE, WIDTH, heads).double()
    edges = slow_edges(speakers, lengths, past, future, slots)
    summed, attended = plain(x, graph), attentive(x, graph)
    q, k, v = (m(x).view(-1, heads, WIDTH) for m in (attentive.query, attentive.key, attentive.value))
    for i in range(len(x)):
        sources = [j for n, j, _ in edges if n == i]
        expected = x[i] @ plain.own.weight.T + x[sources].sum(0) @ plain.neighbours.weight.T + plain.neighbours.bias
        torch.testing.assert_close(summed[i], expected)
        weights = (torch.einsum("hc,jhc->jh", q[i], k[sources]) / math.sqrt(WIDTH)).softmax(0)
        expected = torch.einsum("jh,jhc->hc", weights, v[sources]).flatten() + attentive.own(x[i])
        torch.testing.assert_close(attended[i], expected)


@pytest.mark.parametrize("queries", [512, 4])
def test_nodal_attention(queries, monkeypatch):
    """Also when queries are processed in parts, with the same gradients."""
    monkeypatch.setattr("erc_toolkit.train.layers.relations.nodal_attention.QUERIES", queries)
    torch.manual_seed(0)
    layer, lengths = NodalAttention(SIZE).double(), [3, 1, 9]
    x = torch.randn(sum(lengths), SIZE, dtype=torch.float64, requires_grad=True)
    expected = []
    for part in x.split(lengths):
        for t in range(len(part)):
            scores = torch.tanh(part @ (layer.query.weight @ part[t] + layer.query.bias))
            expected.append(scores.softmax(0) @ part)
    found, expected = layer(x, packing(lengths)[1]), torch.stack(expected)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((y * slope).sum(), [x, layer.query.weight]) for y in (found, expected))
    )


def test_encoder_layer_equals_that_of_torch():
    torch.manual_seed(0)
    layer = PostNormEncoder(12, 3, 20, 0.3).double().eval()
    library = torch.nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dtype=torch.float64).eval()
    for ours, theirs in (
        (layer.projections, (library.self_attn.in_proj_weight, library.self_attn.in_proj_bias)),
        (layer.output, tuple(library.self_attn.out_proj.parameters())),
        (layer.inner, tuple(library.linear1.parameters())),
        (layer.outer, tuple(library.linear2.parameters())),
        (layer.heard_norm, tuple(library.norm1.parameters())),
        (layer.norm, tuple(library.norm2.parameters())),
    ):
        with torch.no_grad():
            for parameter, value in zip(ours.parameters(), theirs, strict=True):
                parameter.copy_(torch.randn_like(value))
                value.copy_(parameter)
    lengths = [4, 1, 7]
    x = torch.randn(sum(lengths), 12, dtype=torch.float64)
    every = torch.ones(len(x), dtype=torch.bool)
    found = layer(x, WholeDialogueAttention(Packing.of(packing(lengths)[1], x.device)).attend, every)
    expected = torch.cat([library(part[None])[0] for part in x.split(lengths)])
    torch.testing.assert_close(found, expected)
