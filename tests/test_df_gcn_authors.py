"""DF-GCN, variant "released", against results of the authors' public code for the same weights and inputs.

`data/df_gcn.npz` holds two cases, one with two speakers and class weights, one with nine speakers and none: four text
vectors, audio and visual features of two or three dialogues of different lengths, padded as their loader does, in which
some fourth text vectors are equal (which their graphs treat as one speaker); every weight, in the order of our sorted
parameter names; and the results in evaluation and in training with all dropout rates at 0. Their code ran in float64
with the width of its batch norms (1024, fixed) set to that of the text.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import dense, packing, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs
from erc_toolkit.train.models.df_gcn.model import DFGCN, Settings
from erc_toolkit.train.models.df_gcn.variants import VARIANTS
from erc_toolkit.train.models.registry import model_class

VECTORS = Path(__file__).parent / "data" / "df_gcn.npz"
MODALITIES = ("text", "audio", "visual")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    """The arrays of one case by name."""
    with np.load(VECTORS, allow_pickle=False) as file:
        prefix = request.param + "/"
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}


def build(case):
    """Our model with the authors' weights, in float64, and the batch."""
    features = {m: case[m].double() for m in MODALITIES}
    config = Settings(
        variant="released",
        hidden=int(case["hidden"]),
        heads=int(case["heads"]),
        window=int(case["window"]),
        dropout=0.0,
        graph_dropout=0.0,
        text_layers=4,
    )
    weights = case["class_weights"].double() if "class_weights" in case else None
    dims = {m: x.shape[-1] for m, x in features.items()}
    model = DFGCN(config, dims, int(case["slots"]), torch.ones(int(case["classes"])), weights).double()
    parameters = dict(sorted(model.named_parameters()))
    chunks = case["weights"].double().split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), chunks, strict=True):
            parameter.copy_(values.view_as(parameter))
        model.fusion.box.copy_(case["box"])
        norm = model.streams["text"].norm
        norm.running_mean.copy_(case["running_mean"])
        norm.running_var.copy_(case["running_var"])
    mask = case["mask"]
    batch = Batch(
        {m: x[mask] for m, x in features.items()},
        dict.fromkeys(MODALITIES, torch.ones(int(mask.sum()), dtype=torch.bool)),
        case["speakers"].long()[mask],
        case["labels"].long()[mask],
        *packing(mask.sum(1).tolist()),
    )
    return model, batch


def check(case, mode, model, output, batch):
    mask = case["mask"]
    torch.testing.assert_close(output.logits, case[f"{mode}/logits"][mask], **TOLERANCE)
    for modality in MODALITIES:
        expected = case[f"{mode}/log_probabilities/{modality}"][mask]
        torch.testing.assert_close(output.unimodal[modality].log_softmax(-1), expected, **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss.detach(), case[f"{mode}/loss"], **TOLERANCE)
    return loss


def test_logits_and_loss_in_evaluation_equal_the_authors(case):
    model, batch = build(case)
    check(case, "eval", model, model.eval()(batch), batch)


def test_logits_loss_gradients_and_statistics_in_training_equal_the_authors(case):
    model, batch = build(case)
    check(case, "train", model, model.train()(batch), batch).backward()
    parameters = {n: p for n, p in sorted(model.named_parameters()) if p.requires_grad}
    chunks = case["train/gradients"].double().split([p.numel() for p in parameters.values()])
    for (name, parameter), expected in zip(parameters.items(), chunks, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected.view_as(parameter), **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}"
        )
    norm = model.streams["text"].norm
    torch.testing.assert_close(norm.running_mean, case["train/running_mean"], **TOLERANCE)
    torch.testing.assert_close(norm.running_var, case["train/running_var"], **TOLERANCE)


def test_graphs_equal_the_authors_if_equal_texts_are_one_speaker(case):
    _, batch = build(case)
    lengths = batch.offsets.diff().tolist()
    twins = batch.features["text"].unflatten(1, (4, -1))[:, -1].unique(dim=0, return_inverse=True)[1]
    graphs = speaker_graphs(twins, batch.dialogue, int(case["window"]), max(lengths))
    for ours, theirs in zip(graphs, (case["inter"], case["intra"]), strict=True):
        expected = torch.block_diag(*(theirs[row, :n, :n].long() for row, n in enumerate(lengths)))
        assert torch.equal(dense(ours), expected)
    assert (dense(graphs[1]) > 1).any()


@pytest.mark.parametrize("switch", ["padding", "text_as_speaker", "text_encoder_again"])
def test_the_results_depend_on_every_bug(case, switch):
    """Without one of them the logits differ from the authors', so the comparison above would fail."""
    model, batch = build(case)
    changed = dataclasses.replace(VARIANTS["released"], **{switch: False})
    if switch == "text_encoder_again":
        torch.manual_seed(0)
        model.fusion.encoder = type(model.streams["text"].encoder)(
            int(case["hidden"]), int(case["heads"]), 0.0
        ).double()
    model.switches = changed
    output = model.eval()(batch)
    assert not torch.allclose(output.logits, case["eval/logits"][case["mask"]], **TOLERANCE)


@pytest.mark.parametrize(
    "recipe, dims, speakers, classes, published",
    [("df-gcn-iemocap", (1582, 342), 2, 6, 12_846_760), ("df-gcn-meld", (300, 342), 9, 7, 12_196_016)],
)
def test_parameters_equal_the_authors_except_unused_ones(recipe, dims, speakers, classes, published):
    """Omitted: an encoder that is never called, the layer with the initial matrix, a map in each graph block."""
    encoder, donor, unused = 6 * (512 * 512 + 512) + 2 * 1024, 2 * 512 * 512 + 512, 2 * (512 * 512 + 512)
    config = load_config(recipe, ["model.variant=released", "model.text_layers=4"]).model
    with torch.device("meta"):
        sizes = dict(zip(MODALITIES, (4 * 1024, *dims), strict=True))
        model = model_class("df-gcn")(config, sizes, speakers, torch.ones(classes))
    total = sum(p.numel() for p in model.parameters())
    assert total == published - encoder - donor - unused
    mlp = sum(p.numel() for p in model.fusion.mlp.parameters())
    assert encoder + donor + unused + mlp == 3_153_408 and not any(
        p.requires_grad for p in model.fusion.mlp.parameters()
    )


def test_it_runs_on_a_batch_without_padding():
    batch = random_batch((4, 4), speakers=2)
    torch.manual_seed(0)
    config = Settings(variant="released", hidden=8, heads=2, window=2)
    model = DFGCN(config, {m: x.shape[1] for m, x in batch.features.items()}, 2, torch.ones(3)).double().eval()
    padded = model(batch).logits
    model.switches = dataclasses.replace(model.switches, padding=False)
    torch.testing.assert_close(model(batch).logits, padded)
