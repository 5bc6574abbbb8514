"""The differences between the variants "released" and "paper" of AMB-DSGDN, switch by switch."""

import dataclasses
import inspect
import math
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from test_train_support import DIMS, TINY, packing, random_batch, tiny_model

from erc_toolkit.train.config import Config, load_config
from erc_toolkit.train.layers import blocks, modality_dropout
from erc_toolkit.train.layers.modality_dropout import drop_modalities, dropout_ratios, precision_times_recall
from erc_toolkit.train.layers.sequences import encoder
from erc_toolkit.train.layers.subgraphs import diff_graph_attention, graph
from erc_toolkit.train.layers.subgraphs.diff_graph_attention import DiffRGCN
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.subgraphs import amb_dsgdn
from erc_toolkit.train.models.subgraphs.amb_dsgdn_variants import VARIANTS, Switches

PAPER = dataclasses.replace(TINY, variant="paper", p_exe=1.0)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "recipe, dims, speakers, classes, released",
    [("iemocap", (1024, 1582, 342), 2, 6, 13_133_234), ("meld", (1024, 300, 342), 9, 7, 12_481_973)],
)
def test_paper_lacks_the_gates_and_the_norms_of_eighteen_attention_layers(recipe, dims, speakers, classes, released):
    dims = dict(zip(("text", "audio", "visual"), dims, strict=True))
    paper, default = (
        build_model(load_config(recipe, changes), dims, speakers, np.ones(classes, int))
        for changes in (["model.variant=paper"], [])
    )
    assert default.settings.variant == "released" and count(default) == released
    assert count(paper) == released - 525_312 - 18 * 1_024
    assert all(stream.gate is None for stream in paper.streams.values())


@pytest.mark.parametrize("recipe", ["iemocap", "meld"])
def test_recipes_document_how_to_run_the_papers_settings(recipe):
    text = (resources.files("erc_toolkit.manifests") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    changes = [c for line in text.splitlines() if line.startswith("# --set") for c in re.findall(r"--set (\S+)", line)]
    config = load_config(recipe, changes)
    assert (config.model.variant, config.model.window, config.train.epochs) == ("paper", 5, 100)
    assert (config.train.lr, config.train.weight_decay, config.train.batch_size) == (6.8e-5, 5e-5, 16)
    assert config.train.class_weights == "none"


def precision_times_recall_by_loops(labels, predicted, classes):
    """Equation 19 over the classes that have a label."""
    top = bottom = 0.0
    for c in range(classes):
        n = sum(y == c for y in labels)
        if n == 0:
            continue
        hits = sum(y == c == z for y, z in zip(labels, predicted, strict=True))
        chosen = sum(z == c for z in predicted)
        weight = len(labels) / n
        top += weight * (hits / chosen if chosen else 0) * (hits / n)
        bottom += weight
    return top / bottom if bottom else 0.0


@given(st.integers(1, 7), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_balance_metric_of_the_paper_equals_equation_19(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, classes, n)
    predicted = np.where(rng.random(n) < 0.5, labels.clip(0), rng.integers(0, classes, n))
    counted = (labels >= 0) & (rng.random(n) < 0.8)
    arrays = [torch.from_numpy(a) for a in (predicted, labels, counted)]
    # Predictions for entries that are not counted must not affect precision.
    expected = precision_times_recall_by_loops(labels[counted].tolist(), predicted[counted].tolist(), classes)
    assert precision_times_recall(*arrays, classes).item() == pytest.approx(expected, abs=1e-6)


def ratios_by_loops(performance, base, scale, clipped, guarded):
    """Equations 20 to 24, modality by modality."""
    result = []
    for m, p in enumerate(performance):
        r = [p / (o + 1e-5) - 1 for j, o in enumerate(performance) if j != m and (o >= 1e-5 or not guarded)]
        positive = [max(x, 0) for x in r]
        powers = [math.exp(x - max(positive)) for x in positive]
        mean = (
            sum(e / sum(powers) * x for e, x in zip(powers, positive if clipped else r, strict=True)) / len(r)
            if r
            else 0
        )
        q = base * (1 + scale * mean)
        result.append(min(max(q, 0), 1) if mean > 0 or not guarded else 0)
    return result


def test_dropout_ratios_of_the_worked_example_in_the_paper():
    performance = torch.tensor([0.69, 0.35, 0.60], dtype=torch.float64)
    q = dropout_ratios(performance, 0.3, 0.9, clipped=False, guarded=False)
    assert q.tolist() == pytest.approx([0.39726, 0.23861, 0.35894], abs=5e-6)


@given(
    st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-6, 0.5])), min_size=2, max_size=3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.2, 0.3, 0.9]),
)
def test_dropout_ratios_equal_the_loops_for_all_switches(performance, clipped, guarded, base):
    values = torch.tensor(performance, dtype=torch.float64)
    q = dropout_ratios(values, base, 0.9, clipped=clipped, guarded=guarded)
    assert q.tolist() == pytest.approx(ratios_by_loops(performance, base, 0.9, clipped, guarded), abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_uses_the_metric_and_ratios_of_its_variant(variant):
    config = dataclasses.replace(PAPER, variant=variant, dropout=0.0, graph_dropout=0.0)
    model = tiny_model(config=config, seed=3).train()
    batch = random_batch((9, 8, 7), seed=3)
    performance = []
    for modality, x in model.represent(batch).items():
        predicted = model.heads[modality](x.relu()).argmax(-1).tolist()
        labels = batch.labels.tolist()
        if variant == "paper":
            performance.append(precision_times_recall_by_loops(labels, predicted, 3))
        else:
            performance.append(f1_score(labels, predicted, average="weighted", zero_division=0))
    released = variant == "released"
    expected = ratios_by_loops(performance, PAPER.q_base, PAPER.lam, released, released)
    assert len(set(performance)) > 1
    assert model(batch).ratios.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("variant, factor", [("released", 0.2), ("paper", 0.1)])
def test_gradient_of_a_modality_s_loss_is_a_fifth_or_a_tenth_of_it(variant, factor):
    model = tiny_model(config=dataclasses.replace(TINY, variant=variant))
    batch = random_batch((5, 4), seed=6)
    output = model(batch)
    total = model.loss(output, batch)
    fused = torch.nn.functional.cross_entropy(output.logits, batch.labels)
    single = {m: torch.nn.functional.cross_entropy(z, batch.labels) for m, z in output.unimodal.items()}
    assert total.item() == pytest.approx((fused + sum(x**2 for x in single.values()) / 10).item(), rel=1e-9)
    wanted = fused + sum(factor * x.detach() * x for x in single.values())
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(x, parameters, retain_graph=True) for x in (total, wanted)]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))


def test_dropout_of_the_paper_s_block_is_only_on_the_concatenated_heads():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    inter = speaker_graphs(torch.tensor([0, 1, 0, 0, 1, 1]), packing([6])[0], 3, 6)[0]
    calls = []
    for everywhere in (True, False):
        block = DiffRGCN(4, dropout=0.5, dropout_everywhere=everywhere).train()
        block.heads.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
        block.dropout.register_forward_hook(lambda module, args, out: calls.append(out))
        block(x, inter)
        assert block.heads.dropout == block.output.dropout == (0.5 if everywhere else 0.0)
    assert (calls[0] == 0).any() and torch.equal(calls[2], x)
    assert (calls[1] == 0).any() and (calls[3] == 0).any()


@pytest.mark.parametrize("variant, inner", [("released", 0.3), ("paper", 0.0)])
def test_every_block_of_the_model_has_the_dropout_of_its_variant(variant, inner):
    model = tiny_model(config=dataclasses.replace(TINY, variant=variant, graph_dropout=0.3))
    blocks = [block for stream in model.streams.values() for block in (stream.inter, stream.intra)]
    assert len(blocks) == 6
    for block in blocks:
        assert (block.input_dropout.p, block.dropout.p) == (inner, 0.3)
        assert block.heads.dropout == block.output.dropout == inner


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_that_lost_all_modalities_is_harmless(variant, monkeypatch):
    model = tiny_model(config=dataclasses.replace(PAPER, variant=variant)).train()
    monkeypatch.setattr(amb_dsgdn, "dropout_ratios", lambda p, *_, **__: torch.ones_like(p))
    batch = random_batch((4, 2))
    output = model(batch)
    assert not output.learnable.any()
    loss = model.loss(output, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_paper_drops_whole_dialogues_at_its_ratios_and_excludes_them_from_the_loss(monkeypatch):
    ratios = torch.tensor([0.8, 0.7, 0.9])
    model = tiny_model(config=dataclasses.replace(PAPER, dropout=0.0, graph_dropout=0.0)).train()
    monkeypatch.setattr(amb_dsgdn, "dropout_ratios", lambda *_, **__: ratios)
    torch.manual_seed(1)
    batch = random_batch((2,) * 40, seed=9)
    output = model(batch)
    lost = ~output.learnable
    assert 10 <= lost.sum() / 2 <= 30  # 40 times .8 * .7 * .9 = 20.2
    loss = model.loss(output, batch)
    batch.labels[lost] = (batch.labels[lost] + 1) % 3
    assert torch.equal(model.loss(output, batch), loss)


@given(st.integers(2, 3), st.integers(1, 30), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_every_draw_is_scaled_by_the_expectation(modalities, dialogues, seed):
    torch.manual_seed(seed)
    ratios = torch.rand(modalities, dtype=torch.float64)
    dropped = drop_modalities(ratios, dialogues)
    for m in range(modalities):
        for b in range(dialogues):  # equations 25 and 26
            expected = 1 / (1 - sum(ratios.tolist()) / modalities) if dropped.kept[m, b] else 0
            assert dropped.factor[m, b].item() == pytest.approx(expected)


def test_the_documented_walk_through_the_model_names_existing_objects():
    text = (Path(__file__).parents[1] / "docs/explanation/model.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w./]+)`", text))
    for path in (w for w in words if "/" in w):
        assert (Path(__file__).parents[1] / path).exists(), path
    modules = [amb_dsgdn, graph, blocks, encoder, diff_graph_attention, modality_dropout]
    names = {n for m in modules for n in vars(m)} | {f.name for f in dataclasses.fields(Switches)} | set(VARIANTS)
    settings_ = Config().as_dict()
    for word in (w for w in words if "/" not in w):
        first, _, rest = word.partition(".")
        if first in settings_:
            assert rest in settings_[first], word
        else:
            assert first in names, word
            owner = next((vars(m)[first] for m in modules if first in vars(m)), None)
            assert not rest or hasattr(owner, rest) or rest in owner.__annotations__, word
    for field in dataclasses.fields(Switches):
        assert f"`{field.name}`" in text


def test_variants_differ_in_every_switch():
    for field in dataclasses.fields(Switches):
        assert getattr(VARIANTS["released"], field.name) is not getattr(VARIANTS["paper"], field.name)
        assert f"\n    {field.name}: " in inspect.getdoc(Switches)


@pytest.mark.parametrize("modality", list(DIMS))
def test_paper_works_on_one_modality_alone(modality):
    model = tiny_model({modality: DIMS[modality]}, PAPER).train()
    batch = random_batch(dims={modality: DIMS[modality]}, absent=0.3)
    output = model(batch)
    assert output.ratios is None
    model.loss(output, batch).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
