"""MMGCN against results of the authors' public code for the same weights and inputs.

`data/mmgcn.npz` holds two cases, one with IEMOCAP's two speakers, class weights and loss, one with MELD's: three random
dialogues, concatenated, every weight in use (under its name in their code), the log-probabilities of the three
dialogues padded together, those of each dialogue alone, and loss and gradients in training with dropout rates of 0. The
code ran in float64; weights and gradients are stored in float32. The last dialogue has a single speaker.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import packing

from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.models.graphs.mmgcn import MMGCN, Settings, released_loss

DATA = Path(__file__).parent / "data"
THEIR_LETTERS = {"audio": "a", "visual": "v", "text": "l"}  # in the order of their readout
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
RNN = [f"{kind}_l{layer}{way}" for layer in (0, 1) for kind in KINDS for way in ("", "_reverse")]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


def load(file, name):
    """The arrays of one case by name."""
    with np.load(DATA / file, allow_pickle=False) as content:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(content[key])
            for key in content
            if key.startswith(f"{name}/")
        }


def batch_of(case):
    features = {m: case[f"features/{m}"].double() for m in ("text", "audio", "visual")}
    rows = len(case["labels"])
    return Batch(
        features,
        dict.fromkeys(features, torch.ones(rows, dtype=torch.bool)),
        case["speakers"].long(),
        case["labels"].long(),
        *packing(case["lengths"].tolist()),
    )


def names(layers):
    """Our parameters' names to theirs, for what both models share."""
    found = {"output.weight": "smax_fc.weight", "output.bias": "smax_fc.bias"}
    for kind in ("weight", "bias"):
        found |= {f"projections.{m}.{kind}": f"linear_{letter}.{kind}" for m, letter in THEIR_LETTERS.items()}
        found[f"first.{kind}"] = f"graph_model.graph_net.fcs.0.{kind}"
    found |= {f"encoder.rnn.{part}": f"lstm_l.{part}" for part in RNN}
    return found | {f"layers.{k}.weight": f"graph_model.graph_net.convs.{k}.weight" for k in range(layers)}


def theirs(case, kind, names):
    """Our parameters' names to their weights or gradients, in our order of modalities."""
    found = {ours: case[f"{kind}/{their}"].double() for ours, their in names.items()}
    audio, visual, text = found["output.weight"].chunk(3, 1)
    return found | {"output.weight": torch.cat([text, audio, visual], 1)}


def build(model_class, settings, case, names):
    """Our model in float64 with their weights."""
    dims = {m: case[f"features/{m}"].shape[1] for m in ("text", "audio", "visual")}
    classes = case["log_probabilities"].shape[1]
    model = model_class(
        settings, dims, int(case["speaker_slots"]), torch.ones(classes), case.get("class_weights")
    ).double()
    weights = theirs(case, "weights", names)
    model.load_state_dict({n: weights.get(n, value) for n, value in model.state_dict().items()})
    assert set(weights) == {n for n, _ in model.named_parameters()}
    assert sum(p.numel() for p in model.parameters()) == sum(
        x.numel() for k, x in case.items() if k.startswith("weights/")
    )
    return model


def check_loss_and_gradients(model, case, names):
    batch = batch_of(case)
    loss = model.loss(model.train()(batch), batch)
    loss.backward()
    torch.testing.assert_close(loss.detach(), case["loss"], **TOLERANCE)
    gradients = theirs(case, "gradients", names)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}"
        )


NAMES = names(5) | {"speaker.weight": "graph_model.speaker_embeddings.weight"}


@pytest.fixture(scope="module", params=["iemocap", "meld"])
def case(request):
    return load("mmgcn.npz", request.param) | {"loss_name": {"iemocap": "nll", "meld": "released"}[request.param]}


def settings(case, **changes):
    return Settings(size=8, graph_size=6, layers=5, dropout=0.0, loss=case["loss_name"], **changes)


def test_logits_equal_the_authors(case):
    """In one padded batch, as from their loader, with `padded`; each dialogue alone without it."""
    for padded, expected in ((True, case["log_probabilities"]), (False, case["alone"])):
        with torch.no_grad():
            logits = build(MMGCN, settings(case, padded=padded), tensors(case), NAMES).eval()(batch_of(case)).logits
        torch.testing.assert_close(logits.log_softmax(1), expected, **TOLERANCE)
    assert (case["log_probabilities"] - case["alone"]).abs().max() > 1e-3


def test_loss_and_gradients_equal_the_authors(case):
    check_loss_and_gradients(build(MMGCN, settings(case, padded=True), tensors(case), NAMES), case, NAMES)


def tensors(case):
    return {k: x for k, x in case.items() if torch.is_tensor(x)}


def test_released_loss_excludes_unlabelled_utterances():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, -1, 0, -1])
    expected = 0.0
    for row in (0, 2):
        for c, log_p in enumerate(logits[row].log_softmax(0).tolist()):
            expected += -((1 - log_p * (c == labels[row])) ** 2.5) * log_p / 6
    assert float(released_loss(logits, labels)) == pytest.approx(float(expected))
    assert float(released_loss(logits, torch.full((4,), -1))) == 0


@pytest.mark.parametrize(
    "dims, speakers, classes, published",
    [
        ({"text": 100, "audio": 1582, "visual": 342}, 2, 6, 2_702_015),
        ({"text": 600, "audio": 300, "visual": 342}, 9, 7, 2_552_217),
    ],
)
def test_parameters(dims, speakers, classes, published):
    """Their code builds unused layers; ours omits them."""
    with torch.device("meta"):
        model = MMGCN(Settings(), dims, speakers, torch.ones(classes))
    unused = unused_in_their_code(speakers, classes)
    assert sum(p.numel() for p in model.parameters()) == published - unused


def unused_in_their_code(speakers, classes):
    """What both released models build but never use: 507,509 on IEMOCAP and 511,810 on MELD."""
    edges = 200 * 200 + (200 * 200 + 200) + 200 + (3 * (200 * 200 + 200) + 400)  # attention for edges, of DialogueGCN
    inputs = 3 * (200 * 200 + 200)  # linear maps before the graph
    readout = (900 * 100 + 100) + (100 * classes + classes)  # linear maps after it
    embeddings = 3 * 200 + 3 * speakers * 200  # of modalities, and of speakers in each modality
    gates = 3 * (300 * 100 + 100) + 3 * (900 + 1)  # gated fusion of modalities
    return edges + inputs + readout + embeddings + gates
