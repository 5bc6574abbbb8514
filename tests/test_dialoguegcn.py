"""DialogueGCN against results of the authors' public code for the same weights and inputs, and its parameters.

`data/dialoguegcn.npz` holds two cases, one with two speakers, class weights and a window of two in both directions, one
with nine speakers and an asymmetric window: random features of three or four dialogues (packed), every weight and
gradient (in the order of our sorted parameter names), edges (source, target, relation) with their weights,
log-probabilities and loss. The code ran in float64 on padded dialogues, without dropout; weights, features and
gradients are stored in float32. Its relational convolution, from an old library, was reimplemented.
"log_probabilities_as_is" are results of the unchanged code, whose LSTM runs over padding; for all other results its
LSTM was given the lengths of the dialogues.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import packing, random_batch

from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.relations.relational import RelationalGraph
from erc_toolkit.train.models.graphs.dialoguegcn import DialogueGCN, Settings

VECTORS = Path(__file__).parent / "data" / "dialoguegcn.npz"


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    with np.load(VECTORS, allow_pickle=False) as file:
        prefix = request.param + "/"
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}


def build(case):
    """Our model with the authors' weights, in float64, and the batch."""
    context, graph, bases, places, sent_back, sent_ahead, speakers = case["sizes"].tolist()
    # Their window gives what attends to an utterance, ours what it attends to.
    config = Settings(
        context_hidden=context,
        graph_hidden=graph,
        bases=bases,
        places=places,
        past=sent_ahead,
        future=sent_back,
        dropout=0.0,
    )
    features, classes = case["features"].double(), case["log_probabilities"].shape[1]
    model = DialogueGCN(
        config, {"text": features.shape[1]}, speakers, torch.ones(classes), case.get("class_weights")
    ).double()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["weights"].double().split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), chunks, strict=True):
            parameter.copy_(values.view_as(parameter))
    present = {"text": torch.ones(len(features), dtype=torch.bool)}
    dialogue, offsets = packing(case["lengths"].tolist())
    return model, Batch({"text": features}, present, case["speakers"].long(), case["labels"].long(), dialogue, offsets)


def test_logits_loss_and_gradients_equal_the_authors(case):
    model, batch = build(case)
    output = model(batch)
    torch.testing.assert_close(output.logits.log_softmax(1), case["log_probabilities"], rtol=1e-7, atol=1e-7)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss.detach(), case["loss"], rtol=1e-7, atol=1e-7)
    loss.backward()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["gradients"].double().split([p.numel() for p in parameters.values()])
    for (name, parameter), expected in zip(parameters.items(), chunks, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected.view_as(parameter), rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_logits_of_the_longest_dialogue_equal_those_of_their_unchanged_code(case):
    model, batch = build(case)
    longest = int(case["lengths"].argmax())
    rows = slice(*batch.offsets[longest : longest + 2].tolist())
    ours, theirs = model(batch).logits.log_softmax(1), case["log_probabilities_as_is"]
    torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-7, atol=1e-7)
    assert (ours - theirs).abs().max() > 0.01  # with padding, theirs attends to it


def test_graph_and_edge_weights_equal_the_authors(case):
    model, batch = build(case)
    graph = RelationalGraph(
        batch.speakers, batch.dialogue, model.settings.past, model.settings.future, max(case["lengths"])
    )
    i, j, relation = graph.edges(int(case["sizes"][-1]))
    order = (1000 * j + i).argsort()
    assert torch.equal(torch.stack([j, i, relation])[:, order], case["edges"].long())
    x = model.context(batch.features["text"], batch.offsets)
    place = torch.cat([torch.arange(n) for n in case["lengths"].tolist()])
    weights = torch.zeros(len(x), len(x), dtype=x.dtype)
    block, row, column = graph.mask.nonzero(as_tuple=True)
    real = block * graph.blocks.size + row < len(x)
    weights[i, j] = model.edges(x, graph, place)[block, row, column][real].detach()
    torch.testing.assert_close(weights[i, j][order], case["edge_weights"], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("width, speakers, classes, theirs", [(100, 2, 6, 1_348_046), (600, 9, 7, 1_752_767)])
def test_parameters(width, speakers, classes, theirs):
    """Their count, except for 161,400 of three other kinds of edge weights, which their code builds but never uses."""
    with torch.device("meta"):
        model = DialogueGCN(Settings(), {"text": width}, speakers, torch.ones(classes))
    # A map and its bias; a vector; a map to keys, to queries and to the output, with biases, and a vector of two
    # widths.
    unused = (200 * 200 + 200) + 200 + 3 * (200 * 200 + 200) + 2 * 200
    assert sum(p.numel() for p in model.parameters()) == theirs - unused == theirs - 161_400


def test_positions_beyond_the_last_share_its_vector():
    torch.manual_seed(0)
    sizes = {"context_hidden": 4, "graph_hidden": 4, "bases": 2, "dropout": 0.0}
    short = DialogueGCN(Settings(places=3, **sizes), {"text": 5}, 2, torch.ones(3)).double()
    long = DialogueGCN(Settings(places=9, **sizes), {"text": 5}, 2, torch.ones(3)).double()
    weights = short.state_dict()
    weights["edges.weight"] = torch.cat([weights["edges.weight"], weights["edges.weight"][-1:].expand(6, -1)])
    long.load_state_dict(weights)
    batch = random_batch((9, 4), {"text": 5})
    torch.testing.assert_close(short(batch).logits, long(batch).logits)
