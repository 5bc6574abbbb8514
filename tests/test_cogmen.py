"""COGMEN against results of the authors' public code for the same weights and inputs, and its parameters.

`data/cogmen.npz` holds two cases, one with two speakers and a window of two in both directions, one with nine speakers,
an asymmetric window and two heads in the graph: random features of three dialogues (packed), every weight and gradient
(in the order of our sorted parameter names), edges (source, target, relation), and log-probabilities in evaluation and
in training, without dropout. The code ran in float64 on padded dialogues; weights, features and gradients are stored in
float32. Its encoder's inner layer was set to a width of 24. "as_is" are results of the unchanged code, whose encoder
attends to padding; for all other results its encoder was given a mask of the padding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import packing, random_batch

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.relations.relational import RelationalGraph
from erc_toolkit.train.models.graphs.cogmen import COGMEN, Settings, heads_for

VECTORS = Path(__file__).parent / "data" / "cogmen.npz"
MODALITIES = ("audio", "text", "visual")  # the order in which they concatenate the features
TOLERANCE = {"rtol": 1e-7, "atol": 1e-7}


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    with np.load(VECTORS, allow_pickle=False) as file:
        prefix = request.param + "/"
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}


def build(case):
    """Our model with the authors' weights and running statistics, in float64, and the batch."""
    hidden, inner, heads, sent_back, sent_ahead, speakers = case["sizes"].tolist()
    # Their window gives what attends to an utterance, ours what it attends to.
    config = Settings(hidden=hidden, inner=inner, graph_heads=heads, past=sent_ahead, future=sent_back, dropout=0.0)
    features = {m: case[f"features/{m}"].double() for m in MODALITIES}
    classes = case["eval/log_probabilities"].shape[1]
    model = COGMEN(config, {m: x.shape[1] for m, x in features.items()}, speakers, torch.ones(classes)).double()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["weights"].double().split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), chunks, strict=True):
            parameter.copy_(values.view_as(parameter))
        model.norm.running_mean.copy_(case["running_mean"])
        model.norm.running_var.copy_(case["running_var"])
    present = dict.fromkeys(MODALITIES, torch.ones(len(case["labels"]), dtype=torch.bool))
    dialogue, offsets = packing(case["lengths"].tolist())
    return model, Batch(features, present, case["speakers"].long(), case["labels"].long(), dialogue, offsets)


def test_logits_in_evaluation_equal_the_authors(case):
    model, batch = build(case)
    torch.testing.assert_close(model.eval()(batch).logits.log_softmax(1), case["eval/log_probabilities"], **TOLERANCE)


def test_logits_of_the_longest_dialogue_equal_those_of_their_unchanged_code(case):
    model, batch = build(case)
    longest = int(case["lengths"].argmax())
    rows = slice(*batch.offsets[longest : longest + 2].tolist())
    ours, theirs = model.eval()(batch).logits.log_softmax(1), case["eval/as_is"]
    torch.testing.assert_close(ours[rows], theirs[rows], **TOLERANCE)
    assert (ours - theirs).abs().max() > 1e-3  # with padding, theirs attends to it


def test_logits_loss_gradients_and_running_statistics_in_training_equal_the_authors(case):
    model, batch = build(case)
    output = model.train()(batch)
    torch.testing.assert_close(output.logits.log_softmax(1), case["train/log_probabilities"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss.detach(), case["train/loss"], **TOLERANCE)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model.norm, name), case[f"train/{name}"], **TOLERANCE)
    loss.backward()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["gradients"].double().split([p.numel() for p in parameters.values()])
    for (name, parameter), expected in zip(parameters.items(), chunks, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected.view_as(parameter), rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_edges_equal_the_authors(case):
    model, batch = build(case)
    graph = RelationalGraph(
        batch.speakers, batch.dialogue, model.settings.past, model.settings.future, max(case["lengths"])
    )
    i, j, relation = graph.edges(int(case["sizes"][-1]))
    assert torch.equal(torch.stack([j, i, relation])[:, (1000 * j + i).argsort()], case["edges"].long())


@pytest.mark.parametrize("speakers, classes, theirs", [(2, 6, 27_014_575), (9, 7, 28_554_676)])
def test_parameters(speakers, classes, theirs):
    """Their count on audio, text and video of 1380 channels, except for what their code builds but never uses."""
    with torch.device("meta"):
        model = COGMEN(Settings(), {"audio": 100, "text": 768, "visual": 512}, speakers, torch.ones(classes))
    # Codes of 110 positions and a norm before the encoder; attention over emotions; classifiers of seven classes, and
    # of six without a hidden layer.
    unused = (110 * 1380 + 2 * 1380) + (100 * 100 + 100) + (100 * 7 + 7) + (100 * 6 + 6)
    assert sum(p.numel() for p in model.parameters()) == theirs - unused == theirs - 165_973


def test_heads_divide_the_width():
    assert [heads_for(width) for width in (1380, 21, 22, 768, 17, 1)] == [10, 7, 11, 8, 1, 1]
    with pytest.raises(UserError, match=r"model\.heads=3 .*10"):
        COGMEN(Settings(heads=3), {"text": 10}, 2, torch.ones(3))


def test_training_on_a_single_utterance():
    torch.manual_seed(0)
    model = COGMEN(Settings(hidden=4, inner=4, dropout=0.0), {"text": 7}, 2, torch.ones(3)).double()
    batch = random_batch((1,), {"text": 7})
    trained, evaluated = model.train()(batch).logits, model.eval()(batch).logits
    torch.testing.assert_close(trained, evaluated)
    assert model.norm.num_batches_tracked == 0 and model.norm.running_mean.abs().max() == 0
