"""GraphSmile against results of the authors' public code.

`data/graphsmile.npz` holds two cases, "iemocap" with six classes and pairs of utterances within stretches, "meld" with
seven, an asymmetric window and all pairs of a dialogue. Random features of three or four dialogues that were padded for
their code, with sentiments given by the classes; every weight (in the order of our sorted parameter names; a few
hundred weights of edges in place of their 500,000) and the running statistics, and logits, loss and gradients in
evaluation, and in training with dropout rates of 0; the logits of each dialogue alone. The code ran in float64; weights
and gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from test_dialoguernn import TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, cut, random_batch, rows

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.multimodal.modality_graph import WindowEdges
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.graphs.graphsmile import GraphSmile, Settings

SIZES = {"hidden": 8, "layers": 2, "past": 2, "future": 2, "shift_window": 3, "edge_slots": 300}


def author_model(case, edge_weights):
    """Our model with the authors' sizes, weights and running statistics."""
    past, future = case["window"].tolist()
    emotion, sentiment, shift = case["loss_weights"].tolist()
    settings = Settings(
        hidden=int(case["hidden"]),
        layers=int(case["layers"]),
        past=past,
        future=future,
        edge_weights=edge_weights,
        edge_slots=int(case["slots"]),
        sentiments=case["sentiments"].tolist(),
        shift_window=int(case["shift_window"]),
        emotion_weight=emotion,
        sentiment_weight=sentiment,
        shift_weight=shift,
        dropout=0.0,
        padded=True,
    )
    dims = dict(zip(DIMS, case["dims"].tolist(), strict=True))
    model = GraphSmile(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"]))).double().eval()
    put_weights(model, case["weights"])
    model.norm.running_mean.copy_(case["running_mean"])
    model.norm.running_var.copy_(case["running_var"])
    return model


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_logits_loss_and_gradients_equal_the_authors(name, mode):
    """With edges numbered through the batch, and the padding in the statistics of the batch normalisation."""
    case = read_case("graphsmile.npz", name)
    model, batch = author_model(case, "batch"), case_batch(case)
    output = model.train(mode == "training")(batch)
    torch.testing.assert_close(output.logits, case[f"{mode}/logits"], **TOLERANCE)
    torch.testing.assert_close(output.parts["sentiment"], case[f"{mode}/sentiment"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case[f"{mode}/loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case[f"{mode}/gradients"])
    if mode == "training":
        torch.testing.assert_close(model.norm.running_mean, case["after/running_mean"], **TOLERANCE)
        torch.testing.assert_close(model.norm.running_var, case["after/running_var"], **TOLERANCE)


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_edges_numbered_by_dialogue_give_their_logits_of_each_dialogue_alone(name):
    case = read_case("graphsmile.npz", name)
    batch = case_batch(case)
    torch.testing.assert_close(author_model(case, "dialogue")(batch).logits, case["alone"], **TOLERANCE)
    assert (author_model(case, "batch")(batch).logits - case["alone"]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "corpus, dims, speakers, classes, theirs",
    [
        ("iemocap", {"text": 1024, "audio": 1582, "visual": 342}, 2, 6, 15_107_947),
        ("meld", {"text": 1024, "audio": 300, "visual": 342}, 9, 7, 7_181_036),
    ],
)
def test_number_of_parameters_equals_the_authors_without_what_they_never_use(corpus, dims, speakers, classes, theirs):
    """Unused are the batch normalisations of three other texts, and the map of which each stack's maps are copies."""
    config = load_config(f"graphsmile-{corpus}")
    with torch.device("meta"):
        model = build_model(config, dims, speakers, np.ones(classes))
    hidden = config.model.hidden
    unused = 3 * 2 * dims["text"] + 3 * (hidden + 1) * hidden
    assert sum(p.numel() for p in model.parameters()) == theirs - unused


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_recipes_have_the_readmes_settings(corpus):
    config = load_config(f"graphsmile-{corpus}")
    model, train = config.model, config.train
    readme = {
        "iemocap": (120, 1e-4, 512, 17, 17, 7, 19, (1.0, 1.0, 0.7)),
        "meld": (50, 7e-5, 384, 3, 3, 5, 3, (1.0, 0.5, 0.2)),
    }
    weights = model.emotion_weight, model.sentiment_weight, model.shift_weight
    sizes = model.hidden, model.past, model.future, model.layers, model.shift_window
    assert (train.epochs, train.lr, *sizes, weights) == readme[corpus]
    assert (train.batch_size, train.weight_decay, train.optimizer, model.dropout) == (16, 1e-4, "adamw", 0.2)
    assert train.class_weights == "none" and model.edge_slots == 500_000
    # Classes in the manifests' order: those of the authors' data, so this is the table of their loader.
    assert model.sentiments == {"iemocap": [2, 0, 1, 0, 2, 0], "meld": [1, -1, 0, 0, 2, 0, 0]}[corpus]


@pytest.mark.parametrize("past, future", [(2, 1), (0, 3), (-1, 0), (-1, -1)])
@pytest.mark.parametrize("across", [True, False])
def test_edges_are_numbered_by_direction_node_and_neighbour(past, future, across):
    batch = random_batch((4, 1, 20))
    edges = WindowEdges(batch.packing, past, future, across)
    expected, number = {}, 0
    for dialogue in range(3):
        if not across:
            number = 0
        here = range(*batch.offsets[dialogue : dialogue + 2].tolist())
        for direction in (0, 1):
            for i in here:
                for j in here:
                    if (past == -1 or i - j <= past) and (future == -1 or j - i <= future):
                        expected[direction, i, j] = number
                        number += 1
    blocks, found = edges.blocks, {}
    for block, row, column in edges.mask.nonzero().tolist():
        i = block * blocks.size + row
        for direction in (0, 1):
            j = i - int(blocks.distance[row, column])
            found[direction, i, j] = int(edges.number[direction, block, row, column])
    assert found == expected


def test_edges_beyond_the_learned_weights_have_weight_one():
    torch.manual_seed(0)
    counts = torch.ones(3)
    batch = random_batch((9, 5))
    few, none = (
        GraphSmile(Settings(**SIZES | change), DIMS, 2, counts).double().eval()
        for change in ({"edge_slots": 1}, {"edge_weights": "none"})
    )
    few.load_state_dict(none.state_dict(), strict=False)
    torch.testing.assert_close(few(batch).logits, none(batch).logits)
    with torch.no_grad():
        for stack in few.pairs.values():
            stack.propagation.weight.fill_(2.0)  # of the first edge of each dialogue
    changed = (few(batch).logits - none(batch).logits).abs().amax(1) > 1e-9
    assert changed[0] and changed[9]


def test_absent_features_have_no_influence():
    """Neither on the logits in evaluation, nor on loss and running statistics in training."""
    found = []
    for value in (0.0, 7.0):
        torch.manual_seed(0)
        model = GraphSmile(Settings(**SIZES, sentiments=[0, 1, 2], dropout=0.0), DIMS, 2, torch.ones(3)).double()
        batch = random_batch((6, 5, 1), absent=0.4, seed=5)
        assert not all(p.all() for p in batch.present.values())
        for modality, x in batch.features.items():
            x[~batch.present[modality]] = value
        loss = model.loss(model(batch), batch)
        found.append((loss, model.eval()(batch).logits, model.norm.running_mean, model.norm.running_var))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_auxiliary_tasks_leave_out_what_has_no_sentiment():
    """Unlabelled utterances, those of classes without sentiment and those without features; null leaves out both."""
    torch.manual_seed(0)
    counts = torch.tensor([6.0, 3.0, 1.0])
    sizes = SIZES | {"emotion_weight": 0.0}
    model = GraphSmile(Settings(**sizes, sentiments=[2, -1, 0]), DIMS, 2, counts).double().eval()
    batch = random_batch((5, 4), seed=1)
    batch.labels.copy_(torch.tensor([0, 2, 1, 0, -1, 2, 0, 2, 0]))
    for present in batch.present.values():
        present[7] = False
    output = model(batch)
    torch.testing.assert_close(output.logits[7].softmax(-1), counts.double() / 10)
    p, log_p = output.parts["sentiment"].log_softmax(-1), output.parts["shift"].log_softmax(-1)
    rows_, sentiments = [0, 1, 3, 5, 6, 8], [2, 0, 2, 0, 2, 2]
    sentiment = -p[rows_, sentiments].mean()
    # Stretches of three: utterances 0 1 | 3 of the first dialogue, 5 6 | 8 of the second.
    pairs = [(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 0)]
    pairs += [(s + 2, i, j, different) for s, i, j, different in pairs]
    shift = -torch.stack([log_p[pair] for pair in pairs]).mean()
    torch.testing.assert_close(model.loss(output, batch), sentiment + 0.7 * shift)
    plain = GraphSmile(Settings(**sizes), DIMS, 2, counts).double().eval()
    assert plain(batch).parts == {} and float(plain.loss(plain(batch), batch).detach()) == 0


def test_layers_of_a_stack_begin_with_equal_weights():
    model = GraphSmile(Settings(**SIZES), DIMS, 2, torch.ones(3))
    stacks = list(model.pairs.values())
    first, second = stacks[0].convolutions
    assert len(stacks) == 3 and torch.equal(first.weight, second.weight) and first.weight is not second.weight
    assert not torch.equal(first.weight, stacks[1].convolutions[0].weight)


def test_edges_numbered_through_the_batch_make_a_dialogue_depend_on_it():
    torch.manual_seed(0)
    model = GraphSmile(Settings(**SIZES, edge_weights="batch"), DIMS, 2, torch.ones(3)).double().eval()
    batch = random_batch((4, 5))
    with torch.no_grad():
        for stack in model.pairs.values():
            stack.propagation.weight.uniform_(0.5, 1.5)
    logits = model(batch).logits
    torch.testing.assert_close(model(cut(batch, 0)).logits, logits[rows(batch, 0)])
    assert (model(cut(batch, 1)).logits - logits[rows(batch, 1)]).abs().max() > 1e-6


@pytest.mark.parametrize("sentiments, words", [([0, 1], "2 entries, but the number of classes is 3"), ([0, 1, 3], "")])
def test_a_list_of_sentiments_that_does_not_fit_is_refused(sentiments, words):
    settings = Settings(**SIZES, sentiments=sentiments)
    with pytest.raises(UserError, match=words or "must have 0 .negative"):
        settings.check("recipe")
        GraphSmile(settings, DIMS, 2, torch.ones(3))


def test_build_from_the_demo_recipe():
    model = build_model(load_config("graphsmile-demo"), DIMS, 3, np.ones(7))
    assert isinstance(model, GraphSmile) and model.sentiment is not None
