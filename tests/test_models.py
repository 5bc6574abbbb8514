"""Tests of every model: shapes, gradients, independence from the batch, memorising five dialogues, absent features.

A model of `erc_toolkit.train.models.registry.MODELS` is tested here as soon as it is registered; SMALL has the settings
that make it small.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from test_train_support import DIMS, cut, random_batch, rows

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.train.config import load_config, recipe_names
from erc_toolkit.train.loop.run_folder import WEIGHTS, write_weights
from erc_toolkit.train.models.registry import AMB_DSGDN, MODELS, contract_problem, model_class, settings_class
from erc_toolkit.train.studies.definition import load_study

# Settings that make a model small and disable dropout; a model without an entry needs none.
SMALL: dict[str, dict[str, object]] = {
    AMB_DSGDN: {"hidden": 16, "heads": 2, "window": 3, "dropout": 0.0, "graph_dropout": 0.0, "dropout_warm_up": 1000},
    "bigru": {"hidden": 16, "dropout": 0.0},
    "transformer": {"hidden": 16, "heads": 2, "dropout": 0.0},
    "sdt": {"hidden": 16, "heads": 2, "dropout": 0.0},
    "merc-gcn": {"hidden": 16, "graph_hidden": 8, "heads": 2, "window": 3, "dropout": 0.0, "coarse": [0, 1, 1]},
    "mmgcn": {"size": 16, "graph_size": 8, "layers": 4, "dropout": 0.0},
    "mm-dfn": {"size": 16, "graph_size": 8, "layers": 4, "dropout": 0.0},
    "dialoguernn": {
        "dialogue": 12,
        "party": 10,
        "emotion": 8,
        "hidden": 16,
        "recurrent_dropout": 0.0,
        "emotion_dropout": 0.0,
        "dropout": 0.0,
    },
    "multiemo": {
        "hidden": 16,
        "layers": 2,
        "heads": 2,
        "inner": 24,
        "head": 16,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
    },
    "dialoguegcn": {
        "context_hidden": 64,
        "context_layers": 1,
        "graph_hidden": 4,
        "bases": 4,
        "past": 1,
        "future": 1,
        "places": 6,
        "dropout": 0.0,
    },
    "cogmen": {"hidden": 16, "inner": 32, "past": 2, "future": 3, "graph_heads": 2, "dropout": 0.0},
    "dednet": {"hidden": 16, "heads": 2, "window": 3, "dropout": 0.0, "graph_dropout": 0.0},
    "graphcfc": {"hidden": 12, "encoder_input": 10, "layers": 2, "heads": 2, "past": 3, "future": 2, "dropout": 0.0},
    "cfn-esa": {
        "hidden": 16,
        "layers": 2,
        "heads": 2,
        "encoder_dropout": 0.0,
        "dropout": 0.0,
        "shift_hidden": 8,
        "shift_dropout": 0.0,
    },
    "graphsmile": {
        "hidden": 16,
        "past": 3,
        "future": 2,
        "layers": 2,
        "dropout": 0.0,
        "sentiments": [0, 2, 1],
        "shift_window": 4,
    },
    "rgat": {"hidden": 32, "heads": 2, "layers": 2, "past": 3, "future": 2, "dropout": 0.0},
    "m3net": {"size": 16, "graph_size": 16, "dropout": 0.0},
    "rl-emo": {"size": 16, "graph_size": 16},
    "df-gcn": {"hidden": 16, "heads": 2, "window": 3, "boxes": 3, "dropout": 0.0, "graph_dropout": 0.0},
}
# Learning rates for memorising where the default does not work. Larger steps saturate DialogueGCN's attention, which
# then gives all utterances of a dialogue the same output; so do more layers and neighbours on so little data.
RATES: dict[str, float] = {"dialoguegcn": 5e-4}
# Models whose logits depend on other dialogues of the batch, and why that is correct.
LEAKS: dict[str, str] = {}
BASELINES = (AMB_DSGDN, "logistic-regression", "bigru", "transformer")  # without a paper's page


def small(name: str, dims=DIMS, speakers: int = 3, counts=(3, 5, 2), weights=None, seed: int = 0, **changes: object):
    """A small model in float64, in evaluation mode."""
    torch.manual_seed(seed)
    settings = dataclasses.replace(settings_class(name)(), **{**SMALL.get(name, {}), **changes})
    return (
        model_class(name)(settings, dims, speakers, torch.tensor(counts, dtype=torch.float64), weights).double().eval()
    )


every = pytest.mark.parametrize("name", MODELS)


@every
@pytest.mark.parametrize("dims", [DIMS, {"text": 12}, {"audio": 10, "visual": 8}], ids=lambda d: "+".join(d))
def test_logits_and_gradients(name, dims):
    """[N, C] logits, fused and unimodal; a finite loss whose gradient reaches every trainable parameter."""
    model = small(name, dims, weights=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    batch = random_batch((5, 3, 1, 7), dims, speakers=3, unlabelled=0.2)
    output = model.train()(batch)
    assert output.logits.shape == (16, 3) and output.logits.isfinite().all()
    assert all(m in dims and x.shape == (16, 3) for m, x in getattr(output, "unimodal", {}).items())
    loss = model.loss(output, batch)
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    for parameter_name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all(), parameter_name
    assert sum(float(p.grad.abs().sum() > 0) for p in model.parameters() if p.grad is not None) > 0


@every
@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_logits_of_a_dialogue_do_not_depend_on_the_batch(name, absent):
    if name in LEAKS:
        pytest.skip(LEAKS[name])
    model, lengths = small(name), (5, 9, 1, 3, 130)
    batch = random_batch(lengths, speakers=3, absent=absent, seed=4)
    together = model(batch).logits
    for number in range(len(lengths)):
        assert torch.allclose(model(cut(batch, number)).logits, together[rows(batch, number)], atol=1e-9)


@every
def test_it_memorises_five_dialogues(name):
    torch.manual_seed(1)
    batch = random_batch((4, 6, 3, 5, 4), speakers=2, seed=2, dtype=torch.float32)
    model = small(name, speakers=2).float().train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATES.get(name, 5e-3))
    for step in range(600):
        output = model(batch)
        loss = model.loss(output, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19 and (model.eval()(batch).logits.argmax(1) == batch.labels).all():
            return
        model.train()
    raise AssertionError(
        f"{name} has {(model.eval()(batch).logits.argmax(1) == batch.labels).float().mean():.2f} after 600 steps"
    )


@every
def test_nothing_labelled_and_nothing_present(name):
    """A batch without labels has loss 0; utterances without any modality have finite logits."""
    model = small(name).train()
    batch = random_batch((4, 2), speakers=3, absent=1.0, unlabelled=1.0)
    batch.labels[:] = -1
    output = model(batch)
    assert output.logits.isfinite().all()
    loss = model.loss(output, batch)
    assert loss.isfinite() and float(loss.detach()) == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every
def test_it_meets_the_contract_of_models_of_other_packages(name):
    assert contract_problem(model_class(name)) is None


@every
def test_the_same_seed_gives_the_same_results(name):
    batch = random_batch((5, 3), speakers=3)
    a, b, c = (small(name, seed=seed)(batch).logits for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@every
def test_weights_are_written_and_read_back(name, tmp_path):
    """Every number once: the files of weights refuse parameters that share memory."""
    model, other, batch = small(name).eval(), small(name, seed=1).eval(), random_batch((5, 3), speakers=3)
    write_weights(tmp_path, model, {}, {})
    assert not torch.equal(other(batch).logits, model(batch).logits)
    other.load_state_dict(load_file(tmp_path / WEIGHTS))
    assert torch.equal(other(batch).logits, model(batch).logits)


@every
def test_recipes_build_it(name):
    """For both corpora and the demo: the model's own recipe, or the corpus's with the model's defaults."""
    for corpus in ("iemocap", "meld", "demo"):
        config = load_config(corpus, [f"model.name={name}"])
        assert config.model.name == name and isinstance(config.model, settings_class(name))
        own = f"{name}-{corpus}" in recipe_names()
        assert own or name in BASELINES, f"{name} has no recipe for {corpus}"
    general = load_config("general", [f"model.name={name}"])
    assert general.model.name == name and general.train.patience == 5
    assert not any(isinstance(value, list) for value in vars(general.model).values()), "made for some corpus's classes"
    assert (general.train.lr == 2.2e-4) == (name not in BASELINES[1:])


def test_every_model_has_a_page_and_is_in_the_study():
    docs = Path(__file__).resolve().parents[1] / "docs"
    overview = (docs / "how-to/models.md").read_text(encoding="utf-8")
    for name in MODELS:
        assert f"| `{name}` |" in overview
        if name not in BASELINES:
            assert (docs / "explanation/models" / f"{name}.md").is_file() and f"models/{name}.md" in overview
    assert {v.changes["model.name"] for v in load_study("models").variants} == set(MODELS)


def test_models_are_listed():
    result = CliRunner().invoke(main, ["models"])
    assert result.exit_code == 0 and all(name in result.output for name in MODELS)
    assert "13,133,234" in result.output and "12,481,973" in result.output


def test_an_unlabelled_class_has_weight_zero():
    weights = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    model = small("bigru", weights=weights)
    batch = random_batch((4, 3), speakers=3)
    output = model(batch)
    log_p = output.logits.log_softmax(-1).detach().numpy()
    y, w = batch.labels.numpy(), weights.numpy()[batch.labels.numpy()]
    assert float(model.loss(output, batch)) == pytest.approx(float((-w * log_p[np.arange(7), y]).sum() / w.sum()))
