"""DEDNet against results of the authors' public code.

`data/dednet.npz` holds two cases in evaluation mode: "iemocap" with two speakers and class weights, "meld" with nine
speakers and none. Random features of three or four dialogues that were padded for their code, with the subgraphs that
their loaders make; every weight (in the order of our sorted parameter names), and logits, log probabilities of the
modalities, loss and gradients. The code ran in float64; weights and gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from test_dialoguernn import TOLERANCE, case_batch, put_weights, read_case
from test_train_support import DIMS, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.subgraphs.dednet import DEDNet, Settings


def author_model(case):
    """Our model with the authors' sizes and weights."""
    sizes = {name: int(case[name]) for name in ("hidden", "heads", "window")}
    dims = dict(zip(DIMS, case["dims"].tolist(), strict=True))
    weights = case["class_weights"] if len(case["class_weights"]) else None
    model = DEDNet(Settings(**sizes), dims, int(case["speaker_slots"]), torch.ones(int(case["classes"])), weights)
    model = model.double().eval()
    if weights is not None:
        model.class_weights = weights.double()
    put_weights(model, case["weights"])
    return model


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_logits_loss_and_gradients_equal_the_authors(name):
    case = read_case("dednet.npz", name)
    model, batch = author_model(case), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits"], **TOLERANCE)
    for modality, expected in zip(DIMS, case["log_probabilities"], strict=True):
        torch.testing.assert_close(output.unimodal[modality].log_softmax(-1), expected, **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    trainable = {n: p for n, p in sorted(model.named_parameters()) if p.requires_grad}
    chunks = case["gradients"].double().split([p.numel() for p in trainable.values()])
    for (parameter, p), expected in zip(trainable.items(), chunks, strict=True):
        torch.testing.assert_close(
            p.grad, expected.view_as(p), **TOLERANCE, msg=lambda text, n=parameter: f"{n}: {text}"
        )
    assert sum(p.numel() for p in model.parameters()) == int(case["theirs"])


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_recipes_have_the_scripts_settings(corpus):
    config = load_config(f"dednet-{corpus}")
    scripts = {"iemocap": (512, 20, 16, 1e-4, 100), "meld": (256, 5, 8, 5e-5, 20)}
    train, model = config.train, config.model
    assert (model.hidden, model.window, train.batch_size, train.lr, train.epochs) == scripts[corpus]
    assert (model.heads, model.dropout, train.weight_decay) == (8, 0.5, 5e-5)
    assert (train.class_weights == "balanced") == (corpus == "iemocap")


def test_relations_are_shared_and_text_alone_has_no_speakers():
    """The vectors of relations belong to the whole model; speakers are only in the encoders of audio and video."""
    torch.manual_seed(0)
    counts = torch.ones(3)
    model = DEDNet(Settings(hidden=8, heads=2, window=2), {"text": 12}, 2, counts).double().eval()
    assert [name for name in model.state_dict() if "relation" in name and "score" not in name] == ["relation"]
    assert model.speaker_use == "identity"
    batch = random_batch((4, 5), {"text": 12}, speakers=3)
    logits = model(batch).logits
    batch.speakers.sub_(2).neg_()  # other names of the same people
    torch.testing.assert_close(model(batch).logits, logits)


def test_an_utterance_without_modalities_has_the_prior():
    torch.manual_seed(0)
    counts = torch.tensor([6.0, 3.0, 1.0])
    model = DEDNet(Settings(hidden=8, heads=2, window=2), DIMS, 3, counts).double().eval()
    batch = random_batch((4, 5), speakers=3, absent=0.3, seed=1)
    for present in batch.present.values():
        present[2] = False
    torch.testing.assert_close(model(batch).logits[2].softmax(-1), counts.double() / 10)


def test_build_from_the_demo_recipe():
    model = build_model(load_config("dednet-demo"), DIMS, 3, np.ones(3))
    assert isinstance(model, DEDNet)
