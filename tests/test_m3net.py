"""M3NET against results of the authors' public code.

`data/m3net.npz` holds two cases: "iemocap" with two speakers and class weights, "meld" with nine speakers, their other
loss and no linear map of the text. Random features of three or four dialogues that were padded for their code, the text
four vectors each, every weight in use (in the order of our sorted parameter names), statistics of the batch norm before
and after a step, log probabilities of all dialogues together, of each alone, and of all in training without dropout;
loss and gradients in evaluation. The code ran in float64 with a replacement in plain PyTorch for what it uses of
torch_geometric and torch_scatter; weights and gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from test_dialoguernn import MODALITIES, TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, packing, random_batch

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.multimodal.hypergraph import FrequencyConvolution, Hypergraph, HypergraphConvolution
from erc_toolkit.train.layers.present_norm import PresentBatchNorm
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.graphs.m3net import M3NET, Settings

RELEASED = {"padded": True, "numbering": "batch"}
SMALL = {"size": 8, "graph_size": 6, "dropout": 0.0}


def author_model(name, case, **changes):
    """Our model with the authors' sizes and weights, in evaluation mode."""
    layers = case["layers"].tolist()
    settings = Settings(
        size=int(case["size"]),
        graph_size=int(case["graph_size"]),
        text_layers=4,
        text_projection=name == "iemocap",
        hypergraph_layers=layers[0],
        frequency_layers=layers[1],
        dropout=0.0,
        loss="nll" if name == "iemocap" else "released",
        **changes,
    )
    dims = dict(zip(MODALITIES, case["dims"].tolist(), strict=True))
    weights = case["class_weights"] if len(case["class_weights"]) else None
    model = M3NET(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"])), weights).double()
    if weights is not None:
        model.class_weights = weights.double()
    put_weights(model, case["weights"])
    norm = model.encoder.norm
    norm.running_mean.copy_(case["running"][0])
    norm.running_var.copy_(case["running"][1])
    return model.eval()


@pytest.fixture(params=["iemocap", "meld"])
def name(request):
    return request.param


def test_log_probabilities_loss_and_gradients_equal_the_authors(name):
    case = read_case("m3net.npz", name)
    model, batch = author_model(name, case, **RELEASED), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits.log_softmax(-1), case["log_probabilities"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])


def test_each_dialogue_alone_equals_the_authors(name):
    """By default a dialogue has the logits that their code gives it alone; in their batch it has others."""
    case = read_case("m3net.npz", name)
    logits = author_model(name, case)(case_batch(case)).logits
    torch.testing.assert_close(logits.log_softmax(-1), case["alone"], **TOLERANCE)
    assert (case["log_probabilities"] - case["alone"]).abs().max() > 1e-3


def test_batch_norm_in_training_equals_the_authors(name):
    case = read_case("m3net.npz", name)
    model = author_model(name, case, **RELEASED).train()
    torch.testing.assert_close(model(case_batch(case)).logits.log_softmax(-1), case["training"], **TOLERANCE)
    norm = model.encoder.norm
    torch.testing.assert_close(torch.stack([norm.running_mean, norm.running_var]), case["running_after"], **TOLERANCE)


def unused(size, graph_size, hypergraph_layers, classes, text=0):
    """What the authors' code creates and never uses; `text` is the width of the text that skips its linear map."""
    convolutions = hypergraph_layers * (3 * graph_size**2 + graph_size)  # two matrices and a linear map each
    hyperedges = 2 * graph_size  # vectors for two kinds
    norms = 4 * 2 * 1024  # layer norms of the text, whatever its width
    readout = graph_size * classes + classes
    return convolutions + hyperedges + 3 * size + norms + readout + bool(text) * (text * size + size)


def test_number_of_parameters_of_the_cases(name):
    case = read_case("m3net.npz", name)
    size, graph_size, layers, classes = (case[k].tolist() for k in ("size", "graph_size", "layers", "classes"))
    text = 0 if name == "iemocap" else int(case["dims"][0]) // 4
    assert sum(p.numel() for p in author_model(name, case).parameters()) == int(case["theirs"]) - unused(
        size, graph_size, layers[0], classes, text
    )


@pytest.mark.parametrize(
    "corpus, audio, speakers, classes, theirs, text",
    [("iemocap", 1582, 2, 6, 6_553_160, 0), ("meld", 300, 9, 7, 14_109_769, 1024)],
)
def test_number_of_parameters_with_the_published_sizes(corpus, audio, speakers, classes, theirs, text):
    config = load_config(f"m3net-{corpus}", ["model.text_layers=4"])
    with torch.device("meta"):
        dims = {"text": 4 * 1024, "audio": audio, "visual": 342}
        model = build_model(config, dims, speakers, np.ones(classes))
    expected = theirs - unused(config.model.size, 512, 3, classes, text)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_recipes_have_the_settings_of_the_readme(corpus):
    config = load_config(f"m3net-{corpus}")
    # dropout, epochs, K; the width and the linear map of the text are their code's
    readme = {"iemocap": (0.5, 80, 4, 512, True), "meld": (0.4, 15, 3, 1024, False)}
    train, model = config.train, config.model
    found = model.dropout, train.epochs, model.frequency_layers, model.size, model.text_projection
    assert found == readme[corpus]
    assert (model.hypergraph_layers, model.graph_size, model.encoder_layers) == (3, 512, 2)
    assert (train.batch_size, train.lr, train.weight_decay) == (16, 1e-4, 3e-5)
    assert (train.class_weights == "balanced") == (corpus == "iemocap")


@pytest.mark.parametrize("kept", [7, 1, 0])
def test_batch_norm_of_present_rows_equals_that_of_the_rows_alone(kept):
    torch.manual_seed(0)
    ours, other = (module.double() for module in (PresentBatchNorm(3), torch.nn.BatchNorm1d(3)))
    x, present = torch.randn(10, 3, dtype=torch.float64), torch.arange(10) < kept
    x[kept:] = float("nan")
    found = ours(x, present)
    if kept < 2:
        other.eval()  # no variance
    torch.testing.assert_close(found[:kept], other(x[:kept]))
    assert (found[kept:] == 0).all()
    assert ours.state_dict().keys() == other.state_dict().keys()
    for a, b in zip(ours.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def slow_convolutions(x, there, node_weights, dialogue_weights, utterance_weights, bias, gate):
    """Both convolutions of one dialogue, node by node; x [M, L, D]."""
    nodes = [(m, t) for m in range(there.shape[0]) for t in range(there.shape[1]) if there[m, t]]
    edges = [([n for n in nodes if n[0] == m], dialogue_weights[m]) for m in range(there.shape[0])]
    edges += [([n for n in nodes if n[1] == t], utterance_weights[t]) for t in range(there.shape[1])]
    means = [sum(x[n] for n in e) / sum(node_weights[n] for n in e) if e else None for e, _ in edges]
    degree = {n: sum(len(e) - 1 for e, _ in edges if n in e) for n in nodes}
    wide, low = {}, {}
    for n in nodes:
        own = [k for k, (e, _) in enumerate(edges) if n in e]
        y = sum(means[k] for k in own) / sum(edges[k][1] for k in own) + bias
        wide[n] = torch.nn.functional.leaky_relu(y)
        low[n] = torch.zeros_like(bias)
        for other in nodes:
            if other != n and (other[0] == n[0] or other[1] == n[1]):
                coefficient = torch.tanh(gate(torch.cat([x[n], x[other]])))
                low[n] = low[n] + coefficient * x[other] * (degree[n] * degree[other]) ** -0.5
    return wide, low


def test_convolutions_equal_the_readable_ones_with_absent_nodes():
    torch.manual_seed(0)
    kinds, longest, size = 3, 5, 4
    shape = (1, kinds, longest)
    x = torch.randn(*shape, size, dtype=torch.float64)
    there = torch.rand(shape) < 0.6
    there[0, :, 1] = False
    weights = [torch.rand(*s, dtype=torch.float64) + 0.5 for s in (shape, (1, kinds, 1), (1, 1, longest))]
    graph = Hypergraph(there, *weights)
    wide, low = HypergraphConvolution(size).double(), FrequencyConvolution(size).double()
    torch.nn.init.normal_(wide.bias)
    found = wide(x, graph)[0], low(x, graph)[0]
    expected = slow_convolutions(
        x[0], there[0], weights[0][0], weights[1][0, :, 0], weights[2][0, 0], wide.bias, low.gate
    )
    for ours, theirs in zip(found, expected, strict=True):
        for node, value in theirs.items():
            torch.testing.assert_close(ours[node], value)
    assert (found[1][~there[0]] == 0).all()


def test_absent_features_have_no_influence():
    torch.manual_seed(0)
    model = M3NET(Settings(**SMALL), DIMS, 3, torch.ones(3)).double().train()
    batch = random_batch((6, 4), speakers=3, absent=0.4, seed=2)
    expected = model(batch).logits
    for m, x in batch.features.items():
        x[~batch.present[m]] = 7
    torch.testing.assert_close(model(batch).logits, expected)


def test_an_utterance_without_modalities_has_the_prior():
    torch.manual_seed(0)
    model = M3NET(Settings(**SMALL), DIMS, 3, torch.tensor([6.0, 3.0, 1.0])).double().eval()
    batch = random_batch((4, 5), speakers=3, absent=0.3, seed=1)
    for present in batch.present.values():
        present[2] = False
    torch.testing.assert_close(model(batch).logits[2].softmax(-1), torch.tensor([6.0, 3.0, 1.0]).double() / 10)


def test_nodes_after_the_end_of_the_tables_have_weight_one():
    """The released code fails there. The last utterances' hyperedges have no weight of their own."""
    torch.manual_seed(0)
    n = 1010
    model = M3NET(Settings(**SMALL, hypergraph_layers=1), {"audio": 4}, 2, torch.ones(3)).double().eval()
    features = {"audio": torch.randn(n, 4, dtype=torch.float64)}
    here = {"audio": torch.ones(n, dtype=torch.bool)}
    batch = Batch(features, here, torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long), *packing([n]))
    before = model(batch).logits
    with torch.no_grad():
        model.hyperedge_weights[1:].fill_(2)  # all but the dialogue's own
    changed = (model(batch).logits - before).abs().amax(1) > 0
    assert changed[:999].all() and not changed[999:].any()


def test_the_text_must_divide_into_its_vectors():
    with pytest.raises(UserError, match=r"model\.text_layers=5.* 12"):
        M3NET(Settings(text_layers=5, **SMALL), DIMS, 3, torch.ones(3))


def test_build_from_the_demo_recipe():
    model = build_model(load_config("m3net-demo"), DIMS, 3, np.ones(3))
    assert isinstance(model, M3NET)
