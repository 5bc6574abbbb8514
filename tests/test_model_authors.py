"""AMB-DSGDN against results of the authors' public code for the same weights and inputs.

`data/amb_dsgdn.npz` holds two cases, one with IEMOCAP's two speakers and class weights, one with MELD's nine speakers
and none: random features of four or five dialogues (padded, as their code requires), every weight (in the order of our
sorted parameter names), the graphs, and the results in evaluation, in training with all dropout rates at 0, and in
training with a recorded draw of modality dropout. The code ran in float64 throughout; weights and gradients are stored
in float32.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import dense, packing

from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN, Settings

VECTORS = Path(__file__).parent / "data" / "amb_dsgdn.npz"
MODALITIES = ("text", "audio", "visual")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    """The arrays of one case by name."""
    with np.load(VECTORS, allow_pickle=False) as file:
        prefix = request.param + "/"
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}


def build(case):
    """Our model with the authors' weights, in float64, and the batch."""
    features = {m: case[f"features/{m}"].double() for m in MODALITIES}
    config = Settings(
        hidden=int(case["hidden"]),
        heads=int(case["heads"]),
        window=int(case["window"]),
        dropout=0.0,
        graph_dropout=0.0,
        q_base=0.3,
        lam=0.9,
        p_exe=1.0,
        dropout_warm_up=1,
    )
    dims = {m: x.shape[-1] for m, x in features.items()}
    counts = torch.ones(len(case["class_weights"]))
    model = AMBDSGDN(config, dims, int(case["speaker_slots"]), counts, case["class_weights"]).double()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["weights"].double().split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), chunks, strict=True):
            parameter.copy_(values.view_as(parameter))
    mask = case["mask"]
    batch = Batch(
        {m: x[mask] for m, x in features.items()},
        dict.fromkeys(MODALITIES, torch.ones(int(mask.sum()), dtype=torch.bool)),
        case["speakers"].long()[mask],
        case["labels"].long()[mask],
        *packing(mask.sum(1).tolist()),
    )
    return model, batch


def check_logits(case, name, output):
    mask = case["mask"]
    torch.testing.assert_close(output.logits, case[f"{name}/logits"][mask], **TOLERANCE)
    for modality, logits in output.unimodal.items():
        expected = case[f"{name}/log_probabilities/{modality}"]
        torch.testing.assert_close(logits.log_softmax(-1), expected[mask], **TOLERANCE)


def check_loss_and_gradients(case, name, model, output, batch):
    loss = model.loss(output, batch)
    loss.backward()
    torch.testing.assert_close(loss.detach(), case[f"{name}/loss"], **TOLERANCE)
    parameters = {n: p for n, p in sorted(model.named_parameters()) if p.requires_grad}
    chunks = case[f"{name}/gradients"].double().split([p.numel() for p in parameters.values()])
    for (parameter_name, parameter), expected in zip(parameters.items(), chunks, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected.view_as(parameter), **TOLERANCE, msg=lambda text, n=parameter_name: f"{n}: {text}"
        )


def test_graphs_equal_the_authors(case):
    lengths = case["mask"].sum(1).tolist()
    dialogue, _ = packing(lengths)
    speakers = case["speakers"].long()[case["mask"]]
    graphs = speaker_graphs(speakers, dialogue, int(case["window"]), max(lengths))
    for ours, theirs in zip(graphs, (case["inter"], case["intra"]), strict=True):
        expected = torch.block_diag(*(theirs[row, :n, :n].long() for row, n in enumerate(lengths)))
        assert torch.equal(dense(ours), expected)


def test_logits_in_evaluation_equal_the_authors(case):
    model, batch = build(case)
    check_logits(case, "eval", model.eval()(batch))


def test_logits_loss_and_gradients_in_training_equal_the_authors(case):
    model, batch = build(case)
    output = model.train()(batch, epoch=0)
    assert output.ratios is None
    check_logits(case, "train", output)
    check_loss_and_gradients(case, "train", model, output, batch)


def test_ratios_logits_loss_and_gradients_with_modality_dropout_equal_the_authors(case, monkeypatch):
    model, batch = build(case)
    kept = case["dropped/kept"]
    # A draw of 1 keeps, a draw of 0 drops; the draw without a shape enables dropout in this step.
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: kept.float() if shape[0] else torch.zeros(()))
    output = model.train()(batch, epoch=1)
    torch.testing.assert_close(output.ratios.double(), case["dropped/ratios"], **TOLERANCE)
    assert not kept.all() and kept.any(0).all()
    check_logits(case, "dropped", output)
    check_loss_and_gradients(case, "dropped", model, output, batch)
