"""CFN-ESA against results of the authors' public code.

`data/cfn-esa.npz` holds two cases in evaluation mode: "iemocap" with class weights, "meld" with the loss of their MELD
script. Random features of three or four dialogues that were padded for their code, in which padding takes part; every
weight (in the order of our sorted parameter names), and logits, both losses and gradients. The code ran in float64;
weights and gradients are stored in float32.
"""

import dataclasses

import numpy as np
import pytest
import torch
from test_dialoguernn import TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, random_batch, rows

from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.sequences import emotion_shift
from erc_toolkit.train.layers.sequences.emotion_shift import EmotionShift
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.sequences.cfn_esa import CFNESA, Settings

SMALL = Settings(hidden=8, heads=2, layers=2, shift_hidden=4)


def author_model(name, case, **changes):
    """Our model with the authors' sizes and weights."""
    sizes = {size: int(case[size]) for size in ("hidden", "heads", "layers", "encoder_layers", "shift_hidden")}
    rates = {rate: float(case[rate]) for rate in ("shift_share", "shift_weight")}
    loss = "released" if name == "meld" else "nll"
    settings = dataclasses.replace(Settings(**sizes, **rates, loss=loss, padded=True), **changes)
    dims = dict(zip(DIMS, case["dims"].tolist(), strict=True))
    weights = case["class_weights"].double() if len(case["class_weights"]) else None
    model = CFNESA(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"])), weights)
    model = model.double().eval()
    model.class_weights = weights
    put_weights(model, case["weights"])
    return model


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_logits_loss_and_gradients_equal_the_authors(name):
    case = read_case("cfn-esa.npz", name)
    model, batch = author_model(name, case), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits"], **TOLERANCE)
    first, second = output.parts["first"], output.parts["second"]
    shift = model.shift.loss(first, second, batch.labels, batch.offsets, model.shift_weights)
    torch.testing.assert_close(shift, case["shift_loss"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])
    assert sum(p.numel() for p in model.parameters()) == int(case["theirs"])


def test_padding_takes_part_only_if_it_is_set():
    """Without it, only the longest dialogue, which has no padding, has the logits of their code."""
    case = read_case("cfn-esa.npz", "iemocap")
    batch = case_batch(case)
    found = author_model("iemocap", case, padded=False)(batch).logits
    longest = rows(batch, int(batch.offsets.diff().argmax()))
    torch.testing.assert_close(found[longest], case["logits"][longest], **TOLERANCE)
    assert float((found - case["logits"]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("corpus, theirs", [("iemocap", 67_083_656), ("meld", 25_152_777)])
def test_recipes_have_the_scripts_settings(corpus, theirs):
    """Settings of their two scripts, and the size of the models that they make."""
    config = load_config(f"cfn-esa-{corpus}")
    train, model = config.train, config.model
    scripts = {
        "iemocap": (512, 5, 0.2, 0.4, 1.0, 0.4364, 32, 2e-5, 80),
        "meld": (384, 3, 0.15, 0.3, 0.9, 0.5047, 64, 1e-5, 60),
    }
    found = (model.hidden, model.layers, model.encoder_dropout, model.dropout, model.shift_weight, model.shift_share)
    assert (*found, train.batch_size, train.lr, train.epochs) == scripts[corpus]
    assert (model.heads, model.encoder_layers, model.shift_hidden, model.shift_dropout) == (8, 2, 128, 0.05)
    assert (train.optimizer, train.weight_decay) == ("adamw", 1e-5)
    assert (model.loss, train.class_weights) == {"iemocap": ("nll", "balanced"), "meld": ("released", "none")}[corpus]
    audio, classes = {"iemocap": (1582, 6), "meld": (300, 7)}[corpus]
    with torch.device("meta"):
        network = CFNESA(model, {"text": 1024, "audio": audio, "visual": 342}, 2, torch.ones(classes))
    assert sum(p.numel() for p in network.parameters()) == theirs


@pytest.mark.parametrize("pairs", [1, 100, 1 << 24])
def test_shift_loss_equals_a_loop_over_pairs(pairs, monkeypatch):
    """However many pairs are worked on at a time; unlabelled utterances are in none."""
    monkeypatch.setattr(emotion_shift, "PAIRS", pairs)
    torch.manual_seed(0)
    layer, weights = EmotionShift(4, 3, 0.0).double(), torch.tensor([0.7, 1.5], dtype=torch.float64)
    batch = random_batch((5, 1, 3), unlabelled=0.3)
    x, y = torch.randn(2, 9, 4, dtype=torch.float64)
    total = weight = 0.0
    for dialogue in range(3):
        part = rows(batch, dialogue)
        labelled = [i for i in range(part.start, part.stop) if batch.labels[i] >= 0]
        for i in labelled:
            for j in labelled:
                differ = int(batch.labels[i] != batch.labels[j])
                logits = layer.output(torch.relu(layer.pair(torch.cat([x[i], y[j]]))))
                total = total - weights[differ] * logits.log_softmax(0)[differ]
                weight = weight + weights[differ]
    found = layer.loss(x, y, batch.labels, batch.offsets, weights)
    torch.testing.assert_close(found, total / weight)


def test_the_second_of_a_pair_has_a_pass_of_its_own_in_training():
    torch.manual_seed(0)
    model = CFNESA(SMALL, DIMS, 3, torch.ones(3)).double()
    batch = random_batch((4, 5))
    parts = model.train()(batch).parts
    assert not torch.equal(parts["first"], parts["second"])
    parts = model.eval()(batch).parts
    assert torch.equal(parts["first"], parts["second"])


@pytest.mark.parametrize("padded", [False, True])
def test_an_absent_feature_has_no_influence(padded):
    torch.manual_seed(0)
    counts = torch.tensor([6.0, 3.0, 1.0])
    model = CFNESA(dataclasses.replace(SMALL, padded=padded), DIMS, 3, counts).double().eval()
    batch = random_batch((7, 5), speakers=3, absent=0.3, seed=1)
    for present in batch.present.values():
        present[2] = False
    batch.present["text"][7:] = False  # the hub, in a whole dialogue
    before = model(batch).logits
    torch.testing.assert_close(before[2].softmax(-1), counts.double() / 10)
    for m, x in batch.features.items():
        x[~batch.present[m]] = 9.0
    torch.testing.assert_close(model(batch).logits, before)
    if padded:
        return  # padding is heard in every modality
    with torch.no_grad():
        model.layers[0].own["text"].output.weight.mul_(2)
    after = model(batch).logits
    torch.testing.assert_close(after[7:], before[7:])  # where nobody's text is present, nothing of it is heard
    assert not torch.allclose(after[:7], before[:7])


def test_build_from_the_demo_recipe():
    model = build_model(load_config("cfn-esa-demo"), DIMS, 3, np.ones(3))
    assert isinstance(model, CFNESA)
