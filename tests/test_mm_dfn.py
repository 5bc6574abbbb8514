"""MM-DFN against results of the authors' public code for the same weights and inputs.

`data/mm_dfn.npz` was created like `data/mmgcn.npz` (see `test_mmgcn.py`); both cases have the speaker weights and gamma
of their corpus's training script.
"""

import numpy as np
import pytest
import torch
from test_mmgcn import (
    KINDS,
    RNN,
    TOLERANCE,
    batch_of,
    build,
    check_loss_and_gradients,
    load,
    names,
    unused_in_their_code,
)
from test_train_support import cut, random_batch, rows

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.models.graphs.mm_dfn import MMDFN, Settings

NAMES = names(5) | {f"speaker_encoder.rnn.{part}": f"rnn_parties.{part}" for part in RNN}
NAMES |= {f"depth.{part}": f"graph_model.graph_net.rnn.{part}_l0" for part in KINDS}
SETTINGS = {
    "iemocap": {"speaker_text": 1.0, "speaker_audio": 3.0, "speaker_visual": 0.0, "gamma": 0.5},
    "meld": {"speaker_text": 1.5, "speaker_audio": 0.5, "speaker_visual": 0.5, "gamma": 1.0},
}


def settings(name, **changes):
    return Settings(size=8, graph_size=6, layers=5, dropout=0.0, **SETTINGS[name], **changes)


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_equal_the_authors(name):
    """In one padded batch with `padded`; without it, for a dialogue of one speaker alone, which needs no padding."""
    case = load("mm_dfn.npz", name)
    batch = batch_of(case)
    with torch.no_grad():
        logits = build(MMDFN, settings(name, padded=True), case, NAMES).eval()(batch).logits
        torch.testing.assert_close(logits.log_softmax(1), case["log_probabilities"], **TOLERANCE)
        logits = build(MMDFN, settings(name), case, NAMES).eval()(batch).logits
    last = rows(batch, 2)
    torch.testing.assert_close(logits.log_softmax(1)[last], case["alone"][last], **TOLERANCE)
    assert (case["log_probabilities"] - case["alone"])[last].abs().max() > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_equal_the_authors(name):
    case = load("mm_dfn.npz", name)
    check_loss_and_gradients(build(MMDFN, settings(name, padded=True), case, NAMES), case, NAMES)


def test_speakers_of_each_dialogue_are_encoded_separately():
    """The batched speaker GRU equals the GRU over the utterances of each speaker of each dialogue in turn."""
    torch.manual_seed(0)
    dims = {"text": 6, "audio": 5, "visual": 4}
    model = MMDFN(
        Settings(size=8, graph_size=4, layers=1, dropout=0.0, speaker_visual=0.5), dims, 3, torch.ones(3)
    ).double()
    batch = random_batch((7, 1, 5), dims, speakers=3, seed=1)
    x = {m: torch.randn(13, 8, dtype=torch.float64) for m in dims}
    found = model._by_speaker(x, batch)
    assert list(found) == ["text", "audio", "visual"]
    for modality, states in found.items():
        for d in range(3):
            part, speakers = rows(batch, d), cut(batch, d).speakers
            for speaker in speakers.unique():
                own = (speakers == speaker).nonzero()[:, 0] + part.start
                expected = model.speaker_encoder.rnn(x[modality][own][:, None])[0][:, 0]
                assert torch.allclose(states[own], expected, atol=1e-12)


@pytest.mark.parametrize(
    "dims, speakers, classes, layers, published",
    [
        ({"text": 100, "audio": 1582, "visual": 342}, 2, 6, 16, 2_064_415),
        ({"text": 100, "audio": 1582, "visual": 342}, 2, 6, 32, 2_064_415 + 16 * 20_000),
        ({"text": 600, "audio": 300, "visual": 342}, 9, 7, 16, 1_914_617),
    ],
)
def test_parameters(dims, speakers, classes, layers, published):
    """Their code builds unused layers, such as speaker embeddings; ours omits them."""
    with torch.device("meta"):
        model = MMDFN(Settings(layers=layers), dims, speakers, torch.ones(classes))
    unused = unused_in_their_code(speakers, classes) + 200 * speakers
    assert sum(p.numel() for p in model.parameters()) == published - unused


def test_loss_is_focal_and_not_divided_by_the_class_weights():
    weights = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    dims = {"text": 4}
    model = MMDFN(Settings(size=4, graph_size=2, layers=1, gamma=2.0), dims, 2, torch.ones(3), weights).double().eval()
    batch = random_batch((4, 3), dims, unlabelled=0.3, seed=5)
    output = model(batch)
    p = output.logits.softmax(1).detach().numpy()
    rows = [i for i, y in enumerate(batch.labels.tolist()) if y >= 0]
    y = batch.labels.numpy()
    losses = [-weights[y[i]].item() * (1 - p[i, y[i]]) ** 2 * np.log(p[i, y[i]]) for i in rows]
    assert 0 < len(rows) < 7 and float(model.loss(output, batch)) == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("name", ["mm-dfn", "mmgcn"])
def test_an_odd_width_is_rejected(name):
    with pytest.raises(UserError, match="model.size=7 must be even"):
        load_config("demo", [f"model.name={name}", "model.size=7"])
