"""GraphCFC against results of the authors' public code.

`data/graphcfc.npz` holds four cases in evaluation mode: "iemocap" with two speakers and class weights, "meld" with nine
speakers, no weights and different windows back and ahead, "pair" with text and audio, and "single" with text alone.
Random features of dialogues that were padded for their code, with the graphs that it makes; every weight (in the order
of our sorted parameter names), and logits of all classifiers, loss and gradients. The code ran in float64; weights and
gradients are stored in float32.
"""

import math

import numpy as np
import pytest
import torch
from test_dialoguernn import TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.relations.pair_graph import CPU_ROWS, PairAttention, PairGraph
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.graphs.graphcfc import GraphCFC, Settings

MODALITIES = {"iemocap": DIMS, "meld": DIMS, "pair": ("text", "audio"), "single": ("text",)}


def author_model(name, case):
    """Our model with the authors' sizes and weights."""
    sizes = ("hidden", "encoder_input", "heads", "layers", "past", "future")
    settings = Settings(**{size: int(case[size]) for size in sizes})
    dims = dict(zip(MODALITIES[name], case["dims"].tolist(), strict=True))
    weights = case["class_weights"] if len(case["class_weights"]) else None
    model = GraphCFC(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"])), weights)
    model = model.double().eval()
    if weights is not None:
        model.class_weights = weights.double()
    put_weights(model, case["weights"])
    return model


@pytest.mark.parametrize("name", MODALITIES)
def test_logits_loss_and_gradients_equal_the_authors(name):
    case = read_case("graphcfc.npz", name)
    model, batch = author_model(name, case), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits"], **TOLERANCE)
    others = [*output.unimodal.values(), *output.parts.values()]  # in their order: audio, visual, text, shared
    for logits, expected in zip(others, case["others"], strict=True):
        torch.testing.assert_close(logits, expected, **TOLERANCE)
    loss = model.loss(output, batch)
    constant = (1 + len(others)) * math.log(2)  # theirs adds it; it has no gradient
    torch.testing.assert_close(loss + constant, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])
    assert sum(p.numel() for p in model.parameters()) == int(case["theirs"])


@pytest.mark.parametrize("corpus, theirs", [("iemocap", 5_376_230), ("meld", 5_330_635)])
def test_recipes_have_the_programs_settings(corpus, theirs):
    """The defaults of their program, and the size of their model with them and with MMGCN's features."""
    config = load_config(f"graphcfc-{corpus}")
    train, model = config.train, config.model
    assert dict(vars(model)) == {**vars(Settings()), "name": "graphcfc"}
    assert (train.optimizer, train.lr, train.weight_decay) == ("adamw", 1e-5, 1e-5)
    assert (train.batch_size, train.epochs) == (8, 100)
    assert (train.class_weights == "balanced") == (corpus == "iemocap")
    text, audio, speakers, classes = {"iemocap": (100, 1582, 2, 6), "meld": (600, 300, 9, 7)}[corpus]
    with torch.device("meta"):
        model = GraphCFC(model, {"text": text, "audio": audio, "visual": 342}, speakers, torch.ones(classes))
    assert sum(p.numel() for p in model.parameters()) == theirs


def slow_attention(layer, x, table, batch, present, past, future):
    """Attention edge by edge; `table` [S + 1, S + 1, size], the last row and column of unknown speakers."""
    heads, size = layer.heads, x.shape[-1]
    source, target, found = layer.source(x), layer.target(x), torch.zeros_like(x)
    streams, n = x.shape[:2]
    for s in range(streams):
        for i in range(n):
            edges = [
                ((s, j), table[batch.speakers[j], batch.speakers[i]])
                for j in range(max(0, i - past), min(n, i + future + 1))
                if j != i and batch.dialogue[j] == batch.dialogue[i] and present[s][j]
            ]
            if streams == 2 and present[0][i] and present[1][i]:
                edges.append(((1 - s, i), table[-1, -1]))
            own = torch.stack([e for _, e in edges]).mean(0) if edges else torch.zeros(size, dtype=x.dtype)
            edges.append(((s, i), own))
            values = torch.stack([source[node] for node, _ in edges]).view(-1, heads, size)
            vectors = layer.edge(torch.stack([e for _, e in edges])).view(-1, heads, size)
            hidden = values + vectors + target[s, i].view(heads, size)
            scores = (torch.nn.functional.leaky_relu(hidden, 0.2) * layer.score).sum(-1)
            found[s, i] = (scores.softmax(0)[..., None] * values).sum(0).mean(0) + layer.bias
    return found


@pytest.mark.parametrize("streams", [1, 2])
def test_attention_equals_a_loop_over_edges(streams):
    """More targets than are worked on at a time, absent sources, different windows, and one of two unused speakers."""
    torch.manual_seed(0)
    batch = random_batch((2 * CPU_ROWS - 3, 9, 1), {"text": 4, "audio": 3}, speakers=3, absent=0.3)
    batch.speakers[batch.speakers == 2] = 3
    batch = Batch(batch.features, batch.present, batch.speakers, batch.labels, batch.dialogue, batch.offsets)
    layer = PairAttention(4, 2).double()
    graph = PairGraph(
        batch.host_speakers, batch.host_people, batch.dialogue, 2, 3, batch.longest, 4, streams == 2, torch.float64
    )
    present = list(batch.present.values())[:streams]
    assert graph.relations.tolist() == [0, 1, 3, 4, 6, 9] + [10] * (streams == 2)
    vectors = torch.nn.Embedding(11, 4).double()
    first, second = torch.triu_indices(4, 4)
    table = torch.zeros(5, 5, 4, dtype=torch.float64)
    table[first, second] = table[second, first] = vectors.weight[:10].detach()
    table[-1, -1] = vectors.weight[10].detach()
    x = torch.randn(streams, 2 * CPU_ROWS + 7, 4, dtype=torch.float64)
    expected = slow_attention(layer, x, table, batch, present, 2, 3)
    torch.testing.assert_close(layer(x, vectors(graph.relations), graph.edges(present)), expected)


def test_an_absent_feature_has_no_influence():
    torch.manual_seed(0)
    counts = torch.tensor([6.0, 3.0, 1.0])
    model = GraphCFC(Settings(hidden=6, layers=2, heads=2, past=2, future=2), DIMS, 3, counts).double().eval()
    batch = random_batch((7, 5), speakers=3, absent=0.3, seed=1)
    for present in batch.present.values():
        present[2] = False
    before = model(batch).logits
    torch.testing.assert_close(before[2].softmax(-1), counts.double() / 10)
    for m, x in batch.features.items():
        x[~batch.present[m]] = 9.0
    torch.testing.assert_close(model(batch).logits, before)


def test_each_layer_can_have_weights_of_its_own():
    counts = torch.ones(3)
    sizes = [
        sum(
            p.numel()
            for p in GraphCFC(Settings(hidden=6, layers=3, shared_layers=s), DIMS, 3, counts).stacks.parameters()
        )
        for s in (True, False)
    ]
    assert sizes[1] == 3 * sizes[0]


def test_build_from_the_demo_recipe():
    model = build_model(load_config("graphcfc-demo"), DIMS, 3, np.ones(3))
    assert isinstance(model, GraphCFC)
