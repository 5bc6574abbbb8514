"""A face network in OpenVINO has PyTorch's values or is refused, and is recorded, resumed and predicted with."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from features_support import clips
from torch import nn

from erc_toolkit.extract.api import extract
from erc_toolkit.extract.encoders.runtimes import choice
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.encoders.visual import face_network
from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder
from erc_toolkit.extract.recording import options_here, recorded_options
from erc_toolkit.extract.run import runtime
from erc_toolkit.extract.run.extractors import RunExtractors
from erc_toolkit.toolkit.base import extras
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.toolkit.store.summary import unpacked

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)
FACES = {"modalities": ("visual",), "visual_model": "denseface", "visual_weights": "random", "face_detector": "haar"}
FACES |= {"fps": 1.0, "workers": 1, "device": "cpu"}


def ours(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def wrong(images: torch.Tensor, by: float = 1e-3) -> torch.Tensor:
    found = ours(images).clone()
    found[-1, -1] += by
    return found


@pytest.fixture
def short(monkeypatch):
    """Measures no longer than it must."""
    monkeypatch.setattr(choice, "_SECONDS", 0.0)


@pytest.fixture
def missing(monkeypatch):
    """Makes OpenVINO look as if it were not installed."""
    for module in (choice, extras, runtime):
        monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.fixture
def weights(tmp_path_factory, request):
    """A state dict of a network whose batch normalisations are no identities."""
    name = request.param
    torch.manual_seed(1)
    net = ARCHITECTURES[name].build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.2)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save(net.state_dict(), path)
    return name, str(path)


@pytest.mark.parametrize("weights", ["densenet121", "denseface"], indirect=True)
def test_values_are_those_of_pytorch(weights):
    pytest.importorskip("openvino")
    name, path = weights
    plain, other = FaceEncoder(name, path), FaceEncoder(name, path, runtime="openvino")
    side = plain.expected.side
    shape = (9, side, side) if plain.expected.grey else (9, side, side, 3)  # more than a batch
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected, found = (list(one.utterances([crops]))[0][1] for one in (plain, other))
    assert 0 < np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert plain.runtime.name == "torch" and other.runtime.name == "openvino"
    before, after = plain.provenance(), other.provenance()
    assert after["parameters"].pop("runtime") == "openvino" and after["versions"].pop("openvino")
    assert before == after and "runtime" not in before["parameters"]


@pytest.mark.parametrize("weights", ["denseface"], indirect=True)
def test_several_threads_may_call_it_each_with_its_number_of_threads(weights):
    pytest.importorskip("openvino")
    encoder = FaceEncoder(*weights, runtime="openvino")
    crops = np.random.default_rng(0).integers(0, 256, (12, 2, 64, 64), dtype=np.uint8)
    expected = [encoder(one) for one in crops]

    def work(number: int) -> np.ndarray:
        torch.set_num_threads(1 + number % 2)
        return encoder(crops[number])

    before = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(12)))
    torch.set_num_threads(before)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()


def test_other_values_are_refused_or_fallen_back_from(short, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: True)
    monkeypatch.setattr(choice, "require_extra", lambda *_: None)
    for broken in (wrong, partial(wrong, by=float("nan")), lambda images: ours(images)[:, 1:], lambda images: 1 / 0):
        with pytest.raises(UserError, match="--runtime openvino"):
            choice.choose_runtime("openvino", CPU, "float32", SHAPE, ours, lambda broken=broken: broken)
        found = choice.choose_runtime("auto", CPU, "float32", SHAPE, ours, lambda broken=broken: broken)
        assert found.name == "torch" and found.compute is None and "OpenVINO" in found.note
        assert not found.parameters and not found.versions


def test_auto_takes_what_is_faster(short, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: True)
    for ratio, name in ((0.5, "openvino"), (0.95, "torch"), (2.0, "torch")):  # hardly faster is no reason
        monkeypatch.setattr(choice, "_time_ratio", lambda *_, ratio=ratio: ratio)
        found = choice.choose_runtime("auto", CPU, "float32", SHAPE, ours, lambda: ours)
        assert found.name == name and f"{ratio:.2f} times" in found.note


def test_the_measurement_computes_with_both_in_turn(short):
    calls: list[str] = []
    ways = [lambda images, name=name: calls.append(name) for name in "ab"]
    assert choice._time_ratio(*ways, torch.zeros(1)) > 0 and calls == ["a", "b"] * choice._LEAST_ROUNDS


def test_it_is_for_float32_on_the_cpu(short):
    for device, precision in ((torch.device("cuda"), "float32"), (CPU, "bfloat16")):
        with pytest.raises(UserError, match="--runtime openvino"):
            choice.choose_runtime("openvino", device, precision, SHAPE, ours, pytest.fail)
        assert choice.choose_runtime("auto", device, precision, SHAPE, ours, pytest.fail).name == "torch"


def test_without_the_package(missing):
    with pytest.raises(UserError, match=r"erc-toolkit\[openvino\]"):
        FaceEncoder("denseface", "random", runtime="openvino")
    assert FaceEncoder("denseface", "random", runtime="auto").runtime.note
    lines: list[str] = []
    here = options_here("visual", Options(modalities=("visual",), runtime="openvino"), "cpu", lines.append)
    assert here.runtime == "torch" and len(lines) == 1 and "OpenVINO" in lines[0]


def test_other_networks_have_no_runtime():
    options = Options(modalities=("text", "audio"), runtime="openvino", device="cpu")
    with pytest.raises(UserError, match="--runtime openvino"):
        RunExtractors.make(options)


def recorded(path) -> tuple[dict, dict]:
    with FeatureStore.open(path) as store:
        attrs = store.feature("visual/denseface").attrs
        return unpacked(attrs["options"]), unpacked(attrs["parameters"])


def test_a_store_is_continued_with_its_own_runtime_only(intact, tmp_path, short, monkeypatch):
    pytest.importorskip("openvino")
    manifest, lines = clips(tmp_path / "clips", intact, 3), []
    store = tmp_path / "x.h5"
    extract(manifest, store, notify=lines.append, **FACES, runtime="openvino")
    options, parameters = recorded(store)
    assert options["runtime"] == parameters["runtime"] == "openvino" and any("OpenVINO" in line for line in lines)
    with pytest.raises(UserError, match="runtime"):
        extract(manifest, store, notify=lines.append, **FACES)
    monkeypatch.setattr(face_network, "choose_runtime", partial(_not_auto, face_network.choose_runtime))
    extract(manifest, store, notify=lines.append, **FACES, runtime="auto")
    assert lines[-1] and any(line.startswith("runtime: openvino") for line in lines)
    # As `predict` reads it.
    here = options_here("visual", recorded_options("visual", json.loads(json.dumps(options))), "cpu", pytest.fail)
    assert here.runtime == "openvino"
    extract(manifest, tmp_path / "plain.h5", notify=lines.append, **FACES)
    options, parameters = recorded(tmp_path / "plain.h5")
    assert "runtime" not in options and "runtime" not in parameters
    extract(manifest, tmp_path / "plain.h5", notify=lines.append, **FACES, runtime="auto")
    assert any(line.startswith("runtime: torch") for line in lines)


def _not_auto(choose, asked, *more):
    assert asked != "auto"
    return choose(asked, *more)
