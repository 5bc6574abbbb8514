"""SDT against results of the authors' public code for the same weights and inputs, and its number of parameters.

`data/sdt.npz` holds two cases, one with IEMOCAP's two speakers, learned gates, class weights and temperature 1, one
with MELD's nine speakers, fixed gates, no weights and temperature 8: random features of three or four dialogues of
different lengths, which their loader padded (the padding is removed here), every weight that affects the result (in the
order of our sorted parameter names), and in evaluation mode the logits, the loss and its gradients. The code ran in
float64 throughout; weights and gradients are stored in float32.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import DIMS, packing, random_batch

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.models.sequences.sdt import SDT, Settings

VECTORS = Path(__file__).parent / "data" / "sdt.npz"
MODALITIES = ("text", "audio", "visual")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    """The arrays of one case by name, including its own name."""
    with np.load(VECTORS, allow_pickle=False) as file:
        prefix = request.param + "/"
        found = {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}
    return found | {"gates": {"iemocap": "learned", "meld": "fixed"}[request.param]}


@pytest.fixture(scope="module")
def built(case):
    """Our model with the authors' weights, in float64, and the batch."""
    features = {m: case[f"features/{m}"].double() for m in MODALITIES}
    config = Settings(hidden=8, heads=2, dropout=0.5, gates=case["gates"], temperature=float(case["temperature"]))
    weights = case["class_weights"].double() if "class_weights" in case else None
    classes = case["logits/fused"].shape[1]
    dims = {m: x.shape[1] for m, x in features.items()}
    model = SDT(config, dims, int(case["speaker_slots"]), torch.ones(classes), weights).double().eval()
    with torch.no_grad():
        for (_, parameter), values in zip(*per_parameter(model, case["weights"]), strict=True):
            parameter.copy_(values.view_as(parameter))
    n = len(case["labels"])
    present = dict.fromkeys(MODALITIES, torch.ones(n, dtype=torch.bool))
    batch = Batch(features, present, case["speakers"].long(), case["labels"].long(), *packing(case["lengths"].tolist()))
    return model, batch


def per_parameter(model, values):
    """Our parameters with their names, sorted, and the stored values of each."""
    parameters = sorted(model.named_parameters())
    return parameters, values.double().split([p.numel() for _, p in parameters])


def test_logits_equal_the_authors(case, built):
    model, batch = built
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits/fused"], **TOLERANCE)
    assert list(output.unimodal) == list(MODALITIES)
    for modality, logits in output.unimodal.items():
        torch.testing.assert_close(logits, case[f"logits/{modality}"], **TOLERANCE)


def test_loss_and_gradients_equal_the_authors(case, built):
    model, batch = built
    model.zero_grad()
    loss = model.loss(model(batch), batch)
    torch.testing.assert_close(loss.detach(), case["loss"], **TOLERANCE)
    loss.backward()
    for (name, parameter), expected in zip(*per_parameter(model, case["gradients"]), strict=True):
        torch.testing.assert_close(
            parameter.grad, expected.view_as(parameter), **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}"
        )


# Published totals include parameters without effect, which are omitted here: nine LayerNorms before an attention that
# bypasses them (9 * 2 * 1024), the speaker table's row for padding (1024) and, on MELD, the nine matrices of the gates,
# which remain the identity (9 * 1024^2; the authors' count of trainable parameters omits those too).
NORMS, ROW, GATES = 9 * 2 * 1024, 1024, 9 * 1024**2


@pytest.mark.parametrize(
    "corpus, audio, speakers, classes, published",
    [("iemocap", 1582, 2, 6, 79_687_704), ("meld", 300, 9, 7, 78_386_204 - GATES)],
)
def test_recipes_have_the_published_number_of_parameters(corpus, audio, speakers, classes, published):
    with torch.device("meta"):
        dims = {"text": 1024, "audio": audio, "visual": 342}
        model = SDT(load_config(f"sdt-{corpus}").model, dims, speakers, torch.ones(classes))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == published - NORMS - ROW
    assert all(p.requires_grad for p in model.parameters())


def small(dims=DIMS, seed=0, **changes):
    torch.manual_seed(seed)
    return SDT(Settings(**{"hidden": 16, "heads": 2, "dropout": 0.0} | changes), dims, 2, torch.ones(3)).double().eval()


def test_an_encoder_for_every_ordered_pair():
    for dims in ({"text": 12}, {"audio": 10, "text": 12}, DIMS):
        targets = small(dims).targets
        assert list(targets) == list(dims)
        assert all(
            next(iter(target.encoders)) == m and set(target.encoders) == set(dims) for m, target in targets.items()
        )


def test_an_absent_modality_is_excluded_from_fusion_and_loss():
    """Whatever the values of its stream in that utterance, and as if its classifier had not been applied."""
    model, batch = small(), random_batch((4, 3), seed=3)
    batch.present["audio"][2] = False
    batch.features["audio"][2] = 0
    before = model(batch)
    loss = model.loss(before, batch)
    batch.features["audio"][2] = 100
    after = model(batch)
    torch.testing.assert_close(after.logits, before.logits)
    assert not torch.allclose(after.unimodal["audio"][2], before.unimodal["audio"][2])
    torch.testing.assert_close(model.loss(after, batch), loss)


def test_the_teacher_learns_from_its_students():
    """Without cross-entropies of the modalities, the fused classifier's gradient changes with the distillation."""
    batch = random_batch((4, 3), seed=5)
    gradients = []
    for weight in (0.0, 1.0):
        model = small(unimodal_weight=0.0, distillation_weight=weight)
        model.loss(model(batch), batch).backward()
        gradients.append((model.output.weight.grad, model.heads["text"].weight.grad))
    assert not torch.allclose(gradients[0][0], gradients[1][0]) and not gradients[0][1].any() and gradients[1][1].any()


def test_logits_of_an_utterance_without_modalities_are_the_fused_bias():
    model, batch = small(), random_batch((4, 3), absent=1.0)
    assert torch.equal(model(batch).logits, model.output.bias.expand(7, 3))


def test_contradictory_settings():
    with pytest.raises(UserError, match="multiple of model.heads=3"):
        load_config("sdt-demo", ["model.heads=3"])
