"""Every model on a device that is not there: nothing mixes devices, and training never makes the host wait."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_in import DEVICE, DeviceTensor, Mix, StandIn, host
from test_train_support import random_batch, write_store
from torch.utils._pytree import tree_flatten

from erc_toolkit.toolkit.base.device import to_device
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.features import read_feature
from erc_toolkit.train.loop.epoch import new_state
from erc_toolkit.train.loop.evaluation import predict
from erc_toolkit.train.loop.execution import Compiled, Recorded, bucket_of, check_execution
from erc_toolkit.train.loop.plan import make_plan, training_data
from erc_toolkit.train.loop.seeding import seed_everything
from erc_toolkit.train.loop.step import training_step
from erc_toolkit.train.models.registry import MODELS, model_class
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN
from erc_toolkit.train.studies.measures.cost import model_cost

DIMS = {"text": 8, "audio": 6, "visual": 5}
# Each of these takes another way through its model; the model's demo recipe with nothing changed is always there.
VARIANTS = {
    "amb-dsgdn": ["model.variant=paper model.encoder_window=2", "model.causal=true model.graph=attention"],
    "df-gcn": ["model.variant=repaired", "model.variant=released"],
    "graphsmile": ["model.edge_weights=batch model.padded=true", "model.edge_weights=none model.shift_window=-1"],
    "mmgcn": ["model.padded=true"],
    "rgat": ["model.encoding=heads", "model.encoding=none model.past=-1"],
    "m3net": ["model.padded=true model.numbering=batch model.loss=released"],
    "rl-emo": ["model.padded=true model.frozen=false model.episodes=dialogue"],
    "mm-dfn": ["model.padded=true train.class_weights=balanced"],
    "multiemo": ["model.recurrent_text=false model.bidirectional=false"],
}
CASES = [pytest.param(name, "", id=name) for name in MODELS]
CASES += [
    pytest.param(name, changes, id=f"{name} {changes}", marks=pytest.mark.slow)
    for name, several in VARIANTS.items()
    for changes in several
]
CAPTURABLE = ["amb-dsgdn", "logistic-regression", "transformer", "sdt", "dednet"]
# The released DF-GCN takes utterances with equal text vectors for one speaker's; equal rows are found by sorting.
WAITS = {("df-gcn", "model.variant=released"): {("unique_dim", "train/models/df_gcn/model.py")}}


# -- the stand-in itself


def test_results_are_those_of_the_host():
    torch.manual_seed(0)
    x, net = torch.randn(4, 3, 6), torch.nn.LSTM(6, 5, bidirectional=True)
    gru, norm = torch.nn.GRU(10, 4), torch.nn.LayerNorm(4)
    expected = norm(gru(net(x)[0])[0])
    expected.square().sum().backward()
    wanted = [p.grad.clone() for module in (net, gru, norm) for p in module.parameters()]
    with StandIn() as device:
        for module in (net, gru, norm):
            module.zero_grad()
            module.to(DEVICE)
        found = norm(gru(net(to_device(x, DEVICE))[0])[0])
        assert found.device == DEVICE
        found.square().sum().backward()
        grads = [host(p.grad) for module in (net, gru, norm) for p in module.parameters()]
        torch.optim.Adam(norm.parameters(), fused=True).step()
        torch.testing.assert_close(host(found), expected)
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    # The modules' own copies come from memory that is not pinned.
    assert device.waits and {wait.operation for wait in device.waits} <= {"_to_copy", "copy_"}


WAITING = {
    "item": lambda x, mask: x.sum().item(),
    "int": lambda x, mask: int(x.argmax()),
    "if": lambda x, mask: 1 if x.sum() > 0 else 0,
    "nonzero": lambda x, mask: mask.nonzero(),
    "boolean index": lambda x, mask: x[mask],
    "boolean put": lambda x, mask: x.index_put((mask,), x[0:1].expand(3)),
    "masked select": lambda x, mask: x.masked_select(mask),
    "index of the host": lambda x, mask: x[torch.tensor([1, 2])],
    "unique": lambda x, mask: x.unique(),
    "repeat": lambda x, mask: x.repeat_interleave(mask.long()),
    "to the host": lambda x, mask: x.cpu(),
    "list": lambda x, mask: x.tolist(),
    "from unpinned memory": lambda x, mask: torch.ones(2).to(DEVICE, non_blocking=True),
    "a new tensor of numbers": lambda x, mask: torch.tensor([1.0], device=DEVICE),
    "equal": lambda x, mask: torch.equal(x, x),
}
FREE = {
    "arithmetic with numbers of the host": lambda x, mask: 2 * x + torch.tensor(1.0),
    "index of the device": lambda x, mask: x[mask.long()],
    "fill where": lambda x, mask: torch.where(mask, x, 0).masked_fill(mask, 1),
    "new tensors": lambda x, mask: torch.arange(3, device=DEVICE) + torch.rand(3, device=DEVICE),
    "from pinned memory": lambda x, mask: to_device(torch.ones(2), DEVICE),
    "to pinned memory": lambda x, mask: x.to("cpu", non_blocking=True),
    "repeat to a known size": lambda x, mask: x.repeat_interleave(mask.long(), output_size=3),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", [*WAITING, *FREE])
def test_what_makes_the_host_wait(name, inference):
    with StandIn() as device, torch.inference_mode(inference):
        x = to_device(torch.arange(4.0), DEVICE)
        mask = to_device(torch.tensor([True, False, True, True]), DEVICE)
        with device.counting() as waits:
            {**WAITING, **FREE}[name](x, mask)
    assert bool(waits) == (name in WAITING), waits


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(4),
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: x @ torch.ones(4),
        lambda x: torch.ones(4).index_select(0, x.long()),
        lambda x: torch.where(torch.ones(4, dtype=torch.bool), x, 0),
    ],
)
def test_devices_do_not_mix(mixed, inference):
    with StandIn(), torch.inference_mode(inference):
        x = to_device(torch.zeros(4), DEVICE)
        with pytest.raises(Mix):
            mixed(x)


def test_a_device_without_float64():
    with StandIn(float64=False):
        with pytest.raises(Mix):
            torch.ones(2, dtype=torch.float64).to(DEVICE)
        with pytest.raises(Mix):
            torch.arange(3, device=DEVICE, dtype=torch.float64)


# -- the models


def test_a_batch_moves_without_a_wait():
    batch = random_batch((4, 1, 6), dtype=torch.float32)
    with StandIn() as device:
        moved = batch.to(DEVICE)
        assert not device.waits and moved.device == DEVICE and moved.offsets is batch.offsets
        assert moved.host_speakers.device.type == "cpu"
        for name in ("speakers", "labels", "dialogue", "place"):
            assert torch.equal(host(getattr(moved, name)), getattr(batch, name))
        for group in ("features", "present"):
            assert all(torch.equal(host(x), getattr(batch, group)[m]) for m, x in getattr(moved, group).items())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stand_in") / "store.h5"
    write_store(path, sizes={"train": 5, "val": 2, "test": 3}, dims=DIMS)
    with FeatureStore.open(path) as opened:
        yield opened


class Case:
    """A model of small size with the store's data, on the host and as a copy on the stand-in."""

    def __init__(self, store: FeatureStore, name: str, changes: str) -> None:
        recipe = "demo" if name == "amb-dsgdn" else f"{name}-demo"
        fixed = ["train.batch_size=5", "train.epochs=3", "train.max_grad_norm=1", "data.speaker_slots=null"]
        self.config = load_config(recipe, [*fixed, *changes.split()])
        for key, value in {
            "hidden": 16,
            "graph_hidden": 8,
            "dropout_warm_up": 0,
            "p_exe": 1.0,
            "layers": 2,
            "coarse": None,
            "sentiments": [0, 1, 2],
        }.items():
            if hasattr(self.config.model, key):
                setattr(self.config.model, key, value)
        self.plan = make_plan(store, self.config)
        seed_everything(0)
        self.model = self.plan.model()

    def data(self) -> Any:
        return training_data(self.plan, {m: read_feature(self.plan.store, f) for m, f in self.plan.features.items()})[0]

    def batch(self, data):
        return data.batch(torch.from_numpy(self.plan.division.train))


def numbers(model, batch):
    """Logits, loss and gradients without dropout."""
    model.eval()
    model.zero_grad()
    output = model(batch)
    loss = model.loss(output, batch)
    loss.backward()
    found = [output.logits, loss, *(p.grad for p in model.parameters() if p.grad is not None)]
    return [host(x.detach()) for x in found]


@pytest.mark.parametrize("name, changes", CASES)
def test_a_model_on_a_device(store, name, changes):
    case = Case(store, name, changes)
    expected = numbers(copy.deepcopy(case.model), case.batch(case.data()))
    with StandIn() as device:
        data = case.data().to(DEVICE)
        model = case.model.to(DEVICE)
        found = numbers(model, case.batch(data))
        state = new_state(model, case.config.train)
        model.train()
        training_step(model, state.optimizer, case.batch(data), 2, case.config.train)  # the optimizer begins
        with device.counting() as waits:
            outcome = training_step(model, state.optimizer, case.batch(data), 2, case.config.train)
        assert outcome.grad_norm is not None and (outcome.ratios is not None) == (name == "amb-dsgdn")
        with device.counting() as at_end:
            predict(model, data, case.plan.division.test, 2)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert {(wait.operation, wait.line.split(":")[0]) for wait in waits} == WAITS.get((name, changes), set())
    own = len(case.plan.features) if name in ("amb-dsgdn", "sdt", "df-gcn", "graphcfc", "dednet") else 0
    results = [wait for wait in at_end if wait.line.startswith("train/loop/evaluation.py")]
    assert len(results) == 3 + own  # logits, losses, their weights, and the classes of each modality
    assert {wait.operation for wait in at_end if wait not in results} == {
        op for op, _ in WAITS.get((name, changes), ())
    }


@pytest.mark.slow
@pytest.mark.parametrize("name, changes", CASES)
def test_a_model_on_a_device_without_float64(store, name, changes):
    case = Case(store, name, changes)
    with StandIn(float64=False):
        data, model = case.data().to(DEVICE), case.model.to(DEVICE)
        state = new_state(model, case.config.train)
        training_step(model.train(), state.optimizer, case.batch(data), 2, case.config.train)
        predict(model, data, case.plan.division.test, 2)


# -- recorded steps


class Again:
    """Records by computing again: results are copied over those of the first time."""

    def __init__(self, device: StandIn | None = None) -> None:
        self.device, self.copies = device, []

    def record(self, work):
        def watched():
            before = len(self.device.copies) if self.device else 0
            results = work()
            self.copies += self.device.copies[before:] if self.device else []
            return results

        results = watched()

        def repeat() -> None:
            old, new = (tree_flatten(x)[0] for x in (results, watched()))
            for a, b in zip(old, new, strict=True):
                if a is not None:
                    assert a.shape == b.shape
                    a.copy_(b)

        return repeat, results


def without_dropout(model):
    """Sets every probability of dropout to 0."""
    for module in model.modules():
        for key in ("p", "rate"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model.train()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.booleans())
def test_every_batch_fits_into_its_bucket(lengths, coarse):
    batch = random_batch(lengths)
    bucket = bucket_of(batch, 9, coarse)
    wide = batch.padded(*bucket)
    assert len(wide.labels) == bucket.rows and bucket.rows % bucket.longest == 0
    assert bucket.rows < (2 * sum(lengths) if coarse else sum(lengths)) + bucket.longest
    # A bucket is decided by the sizes alone, not by where the dialogues end.
    assert bucket == bucket_of(random_batch(sorted(lengths)), 9, coarse)


def test_the_models_that_can_be_recorded():
    assert [name for name in MODELS if model_class(name).capturable] == CAPTURABLE


def same_numbers(case, computed, coarse=False) -> set:
    """Compares loss and gradients of batches of several sizes with those of one operation after the other."""
    model, data, buckets = without_dropout(case.model), case.data(), set()
    if isinstance(model, AMBDSGDN):
        model.settings.p_exe = 0.0
    dialogues = torch.arange(10)
    for start, end in ((0, 5), (5, 10), (0, 3), (2, 7), (9, 10), (0, 5)):
        batch = data.batch(dialogues[start:end])
        buckets.add(bucket_of(batch, case.config.train.batch_size, coarse))
        loss, _ = computed(batch, 0)
        found = [loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        model.zero_grad()
        expected = model.loss(model(batch), batch)
        expected.backward()
        wanted = [expected.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    return buckets


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_recording_of_every_bucket_gives_the_same_numbers(store, name):
    case = Case(store, name, "")
    recorded = Recorded(case.model, case.config.train, Again())
    buckets = same_numbers(case, recorded)
    assert len(recorded.recordings) == len(buckets) < 6


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTURABLE)
def test_compilation_sees_the_whole_model_once_per_bucket(store, name):
    case = Case(store, name, "")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # Traced, but not compiled to machine code.
    buckets = same_numbers(case, Compiled(case.model, case.config.train, "eager"), coarse=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(buckets)


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_recorded_step_copies_nothing_from_the_host(store, name):
    case = Case(store, name, "")
    with StandIn() as device:
        data, model, recorder = case.data().to(DEVICE), case.model.to(DEVICE).train(), Again(device)
        recorded = Recorded(model, case.config.train, recorder)
        state = new_state(model, case.config.train)
        for _ in range(2):
            with device.counting() as waits:
                batch = case.batch(data)
                outcome = training_step(model, state.optimizer, batch, 0, case.config.train, recorded)
        assert isinstance(outcome.loss, DeviceTensor)
    assert not waits and not recorder.copies and len(recorded.recordings) == 1


def test_two_losses_of_one_recording_are_two_numbers(store):
    case = Case(store, "sdt", "")
    data, recorded = case.data(), Recorded(case.model.train(), case.config.train, Again())
    batch = case.batch(data)
    losses = [recorded(batch, 0)[0] for _ in range(2)]  # dropout differs
    assert losses[0].data_ptr() != losses[1].data_ptr() and losses[0] != losses[1]


@pytest.mark.parametrize(
    "name, how, message",
    [
        ("bigru", "compile", "use eager, or one of the models amb-dsgdn,"),
        ("sdt", "cuda-graphs", "needs a CUDA device"),
        ("sdt", "compile", "needs a CUDA device"),
    ],
)
def test_an_execution_that_is_impossible(name, how, message):
    config = load_config(f"{name}-demo", [f"train.execution={how}"])
    with pytest.raises(UserError, match=f"train.execution={how}: .*{message}"):
        check_execution(config, torch.device("cpu"))


def test_the_cost_of_an_execution_is_not_that_of_another(store):
    case = Case(store, "sdt", "train.execution=cuda-graphs")
    with pytest.raises(UserError, match="train.execution=cuda-graphs"):
        model_cost(case.plan, "cpu")
