"""DF-GCN: the solver, the graph ODE, the dynamic map, its parts, and the bugs of the authors' code one by one."""

import copy
import dataclasses
import itertools
import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import small
from test_train_support import DIMS, cut, packing, random_batch, rows

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.dynamic_linear import DynamicLinear
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.layers.subgraphs.graph_ode import GraphODE, integrate
from erc_toolkit.train.models.df_gcn.model import DFGCN, Settings, pad
from erc_toolkit.train.models.df_gcn.variants import VARIANTS

BUGS = [f.name for f in dataclasses.fields(VARIANTS["released"])]


def authors(variant="released", seed=0, **switches):
    """A small model of the authors' variants with some switches flipped."""
    torch.manual_seed(seed)
    config = Settings(variant=variant, hidden=16, heads=2, window=3, dropout=0.0, graph_dropout=0.0)
    with mock.patch.dict(VARIANTS, {variant: dataclasses.replace(VARIANTS[variant], **switches)}):
        return DFGCN(config, DIMS, 3, torch.ones(3)).double().eval()


@pytest.mark.parametrize("solver, order", [("rk4", 4), ("euler", 1)])
def test_the_error_on_a_linear_system_falls_with_the_order_of_the_method(solver, order):
    torch.manual_seed(0)
    system = torch.randn(4, 4, dtype=torch.float64)
    start = torch.randn(3, 4, dtype=torch.float64)
    exact = start @ torch.matrix_exp(1.5 * system).mT
    errors = [
        float((integrate(lambda x: x @ system.mT, start, steps, 1.5, solver) - exact).norm())
        for steps in (64, 128, 256)
    ]
    assert errors[-1] > 1e-12  # otherwise rounding would dominate
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_zero_steps_change_nothing():
    x = torch.randn(3, 4)
    assert torch.equal(integrate(lambda x: x + 1, x, 0), x)


def adjacency_by_loops(ode, speakers, dialogue, window):
    """A of the ODE, [N, N], by utterances: relations are self, own past, own future, others' future, others' past."""
    n = len(speakers)
    found = torch.zeros(n, n, dtype=torch.float64)
    learned = [0.0] * 5 if ode.relation is None else ode.relation.tolist()
    for i in range(n):
        score = {}
        for j in range(n):
            if dialogue[i] == dialogue[j] and abs(i - j) <= window:
                if i == j:
                    relation = 0
                elif speakers[i] == speakers[j]:
                    relation = 1 if j < i else 2
                else:
                    relation = 4 if j < i else 3
                score[j] = learned[relation]
        total = sum(math.exp(s) for s in score.values())
        for j, s in score.items():
            found[i, j] = math.exp(s) / total
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 25), st.integers(0, 99), st.booleans())
def test_an_euler_step_is_a_graph_layer(lengths, window, seed, relations):
    """X + tanh(A X W), with A from a slow reference; and any number of RK4 steps on the same A."""
    torch.manual_seed(seed)
    dialogue, _ = packing(lengths)
    speakers, x = torch.randint(3, dialogue.shape), torch.randn(len(dialogue), 6, dtype=torch.float64)
    graphs = speaker_graphs(speakers, dialogue, window, max(lengths))
    ode = GraphODE(6, steps=1, solver="euler", relations=relations).double()
    if relations:
        torch.nn.init.normal_(ode.relation)
    a, w = adjacency_by_loops(ode, speakers, dialogue, window), ode.linear.weight.mT
    torch.testing.assert_close(ode(x, *graphs), x + torch.tanh(a @ x @ w))
    ode.steps, ode.solver, ode.horizon = 3, "rk4", 2.0
    expected = integrate(lambda y: torch.tanh(a @ y @ w) - y + x, x, 3, 2.0)
    torch.testing.assert_close(ode(x, *graphs), expected)
    ode.restart = False
    torch.testing.assert_close(ode(x, *graphs), integrate(lambda y: torch.tanh(a @ y @ w) - y, x, 3, 2.0))


def test_the_restart_keeps_the_state_near_its_initial_value():
    """With it, |X - X(0)| stays below 1, the bound of tanh; without it, X(0) is forgotten."""
    torch.manual_seed(0)
    dialogue, _ = packing([9])
    x = 10 * torch.randn(9, 6, dtype=torch.float64)
    graphs = speaker_graphs(torch.zeros(9, dtype=torch.int64), dialogue, 3, 9)
    ode = GraphODE(6, steps=100, horizon=10.0).double()
    assert (ode(x, *graphs) - x).abs().max() <= 1
    ode.restart = False
    assert ode(x, *graphs).abs().max() <= 1 + 1e-3


def test_the_dynamic_map_has_a_separate_matrix_for_every_row():
    torch.manual_seed(0)
    layer = DynamicLinear(6, 4).double()
    x, g = torch.randn(2, 5, 6, dtype=torch.float64)
    weights = layer.weights(g)
    assert weights.shape == (5, 4) and torch.allclose(weights.sum(1), torch.ones(5, dtype=torch.float64))
    expected = torch.stack(
        [row @ sum(s * box for s, box in zip(w, layer.boxes, strict=True)) for row, w in zip(x, weights, strict=True)]
    )
    torch.testing.assert_close(layer(x, weights), expected)
    assert torch.equal(DynamicLinear(6, 1).weights(g), torch.ones(5, 1, dtype=torch.float64))


def test_different_prompts_give_different_weights_and_a_low_temperature_sharper_ones():
    torch.manual_seed(0)
    layer = DynamicLinear(6, 4).double()
    g = torch.randn(5, 6, dtype=torch.float64)
    weights = layer.weights(g)
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    layer.temperature = 0.01
    assert (layer.weights(g).max(1).values > weights.max(1).values).all()


@pytest.mark.parametrize("dynamic", ["utterance", "dialogue"])
def test_gradients_reach_the_prompt_the_boxes_and_the_ode(dynamic):
    model, batch = small("df-gcn", dynamic=dynamic).train(), random_batch((5, 3), speakers=3)
    model.loss(model(batch), batch).backward()
    fusion = model.fusion
    for parameter in (*fusion.map.mlp.parameters(), fusion.map.boxes, fusion.ode.linear.weight, fusion.ode.relation):
        assert parameter.grad.abs().max() > 0
    assert (fusion.map.boxes.grad.flatten(1).abs().max(1).values > 0).all()
    assert all(p.grad.abs().max() > 0 for p in fusion.summary.output.parameters())


def test_the_map_depends_on_the_utterance_or_on_its_dialogue():
    batch = random_batch((5, 4), speakers=3)
    for dynamic in ("utterance", "dialogue"):
        boxes = small("df-gcn", dynamic=dynamic)(batch).parts["boxes"]
        first, second = boxes[:5], boxes[5:]
        assert not torch.allclose(first[0], second[0], atol=1e-6)
        assert torch.allclose(first, first[:1].expand(5, -1), atol=1e-12) == (dynamic == "dialogue")


@pytest.mark.parametrize(
    "change",
    [
        {"ode_steps": 0},
        {"ode_steps": 1},
        {"solver": "euler"},
        {"horizon": 2.0},
        {"restart": False},
        {"window": 1},
        {"dynamic": "dialogue"},
        {"dynamic": "none"},
        {"temperature": 0.1},
        {"readout": "fused"},
        {"readout": "modalities"},
    ],
    ids=str,
)
def test_every_part_has_an_effect(change):
    """With the same weights where both have them, logits differ when a part is removed or changed."""
    whole, other = small("df-gcn"), small("df-gcn", **change)
    other.load_state_dict({k: v for k, v in whole.state_dict().items() if k in other.state_dict()})
    batch = random_batch((6, 4), speakers=3)
    assert (whole(batch).logits - other(batch).logits).abs().max() > 1e-6


def test_relations_distinguish_speakers_and_order():
    whole, plain = small("df-gcn"), small("df-gcn", relations=False)
    assert plain.fusion.ode.relation is None
    plain.load_state_dict({k: v for k, v in whole.state_dict().items() if k in plain.state_dict()})
    batch = random_batch((6, 4), speakers=3)
    # All relations are initialised equal, which makes the graph equal to the plain one.
    torch.testing.assert_close(whole(batch).logits, plain(batch).logits)
    torch.nn.init.normal_(whole.fusion.ode.relation)
    assert not torch.allclose(whole(batch).logits, plain(batch).logits)


def test_removed_parts_have_no_parameters():
    def names(**change):
        return {
            name.split(".")[1] for name, _ in small("df-gcn", **change).named_parameters() if name.startswith("fusion.")
        }

    assert names() == {"ode", "norm", "map", "summary"}
    assert names(ode_steps=0) == {"norm", "map", "summary"}
    assert names(dynamic="none") == {"ode", "norm"}
    assert names(boxes=1) == {"ode", "norm", "map"}
    assert names(readout="modalities") == set()
    assert (
        not small("df-gcn", readout="fused").heads
        and "boxes" not in small("df-gcn", dynamic="none")(random_batch()).parts
    )


def test_static_map_is_one_matrix():
    model = small("df-gcn", boxes=1)
    assert model.fusion.map.mlp is None and (model(random_batch(speakers=3)).parts["boxes"] == 1).all()


def test_an_absent_modality_has_no_effect():
    """Neither in the logits of others, in the sum, nor in the loss of its own head."""
    model, batch = small("df-gcn"), random_batch((6, 4), speakers=3)
    batch.present["audio"][2] = False
    before = model(batch)
    loss = model.loss(before, batch)
    batch.features["audio"][2] = 1e3
    after = model(batch)
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(model.loss(after, batch), loss)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dims", [DIMS, {"audio": 10, "visual": 8}, {"text": 12}], ids=lambda d: "+".join(d))
def test_the_authors_variants_learn_and_handle_absent_features(variant, dims):
    model = small("df-gcn", dims, variant=variant).train()
    batch = random_batch((5, 3, 1, 7), dims, speakers=3, absent=0.3, unlabelled=0.2)
    output = model(batch)
    model.loss(output, batch).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all(), name
    assert output.logits.shape == (16, 3)
    alone = random_batch((1,), dims, speakers=3)
    assert model(alone).logits.isfinite().all()


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_of_the_authors_can_be_repaired_separately(bug):
    """Each changes logits or, for the frozen prompt, what is trained; repairing one does not affect the others."""
    whole, other = authors(), authors(**{bug: False})
    theirs = whole.state_dict()
    other.load_state_dict({k: theirs.get(k, v) for k, v in other.state_dict().items()})
    batch = random_batch((6, 4), speakers=3)
    # Two utterances with the same text by different speakers: one speaker in the authors' code.
    batch.features["text"][1] = batch.features["text"][0]
    batch.speakers[:2] = torch.tensor([0, 1])
    changed = (whole(batch).logits - other(batch).logits).abs().max()
    assert (changed > 1e-9) == (bug != "frozen_prompt")


@pytest.mark.parametrize("frozen", [True, False])
def test_the_prompt_is_trained_only_when_repaired(frozen):
    model, batch = authors(frozen_prompt=frozen).train(), random_batch((6, 4), speakers=3)
    model.loss(model(batch), batch).backward()
    parameters = dict(model.fusion.named_parameters())
    prompt = [p for name, p in parameters.items() if name.startswith("mlp")]
    assert ("box" in parameters) != frozen
    assert all(p.grad is None for p in prompt) == frozen
    if not frozen:
        assert parameters["box"].grad.abs().max() > 0 and prompt[0].grad.abs().max() > 0


def test_dialogues_influence_each_other_only_through_padding():
    """The released logits of a dialogue depend on the longest one of the batch, the repaired ones do not."""
    batch = random_batch((3, 12), speakers=3)
    for padding in (True, False):
        model = authors(padding=padding)
        alone, together = model(cut(batch, 0)).logits, model(batch).logits[rows(batch, 0)]
        assert torch.allclose(alone, together, atol=1e-9) != padding
        assert torch.allclose(model(cut(batch, 1)).logits, model(batch).logits[rows(batch, 1)], atol=1e-9)


def test_the_released_batch_norm_includes_padding():
    batch = random_batch((2, 6), speakers=3)
    model = authors().train()
    model(batch)
    text = torch.zeros(12, 12, dtype=torch.float64)
    text[:2], text[6:] = batch.features["text"][:2], batch.features["text"][2:]
    torch.testing.assert_close(model.streams["text"].norm.running_mean, 0.1 * text.mean(0))
    repaired = authors(padding=False).train()
    repaired(batch)
    torch.testing.assert_close(repaired.streams["text"].norm.running_mean, 0.1 * batch.features["text"].mean(0))


def test_pad():
    batch = random_batch((2, 3), speakers=3)
    padded, wide = pad(batch, 3)
    assert wide.offsets.tolist() == [0, 3, 6] and wide.dialogue.tolist() == [0, 0, 0, 1, 1, 1]
    assert wide.speakers[2] == 3 and wide.labels[2] == -1
    assert all(not wide.present[m][2] and not wide.features[m][2].any() for m in DIMS)
    assert torch.equal(padded.mask.flatten(), torch.tensor([1, 1, 0, 1, 1, 1]) == 1)
    assert torch.equal(wide.features["text"][[0, 1, 3, 4, 5]], batch.features["text"])


def test_all_layers_share_one_table_of_relations_that_is_stored_once():
    model, batch = authors(), random_batch((6, 4), speakers=3)
    assert [name for name in model.state_dict() if "relation" in name.split(".")] == ["fusion.relation.weight"]
    other = copy.deepcopy(model)
    other.fusion.relation.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(other(batch).logits, model(batch).logits)
    assert not torch.equal(other.fusion.relation.weight, model.fusion.relation.weight)


def test_several_text_vectors_are_averaged():
    model = small("df-gcn", {"text": 6})
    layers = small("df-gcn", {"text": 12}, text_layers=2)
    layers.load_state_dict(model.state_dict())
    batch = random_batch((4, 2), {"text": 12}, speakers=3)
    expected = layers(batch).logits
    batch.features["text"] = batch.features["text"].unflatten(1, (2, 6)).mean(1)
    torch.testing.assert_close(model(batch).logits, expected)
    with pytest.raises(UserError, match=r"model\.text_layers=5.* 12"):
        small("df-gcn", {"text": 12}, text_layers=5)


@pytest.mark.parametrize(
    "change, message",
    [
        ("model.heads=3", "multiple of model.heads=3"),
        ("model.dynamic=always", "model.dynamic is 'always'.*utterance.*dialogue.*none"),
        ("model.variant=release", "model.variant is 'release'.*'released'"),
        ("model.solver=rk5", "model.solver is 'rk5'.*'rk4'"),
        ("model.boxes=0", "model.boxes is 0.*at least 1"),
    ],
)
def test_invalid_settings(change, message):
    with pytest.raises(UserError, match=message):
        load_config("df-gcn-demo", [change])


@pytest.mark.parametrize("variant, alive", [("reconstruction", True), ("released", False), ("repaired", False)])
def test_the_fused_head_counts_in_the_reconstruction_and_hardly_in_the_authors_code(variant, alive):
    """How much it and the modalities' heads vary over utterances before training."""
    model = small("df-gcn", variant=variant, hidden=128, boxes=8)
    output = model(random_batch((9, 14, 6, 11), speakers=3))
    modalities = sum(output.unimodal.values())
    ratio = float(((output.logits - modalities).std(0).mean() / modalities.std(0).mean()).detach())
    assert ratio > 0.2 if alive else ratio < 0.05
