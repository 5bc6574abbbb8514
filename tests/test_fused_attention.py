"""Graph attention in one operation on a CPU, against the same layer one operation after the other."""

import pytest
import torch

from erc_toolkit.train.layers.subgraphs import graph_attention
from erc_toolkit.train.layers.subgraphs.diff_graph_attention import DiffGraphAttention
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.layers.subgraphs.graph_attention import GraphAttention

CASES = {
    "differential": (DiffGraphAttention, True, 3, 2, 6),
    "one head": (DiffGraphAttention, True, 3, 1, 6),
    "without norm": (DiffGraphAttention, False, 3, 2, 6),
    "one branch": (GraphAttention, True, 3, 2, 6),
    "no neighbours": (DiffGraphAttention, True, 3, 2, 0),
    "spans of many blocks": (GraphAttention, False, 500, 2, 300),  # a block has 128 rows and reaches 300 more
    "one utterance": (DiffGraphAttention, True, 1, 2, 6),
}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_operations(case, monkeypatch):
    kind, normalised, length, heads, window = CASES[case]
    torch.manual_seed(2)
    rows = length * 2 + 40 * (case != "one utterance")
    dialogue = torch.arange(rows) // max(length, 20)
    layer = kind(12, 8, heads, 0.3, normalised).double()
    if normalised:
        torch.nn.init.normal_(layer.norm_weight), torch.nn.init.normal_(layer.norm_bias)
    graph = speaker_graphs(torch.randint(0, 3, (rows,)), dialogue, window, int(dialogue.bincount().max()))[0]
    graph = graph.without(torch.rand(rows) < 0.2)
    x = torch.randn(rows, 12, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(rows, 8 * heads, dtype=torch.float64)
    found = {}
    for fused in (True, False):
        monkeypatch.setattr(graph_attention, "is_fusible", lambda *of, fused=fused: fused)
        torch.manual_seed(3)  # the same dropout
        y = layer(x, graph)
        found[fused] = [y, *torch.autograd.grad((y * slope).sum(), [x, *layer.parameters()])]
    for name, a, b in zip(["y", "x", *dict(layer.named_parameters())], found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_inference_has_the_same_numbers_as_training_without_dropout():
    torch.manual_seed(4)
    layer = DiffGraphAttention(12, 8, 2, 0.0)
    graph = speaker_graphs(torch.randint(0, 3, (30,)), torch.zeros(30, dtype=torch.int64), 6, 30)[0]
    x = torch.randn(30, 12)
    with torch.inference_mode():
        alone = layer.eval()(x, graph)
    assert torch.equal(alone, layer.train()(x, graph))


def test_a_second_backward_pass_is_refused_not_wrong():
    graph = speaker_graphs(torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 2, 4)[0]
    x = torch.randn(4, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(GraphAttention(6, 4, 1, 0.0)(x, graph).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
