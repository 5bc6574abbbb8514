"""DialogueRNN against results of the authors' public code, and its recurrence against a readable implementation.

`data/dialoguernn.npz` holds two cases: "plain" as on IEMOCAP (general attention over the past, emotion attention, class
weights), "other" with nine speakers, two modalities, simple attention, changing listeners and no emotion attention.
Features of three or four dialogues that were padded for their code, every weight (in the order of our sorted parameter
names, the GRU matrices transposed and stacked, forward direction first), and the results in evaluation: log
probabilities, loss, gradients. The code ran in float64; weights and gradients are stored in float32.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import DIMS, packing, random_batch

from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.layers.sequences.dialogue_rnn import DialogueRecurrence
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.sequences.dialoguernn import DialogueRNN, Settings

DATA = Path(__file__).parent / "data"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}
MODALITIES = ("text", "audio", "visual")


def read_case(file, name):
    """The arrays of one case of a file of vectors, by name."""
    with np.load(DATA / file, allow_pickle=False) as arrays:
        return {k.removeprefix(f"{name}/"): torch.from_numpy(arrays[k]) for k in arrays if k.startswith(f"{name}/")}


def case_batch(case):
    """The batch of a case, features in float64, everything present."""
    widths = case["dims"].tolist()
    parts = case["features"].double().split(widths, 1)
    features = dict(zip(MODALITIES, parts, strict=False))  # a case may have fewer modalities
    present = dict.fromkeys(features, torch.ones(len(case["labels"]), dtype=torch.bool))
    return Batch(features, present, case["speakers"], case["labels"], *packing(case["lengths"].tolist()))


def put_weights(model, values):
    """Sets every parameter, in the order of their sorted names."""
    parameters = dict(sorted(model.named_parameters()))
    with torch.no_grad():
        for p, chunk in zip(
            parameters.values(), values.double().split([p.numel() for p in parameters.values()]), strict=True
        ):
            p.copy_(chunk.view_as(p))


def check_gradients(model, values):
    """Compares every gradient, in the order of the parameters' sorted names."""
    parameters = dict(sorted(model.named_parameters()))
    chunks = values.double().split([p.numel() for p in parameters.values()])
    for (name, p), expected in zip(parameters.items(), chunks, strict=True):
        torch.testing.assert_close(
            p.grad, expected.view_as(p), **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", ["plain", "other"])
def test_log_probabilities_loss_and_gradients_equal_the_authors(name):
    case = read_case("dialoguernn.npz", name)
    batch, other = case_batch(case), name == "other"
    dialogue, party, emotion, hidden = case["sizes"].tolist()
    config = Settings(
        dialogue=dialogue,
        party=party,
        emotion=emotion,
        hidden=hidden,
        context="simple" if other else "general",
        listener=other,
        attention=not other,
    )
    dims = {m: x.shape[1] for m, x in batch.features.items()}
    weights = case["class_weights"].double()
    model = DialogueRNN(config, dims, int(case["speaker_slots"]), torch.ones(len(weights)), weights).double().eval()
    put_weights(model, case["weights"])
    output = model(batch)
    torch.testing.assert_close(output.logits.log_softmax(-1), case["log_probabilities"], **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])


@pytest.mark.parametrize(
    "corpus, dims, speakers, classes, expected",
    [("iemocap", {"text": 100}, 2, 6, 8_880_406), ("meld", {"text": 600, "audio": 300}, 9, 7, 2_666_607)],
)
def test_number_of_parameters_equals_the_authors(corpus, dims, speakers, classes, expected):
    """The count of their BiModel with the sizes of their scripts; all are used, and speakers have no weights."""
    with torch.device("meta"):
        model = build_model(load_config(f"dialoguernn-{corpus}"), dims, speakers, np.ones(classes))
    assert sum(p.numel() for p in model.parameters()) == expected


def slow(layer, x, speakers, offsets):
    """The recurrence utterance by utterance, as in its docstring; x [streams, N, dim]."""

    def gru(cells, cell, inputs, state):
        gates = sum(part @ w[cell] for part, w in zip(inputs, cells.inputs, strict=True)) + cells.input_bias[cell, 0]
        recurrent = state @ cells.hidden[cell] + cells.hidden_bias[cell, 0]
        (i_r, i_z, i_n), (h_r, h_z, h_n) = gates.chunk(3), recurrent.chunk(3)
        r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
        return (1 - z) * torch.tanh(i_n + r * h_n) + z * state

    found = x.new_zeros(len(x), x.shape[1], layer.directions, layer.emotion.hidden.shape[1])
    for stream in range(len(x)):
        for direction in range(layer.directions):
            cell = stream * layer.directions + direction
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                g, e = (x.new_zeros(cells.hidden.shape[1]) for cells in (layer.dialogue, layer.emotion))
                parties = [x.new_zeros(layer.party.hidden.shape[1])] * layer.slots
                past = []
                for row in range(start, end)[:: -1 if direction else 1]:
                    u, s = x[stream, row], int(speakers[row])
                    before = g
                    g = gru(layer.dialogue, cell, (u, parties[s]), before)
                    context = torch.zeros_like(g)
                    if past:
                        query = u @ layer.score[cell] if layer.matched else layer.score[cell, :, 0]
                        weights = (torch.stack(past) @ query).softmax(0)
                        context = weights @ torch.stack(past)
                    q = gru(layer.party, cell, (u, context), parties[s])
                    if layer.listener is not None:
                        parties = [gru(layer.listener, cell, (u, q), old) for old in parties]
                    parties = [q if i == s else old for i, old in enumerate(parties)]
                    e = gru(layer.emotion, cell, (q,), e)
                    past.append(g)
                    found[stream, row, direction] = e
    return found.flatten(2)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    streams=st.integers(1, 3),
    attention=st.sampled_from(["general", "simple"]),
    listener=st.booleans(),
    bidirectional=st.booleans(),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 300.0]),
)
def test_the_recurrence_equals_the_readable_implementation(
    lengths, streams, attention, listener, bidirectional, seed, scale
):
    torch.manual_seed(seed)
    layer = DialogueRecurrence(streams, 4, 5, 3, 2, 3, attention, listener, bidirectional).double()
    with torch.no_grad():
        layer.score.mul_(scale)  # large scores must not overflow
    n = sum(lengths)
    x, speakers, offsets = torch.randn(streams, n, 4, dtype=torch.float64), torch.randint(3, (n,)), packing(lengths)[1]
    weights = torch.randn(n, 2 * layer.directions, dtype=torch.float64)
    found = []
    for run in (layer, lambda *given: slow(layer, *given)):
        layer.zero_grad()
        states = run(x, speakers, offsets)
        (states * weights).sum().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in layer.parameters()]
        found.append([states.detach(), *gradients])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_each_direction_depends_only_on_its_side():
    """The forward half of a state is independent of what follows, the backward half of what came before."""
    torch.manual_seed(0)
    layer = DialogueRecurrence(1, 4, 5, 3, 2, 2).double()
    x, speakers, offsets = torch.randn(1, 9, 4, dtype=torch.float64), torch.randint(2, (9,)), packing((6, 3))[1]
    changed = x.clone()
    changed[0, 2] += 1
    moved = (layer(changed, speakers, offsets) - layer(x, speakers, offsets)).abs()[0] > 1e-12
    assert moved[2:6, :2].all() and not moved[:2, :2].any()
    assert moved[:3, 2:].all() and not moved[3:6, 2:].any()
    assert not moved[6:].any()


def test_absent_modalities_are_zeros_in_the_concatenation():
    torch.manual_seed(0)
    batch = random_batch((4, 2), absent=0.5, seed=3)
    model = DialogueRNN(Settings(dialogue=6, party=6, emotion=4, hidden=8), DIMS, 2, torch.ones(3)).double().eval()
    assert not batch.present["audio"].all()
    side = (
        DialogueRNN(Settings(dialogue=6, party=6, emotion=4, hidden=8), {"text": 30}, 2, torch.ones(3)).double().eval()
    )
    side.load_state_dict(model.state_dict())
    joined = Batch(
        {"text": torch.cat([batch.features[m] for m in DIMS], 1)},
        {"text": torch.ones(6, dtype=torch.bool)},
        batch.speakers,
        batch.labels,
        batch.dialogue,
        batch.offsets,
    )
    assert torch.equal(model(batch).logits, side(joined).logits)


def test_dropout_of_states_is_only_in_training():
    layer = DialogueRecurrence(2, 4, 5, 3, 2, 2, rate=0.5)
    x, speakers, offsets = torch.randn(2, 5, 4), torch.randint(2, (5,)), packing((5,))[1]
    states = layer.train()(x, speakers, offsets)
    assert 0.2 < float((states == 0).float().mean()) < 0.8
    assert (layer.eval()(x, speakers, offsets) != 0).all()
