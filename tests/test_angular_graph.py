"""The graph of MMGCN and MM-DFN and its layer against slow entry-by-entry implementations of their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import packing

from erc_toolkit.train.layers.multimodal.angular_graph import AngularGraph
from erc_toolkit.train.layers.multimodal.initial_residual import InitialResidualConvolution


def slow_matrix(nodes, offsets):
    """P of all nodes, [N * M, N * M] with node n * M + m for modality m of utterance n."""
    n, m, _ = nodes.shape
    a = torch.zeros(n * m, n * m, dtype=nodes.dtype)
    dialogue = [sum(int(o) <= i for o in offsets[1:]) for i in range(n)]
    for i in range(n * m):
        for j in range(n * m):
            (u, p), (v, q) = divmod(i, m), divmod(j, m)
            if (p == q and dialogue[u] == dialogue[v]) or (p != q and u == v):
                x, y = nodes[u, p], nodes[v, q]
                lengths = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
                cosine = float(x @ y) / lengths if lengths else 0.0
                a[i, j] = 1 - math.acos(0.99999 * max(-1.0, min(1.0, cosine))) / math.pi
    root = torch.diag(a.sum(1) ** -0.5)
    return root @ a @ root


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    modalities=st.integers(1, 3),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    zeros=st.floats(0, 0.5),
)
def test_propagation_equals_its_definition(lengths, modalities, width, seed, zeros):
    generator = torch.Generator().manual_seed(seed)
    n, offsets = sum(lengths), packing(lengths)[1]
    nodes = torch.randn(n, modalities, width, generator=generator, dtype=torch.float64)
    nodes = nodes * (torch.rand(n, modalities, 1, generator=generator) >= zeros)
    x = torch.randn(n, modalities, 3, generator=generator, dtype=torch.float64)
    expected = (slow_matrix(nodes, offsets) @ x.flatten(0, 1)).view_as(x)
    assert torch.allclose(AngularGraph(nodes, offsets).propagate(x), expected, atol=1e-9)


def test_gradient_flows_through_the_edges():
    """Also where nodes are equal, opposite or zero, at the ends of arccos's domain."""
    nodes = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nodes[1], nodes[2], nodes[3, 0] = nodes[0], -nodes[0], 0
    nodes.requires_grad_()
    x = torch.randn(5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    AngularGraph(nodes, packing([3, 2])[1]).propagate(x).square().sum().backward()
    assert nodes.grad.isfinite().all() and (nodes.grad[4] != 0).any()
    free = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda n: AngularGraph(n, packing([3, 2])[1]).propagate(x), free, atol=1e-5)


def test_a_graph_in_bfloat16_arithmetic_has_no_nan():
    """Cosines rounded to bfloat16 leave the arccos's domain: the graph is built in float32 regardless of autocast."""
    nodes = torch.randn(40, 3, 16, generator=torch.Generator().manual_seed(0))
    offsets = packing([30, 10])[1]
    exact = AngularGraph(nodes, offsets).within
    with torch.autocast("cpu", torch.bfloat16):
        graph = AngularGraph(nodes, offsets)
        assert torch.equal(graph.within, exact)
        assert AngularGraph(nodes.bfloat16(), offsets).propagate(nodes).isfinite().all()


@pytest.mark.parametrize("depth", [1, 7])
def test_layer_equals_its_definition(depth):
    layer = InitialResidualConvolution(4, depth, alpha=0.2, lam=0.5).double()
    p, x0 = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta = math.log(0.5 / depth + 1)
    expected = theta * torch.cat([p, x0], 1) @ layer.weight + (1 - theta) * (0.8 * p + 0.2 * x0)
    assert torch.allclose(layer(p, x0), expected, atol=1e-12)
