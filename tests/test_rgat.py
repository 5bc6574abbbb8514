"""RGAT against results of a third party's public code; its authors released none.

`data/rgat.npz` holds two cases: "iemocap" with two speakers and a position encoding for each relation, "meld" with nine
speakers, and an encoding for each relation and head. Random features of three or four dialogues, every weight (in the
order of our sorted parameter names), and logits, loss and gradients in evaluation, each dialogue alone as in their
script. A linear map took the place of their BERT. The code ran in float64; weights and gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from test_dialoguernn import TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.relations.relation_attention import ENCODINGS, RelationAttention, SpeakerRelations
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.graphs.rgat import RGAT, Settings


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_logits_loss_and_gradients_equal_the_third_partys(name):
    case = read_case("rgat.npz", name)
    window = int(case["window"])
    settings = Settings(
        hidden=int(case["hidden"]),
        heads=int(case["heads"]),
        past=window,
        future=window,
        encoding="relational" if case["relational"] else "heads",
    )
    dims = dict(zip(DIMS, case["dims"].tolist(), strict=True))
    model = RGAT(settings, dims, int(case["speaker_slots"]), torch.ones(int(case["classes"]))).double().eval()
    put_weights(model, case["weights"])
    batch = case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])
    assert sum(p.numel() for p in model.parameters()) == int(case["theirs"])


def slow(layer, x, batch, known, past, future):
    """The layer edge by edge, as in its docstring."""
    x = x.unflatten(1, layer.scale.shape[1:])
    rows = []
    for i in range(len(x)):
        scores, values = [], []
        for j in range(len(x)):
            apart = batch.dialogue[i] != batch.dialogue[j] or (past != -1 and i - j > past)
            if apart or (future != -1 and j - i > future) or not (known[j] or i == j):
                continue
            relation = (0 if batch.people[i] == batch.people[j] else 2) + int(j >= i)
            scaled_i, scaled_j = layer.scale[relation] * x[i], layer.scale[relation] * x[j]
            score = (layer.query[relation] * scaled_i + layer.key[relation] * scaled_j).sum(-1)
            if layer.slope is not None:
                r = relation if len(layer.slope) > 1 else 0
                score = score + layer.slope[r] * (j - i) + layer.offset[r]
            scores.append(torch.nn.functional.leaky_relu(score, 0.2))
            values.append(scaled_j)
        weights = torch.stack(scores).softmax(0)
        rows.append((weights[..., None] * torch.stack(values)).sum(0).flatten())
    return torch.stack(rows) + layer.bias


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("past, future", [(2, 1), (0, 3), (-1, -1)])
def test_a_layer_equals_the_readable_implementation(encoding, past, future):
    torch.manual_seed(0)
    batch, known = random_batch((7, 1, 20), speakers=3), torch.rand(28) > 0.3
    layer = RelationAttention(12, 3, encoding).double()
    x = torch.randn(28, 12, dtype=torch.float64)
    found = layer(x, SpeakerRelations(batch.packing, batch.people, known, past, future))
    torch.testing.assert_close(found, slow(layer, x, batch, known, past, future))


def test_recipes_have_the_scripts_settings():
    for corpus in ("iemocap", "meld"):
        model = load_config(f"rgat-{corpus}").model
        assert (model.hidden, model.heads, model.layers, model.past, model.future) == (768, 8, 3, 5, 5)
    train = load_config("rgat-iemocap").train
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (40, 1, 2e-3, 0)


def test_an_utterance_without_modalities_has_the_prior_and_no_influence():
    torch.manual_seed(0)
    counts = torch.tensor([6.0, 3.0, 1.0])
    model = RGAT(Settings(hidden=16, heads=2), DIMS, 3, counts).double().eval()
    batch = random_batch((4, 5), speakers=3, absent=0.3, seed=1)
    found = []
    for value in (0.0, 5.0):
        for modality, present in batch.present.items():
            present[2] = False
            batch.features[modality][2] = value
        found.append(model(batch).logits)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0][2].softmax(-1), counts.double() / 10)


def test_speakers_names_do_not_matter():
    torch.manual_seed(0)
    model = RGAT(Settings(hidden=16, heads=2), DIMS, 3, torch.ones(3)).double().eval()
    batch = random_batch((4, 5), speakers=3)
    logits = model(batch).logits
    batch.people.sub_(2).neg_()  # other names of the same people
    torch.testing.assert_close(model(batch).logits, logits)
    batch.people[1] += 1
    assert not torch.allclose(model(batch).logits, logits)


def test_build_from_the_demo_recipe():
    model = build_model(load_config("rgat-demo"), DIMS, 3, np.ones(3))
    assert isinstance(model, RGAT)
