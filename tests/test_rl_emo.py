"""RL-EMO against results of the authors' public code: its model, and its training steps.

`data/rl-emo.npz` holds two cases: "iemocap" with two speakers, class weights and their default rates, "meld" with nine
speakers and the value of the next utterance. Random features of three or four dialogues that were padded for their
code, the text four vectors each, every weight in use (in the order of our sorted parameter names), log probabilities of
all dialogues together and of each alone, loss and gradients of a training step, and, after four steps of their loop
with its actor, critic, rewards and Adam, the losses and the log probabilities. The code ran in float64; weights and
gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from test_dialoguernn import MODALITIES, TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.multimodal.angular_graph import AngularGraph
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.graphs.rl_emo import RLEMO, Settings, value_loss

SMALL = {"size": 8, "graph_size": 6}


def author_model(case, padded=True):
    """Our model with the authors' sizes and weights, in training mode."""
    step, discount = case["rates"].tolist()
    settings = Settings(
        size=int(case["size"]),
        graph_size=int(case["graph_size"]),
        text_layers=4,
        layers=int(case["layers"]),
        step=step,
        discount=discount,
        padded=padded,
    )
    dims = dict(zip(MODALITIES, case["dims"].tolist(), strict=True))
    weights = case["class_weights"] if len(case["class_weights"]) else None
    model = RLEMO(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"])), weights).double()
    if weights is not None:
        model.class_weights = weights.double()
    put_weights(model, case["weights"])
    return model


@pytest.fixture(params=["iemocap", "meld"])
def case(request):
    return read_case("rl-emo.npz", request.param)


def test_log_probabilities_loss_and_gradients_of_a_step_equal_the_authors(case):
    """In training mode, with the default dropout: their steps are computed in evaluation mode."""
    model, batch = author_model(case).train(), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits.log_softmax(-1), case["log_probabilities"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])


def test_four_steps_of_ours_equal_four_of_their_actor_and_critic(case):
    model, batch = author_model(case).train(), case_batch(case)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    losses = []
    for _ in range(4):
        loss = model.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), case["losses"], **TOLERANCE)
    torch.testing.assert_close(model(batch).logits.log_softmax(-1), case["after"], **TOLERANCE)


def test_each_dialogue_alone_equals_the_authors(case):
    logits = author_model(case, padded=False)(case_batch(case)).logits
    torch.testing.assert_close(logits.log_softmax(-1), case["alone"], **TOLERANCE)


def unused(size, graph_size, classes, text):
    """What the authors' code creates and never uses; `text` is the width of one of its vectors."""
    lstm = 3 * (8 * graph_size**2 + 8 * graph_size)  # one in each modality's stack
    half = size // 2
    gru = 2 * (3 * half * (text + half) + 6 * half) + 2 * (3 * half * (size + half) + 6 * half)
    norms = 4 * 2 * 1024  # layer norms of the text, whatever its width
    return lstm + gru + norms + graph_size * classes + classes


def test_number_of_parameters_of_the_cases(case):
    size, graph_size, classes = (case[k].tolist() for k in ("size", "graph_size", "classes"))
    expected = int(case["theirs"]) - unused(size, graph_size, classes, int(case["dims"][0]) // 4)
    assert sum(p.numel() for p in author_model(case).parameters()) == expected


@pytest.mark.parametrize(
    "corpus, dims, speakers, classes, theirs",
    [
        ("iemocap", {"audio": 100, "visual": 512}, 2, 6, 19_777_548),
        ("meld", {"audio": 300, "visual": 342}, 9, 7, 19_796_494),
    ],
)
def test_number_of_parameters_with_the_published_sizes(corpus, dims, speakers, classes, theirs):
    with torch.device("meta"):
        config = load_config(f"rl-emo-{corpus}", ["model.text_layers=4"])
        model = build_model(config, {"text": 4 * 1024} | dims, speakers, np.ones(classes))
    assert sum(p.numel() for p in model.parameters()) == theirs - unused(512, 512, classes, 1024)


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_recipes_have_the_settings_of_readme_and_program(corpus):
    config = load_config(f"rl-emo-{corpus}")
    train, model = config.train, config.model
    assert (train.batch_size, train.lr, train.weight_decay, train.epochs) == (16, 1e-4, 1e-4, 50)
    assert (model.size, model.graph_size, model.layers, model.alpha, model.lam) == (512, 512, 4, 0.1, 0.5)
    assert (model.step, model.discount, model.episodes, model.frozen) == (0.5, 0.0, "batch", True)
    assert model.dropout == {"iemocap": 0.5, "meld": 0.4}[corpus]
    assert (train.class_weights == "balanced") == (corpus == "iemocap")


@pytest.mark.parametrize("by_dialogue", [False, True])
def test_value_loss_equals_the_readable_one(by_dialogue):
    batch = random_batch((3, 4), unlabelled=0.3, seed=3)
    logits = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    step, discount, expected = 0.3, 0.9, []
    log_p = logits.log_softmax(-1)
    for row in range(7):
        q = log_p[row].max()
        if batch.labels[row] < 0:
            continue
        last = row in (2, 6) if by_dialogue else row == 6
        follows = 0.0 if last else float(log_p[row + 1].max().detach())
        reward = 1 if log_p[row].argmax() == batch.labels[row] else -1
        target = (1 - step) * float(q.detach()) + step * (reward + discount * follows)
        if last and not by_dialogue:
            target = float(q.detach())
        expected.append((q - target) ** 2)
    found = value_loss(logits, batch, step, discount, by_dialogue)
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, sum(expected) / len(expected))]
    torch.testing.assert_close(found, sum(expected) / len(expected))
    torch.testing.assert_close(*gradients)


def test_frozen_decides_about_dropout_and_batch_norm_in_training():
    batch = random_batch((4, 5), speakers=3)
    for frozen in (True, False):
        torch.manual_seed(0)
        model = RLEMO(Settings(**SMALL, frozen=frozen), DIMS, 3, torch.ones(3)).double().train()
        before = model.encoder.norm.running_mean.clone()
        first, second = model(batch).logits, model(batch).logits
        assert torch.equal(first, second) == frozen
        assert torch.equal(model.encoder.norm.running_mean, before) == frozen


def test_absent_nodes_have_only_the_edge_to_themselves():
    torch.manual_seed(0)
    nodes, there = torch.randn(6, 2, 4, dtype=torch.float64), torch.rand(6, 2) < 0.6
    offsets = torch.tensor([0, 4, 6])
    graph = AngularGraph(nodes, offsets, there)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    found, changed = graph.propagate(x), x.clone()
    changed[~there] = 9
    torch.testing.assert_close(graph.propagate(changed)[there], found[there])
    assert not there.all()
    torch.testing.assert_close(found[~there], x[~there])
    torch.testing.assert_close(
        AngularGraph(nodes, offsets, torch.ones_like(there)).propagate(x), AngularGraph(nodes, offsets).propagate(x)
    )


def test_absent_features_have_no_influence_and_nothing_has_the_prior():
    torch.manual_seed(0)
    model = RLEMO(Settings(**SMALL, frozen=False, dropout=0.0), DIMS, 3, torch.tensor([6.0, 3.0, 1.0])).double().train()
    batch = random_batch((6, 4), speakers=3, absent=0.4, seed=2)
    for present in batch.present.values():
        present[2] = False
    expected = model(batch).logits
    for m, x in batch.features.items():
        x[~batch.present[m]] = 7
    torch.testing.assert_close(model(batch).logits, expected)
    torch.testing.assert_close(expected[2].softmax(-1), torch.tensor([6.0, 3.0, 1.0]).double() / 10)


def test_build_from_the_demo_recipe():
    assert isinstance(build_model(load_config("rl-emo-demo"), DIMS, 3, np.ones(3)), RLEMO)
