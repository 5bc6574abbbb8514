"""Layers of a feature in training: one of them, a mean, and weights that are learned with the model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml
from kill_support import run_until
from layers_support import LAYERS, MADE, TELLS, WIDTH, layered_store
from safetensors.numpy import load_file
from test_stand_in import Again
from test_train_cli import call, one_line
from test_train_resume import content
from test_train_support import random_batch, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.predict.turns import SpokenTurn
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.commands.package import package_command
from erc_toolkit.train.commands.report import report_command
from erc_toolkit.train.commands.train import train_command
from erc_toolkit.train.config import load_config
from erc_toolkit.train.inference.turn_classifier import TurnClassifier
from erc_toolkit.train.layers.layer_mix import LayerMix
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.loop.execution import Compiled, Recorded
from erc_toolkit.train.loop.step import LAYER_LR, make_optimizer, set_learning_rates, training_step
from erc_toolkit.train.models.layer_mixed import LayerMixed, layer_weights, weights_in_words
from erc_toolkit.train.models.registry import MODELS
from erc_toolkit.train.studies.applied import pin_in_words, pinned

QUICK = ("model.name=bigru", "model.hidden=16", "train.epochs=20", "train.lr=3e-3", "train.batch_size=6")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return layered_store(tmp_path_factory.mktemp("store") / "s.h5")


def chosen(layers: object) -> str:
    return f"data.audio={{feature: audio_x, layers: {layers}}}"


def trained(store, out, layers, *options, settings=QUICK, code=0):
    changes = [part for setting in (*settings, chosen(layers)) for part in ("--set", setting)]
    result = call(train_command, store, "--out", out, "--device", "cpu", "--recipe", "bigru-demo", *changes, *options)
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def learned(store, tmp_path_factory):
    """A run with learned weights, and what was printed."""
    out = tmp_path_factory.mktemp("runs") / "learned"
    return out, trained(store, out, "learned").output


def result_of(run) -> dict:
    return json.loads((run / "result.json").read_text())["result"]


def test_a_mix_is_the_weighted_sum_of_the_layers():
    torch.manual_seed(0)
    mix, x = LayerMix(5).double(), torch.randn(7, 5 * 3, dtype=torch.float64)
    assert torch.allclose(mix(x), x.view(7, 5, 3).mean(1))
    with torch.no_grad():
        mix.weight.copy_(torch.tensor([0.3, -1.0, 2.0, 0.0, 4.0]))
    # Slow and obvious.
    exponentials = [math.exp(w) for w in mix.weight.tolist()]
    for n in range(7):
        for d in range(3):
            expected = sum(e / sum(exponentials) * float(x[n, 3 * i + d]) for i, e in enumerate(exponentials))
            assert float(mix(x).detach()[n, d]) == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(mix, {"weight": w}, x), mix.weight)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_is_the_same_behind_a_mix(name):
    """With equal weights, output and loss are the model's for the layers' mean; and the weights get gradients."""
    config = load_config("demo", [f"model.name={name}"])
    counts, dims = np.arange(1, 8), {"text": 8, "audio": LAYERS * WIDTH}
    torch.manual_seed(0)
    mixed = build_model(config, dims, 2, counts, {"audio": LAYERS}).eval()
    torch.manual_seed(0)
    alone = build_model(config, {"text": 8, "audio": WIDTH}, 2, counts).eval()
    assert isinstance(mixed, LayerMixed) and not isinstance(alone, LayerMixed)
    assert mixed.dims == alone.dims and mixed.speaker_use == alone.speaker_use
    state = mixed.state_dict()
    assert set(state) == {f"model.{key}" for key in alone.state_dict()} | {"mix.audio.weight"}
    assert all(torch.equal(state[f"model.{key}"], tensor) for key, tensor in alone.state_dict().items())
    batch, plain = (random_batch(dims=dims, classes=7, dtype=torch.float32) for _ in range(2))
    plain.features["audio"] = mixed.mixed(batch).features["audio"].detach()
    for model, one in ((mixed, batch), (alone, plain)):
        torch.manual_seed(1)
        model.found = model(one).logits.detach(), model.loss(model(one), one).detach()
    assert all(torch.equal(a, b) for a, b in zip(mixed.found, alone.found, strict=True))
    torch.manual_seed(1)
    mixed.loss(mixed(batch), batch).backward()
    assert mixed.mix["audio"].weight.grad.abs().sum() > 0


def test_layer_weights_have_their_own_rate_and_no_decay():
    settings = load_config("demo", ["model.name=bigru", "train.weight_decay=0.5", "train.lr=1e-9"]).train
    config = load_config("demo", ["model.name=bigru"])
    model = build_model(config, {"audio": 12}, 2, np.ones(3), {"audio": 3})
    optimizer = make_optimizer(model, settings)
    assert set_learning_rates(optimizer, settings, 0.5) == 0.5e-9
    assert [group["lr"] for group in optimizer.param_groups] == [0.5e-9, 0.5 * LAYER_LR]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0]
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()} and len(held) == len(list(model.parameters()))
    batch = random_batch(dims={"audio": 12}, dtype=torch.float32)
    training_step(model.train(), optimizer, batch, 0, settings)
    step = model.mix["audio"].weight.detach().abs()
    assert torch.allclose(step, torch.full((3,), 0.5 * LAYER_LR), rtol=1e-3)  # Adam's first step


@pytest.mark.parametrize("how", ["compiled", "recorded"])
def test_a_mix_is_compiled_or_recorded_with_its_model(how):
    config = load_config("demo", ["model.name=sdt", "model.dropout=0"])
    model = build_model(config, {"audio": 12}, 2, np.ones(3), {"audio": 3}).train()
    batch = random_batch(dims={"audio": 12}, dtype=torch.float32)
    torch._dynamo.reset()
    compute = Compiled(model, config.train, "eager") if how == "compiled" else Recorded(model, config.train, Again())
    for other in (random_batch(dims={"audio": 12}, dtype=torch.float32, seed=1), batch):  # a recording is repeated
        loss, _ = compute(other, 0)
    found = model.mix["audio"].weight.grad.clone()
    model.zero_grad()
    expected = model.loss(model(batch), batch)
    expected.backward()
    assert torch.allclose(loss, expected.detach(), atol=1e-5)
    assert torch.allclose(found, model.mix["audio"].weight.grad, atol=1e-5)


def test_the_layer_that_tells_the_class_is_found(store, learned, tmp_path):
    run, printed = learned
    shares = result_of(run)["layer_weights"]["audio"]
    assert len(shares) == LAYERS and sum(shares) == pytest.approx(1) and int(np.argmax(shares)) == TELLS
    assert shares[TELLS] > 1.5 / LAYERS
    assert f"audio layers: {shares[TELLS]:.2f} on layer {TELLS}, " in printed
    assert f"{LAYERS} layers of {WIDTH} with learned weights" in printed
    weight = load_file(run / "model.safetensors")["mix.audio.weight"].astype(float)
    assert np.allclose(np.exp(weight) / np.exp(weight).sum(), shares)
    trained(store, tmp_path / "mean", "mean")
    trained(store, tmp_path / "one", TELLS)
    mean, one, ours = (result_of(r)["test"]["weighted_f1"] for r in (tmp_path / "mean", tmp_path / "one", run))
    assert mean + 0.05 < ours and mean + 0.05 < one
    assert "layer_weights" not in result_of(tmp_path / "mean")


def test_a_run_records_its_layers_and_eval_uses_them(learned):
    run, _ = learned
    facts = yaml.safe_load((run / "config.yaml").read_text())
    feature = facts["run"]["features"]["audio"]
    assert feature["name"] == "audio/layers(audio_x, learned)" and feature["dim"] == LAYERS * WIDTH
    assert (feature["made"]["layers"], feature["made"]["layer_count"]) == ("learned", LAYERS)
    assert facts["data"]["audio"] == {"feature": "audio_x", "layers": "learned"}
    found = json.loads(call(eval_command, run, "--device", "cpu", "--json").stdout)
    test = result_of(run)["test"]
    assert all(found[key] == pytest.approx(test[key], abs=1e-12) for key in ("weighted_f1", "accuracy"))


def test_eval_refuses_other_layers_of_the_same_width(learned, tmp_path):
    made = {**MADE, "parameters": {"layers": "each", "layer_count": WIDTH, "layer_dim": LAYERS}}
    dims = {"audio": LAYERS * WIDTH}
    for name, attrs in (("other.h5", made), ("none.h5", {})):
        other = write_store(tmp_path / name, dims=dims, attrs=attrs)
        message = one_line(call(eval_command, learned[0], "--store", other, "--device", "cpu"))
        assert str(other) in message and f"not {LAYERS}" in message


def test_a_run_without_layers_is_as_it_was(store, tmp_path):
    """All layers side by side: no wrapper, so the names of the state are the model's, and one group of parameters."""
    changes = [part for setting in QUICK for part in ("--set", setting)]
    result = call(train_command, store, "--out", tmp_path / "r", "--device", "cpu", "--recipe", "bigru-demo", *changes)
    assert result.exit_code == 0 and f"{LAYERS} layers of {WIDTH} side by side" in result.output
    assert "audio layers" not in result.output and "layer_weights" not in result_of(tmp_path / "r")
    config = load_config("bigru-demo", list(QUICK))
    model = build_model(config, {"audio": LAYERS * WIDTH}, 3, np.ones(3))
    names = {name for name in load_file(tmp_path / "r" / "model.safetensors") if not name.startswith("normalise.")}
    assert names == set(model.state_dict()) and len(make_optimizer(model, config.train).param_groups) == 1


@pytest.mark.parametrize(
    ("event", "pattern", "count"),
    [("finish", r"checkpoint\.safetensors$", 5), ("finish", r"model\.safetensors$", 1)],
)
def test_an_interrupted_run_is_bit_identical(store, learned, tmp_path, event, pattern, count):
    out = tmp_path / "run"
    changes = [part for setting in (*QUICK, chosen("learned")) for part in ("--set", setting)]
    arguments = ["train", store, "--out", out, "--device", "cpu", "--recipe", "bigru-demo", *changes]
    run_until(arguments, event, pattern, count)
    assert not (out / "result.json").exists()
    trained(store, out, "learned", "--resume")
    assert content(out) == content(learned[0])
    assert result_of(out)["layer_weights"] == result_of(learned[0])["layer_weights"]
    message = one_line(trained(store, out, "mean", "--resume", code=1))
    assert str(out) in message and "settings" in message


@pytest.mark.parametrize("layers", ["learned", TELLS, "2-4"])
def test_a_package_predicts_what_eval_does(store, learned, tmp_path, layers):
    run, package = learned[0], tmp_path / "package"
    if layers != "learned":
        run = tmp_path / "run"
        trained(store, run, layers)
    result = call(package_command, run, "--out", package)
    assert result.exit_code == 0, (result.output, result.exception)
    card = (package / "README.md").read_text()
    assert ("- audio layers: " in card) and (layers == "learned" or f"audio layers: {layers} of {LAYERS}" in card)
    classifier = TurnClassifier(package, "cpu", lambda _: None)
    assert layer_weights(classifier.model) == result_of(run).get("layer_weights", {})
    expected = {}
    for line in (run / "predictions.csv").read_text().splitlines()[1:]:
        cells = line.split(",")
        expected[cells[0]] = cells
    head = (run / "predictions.csv").read_text().splitlines()[0].split(",")
    with FeatureStore.open(store) as opened:
        turns, _ = classifier.turns(opened)
        causal, _ = classifier.turns(opened, causal=True)
        feature = opened.feature("audio/audio_x")
        values, present = feature.values(), feature.present()
        first, last = (int(i) for i in opened.offsets[3:5])
    assert len([turn for turn in turns if turn.id in expected]) == len(expected) > 0
    for turn in turns:
        if turn.id in expected:
            assert turn.emotion == expected[turn.id][head.index("predicted")]
    # A stream has the features of each turn in memory, and gives the same numbers.
    live = classifier.live({"audio/audio_x": MADE}, {})
    for i in range(first, last):
        spoken = SpokenTurn(turns[i].id, turns[i].speaker, "", turns[i].start, turns[i].end)
        row = (values[i], "") if present[i] else (None, "no_audio")
        assert live.add(spoken, {"audio/audio_x": row}).probabilities == causal[i].probabilities
    with pytest.raises(UserError, match="must not be mixed"):
        classifier.live({"audio/audio_x": {**MADE, "parameters": {**MADE["parameters"], "layer_count": 3}}}, {})


def test_a_report_shows_the_weights(learned, tmp_path):
    run, _ = learned
    result = call(report_command, run, "--out", tmp_path / "r.html", "--device", "cpu")
    assert result.exit_code == 0, (result.output, result.exception)
    page = (tmp_path / "r.html").read_text()
    assert "Layer weights" in page and f"{LAYERS} layers of {WIDTH} with learned weights" in page
    assert (tmp_path / "r_files" / "layers_audio.png").is_file()


def test_a_study_pins_the_layers(store):
    config = load_config("bigru-demo", [chosen("2-4")])
    with FeatureStore.open(store) as opened:
        pins = pinned(config, opened)
    assert pins == {"audio": {"feature": "audio/audio_x", "layers": "2-4"}}
    assert pin_in_words(pins["audio"]) == "audio/layers(audio_x, 2-4)"
    assert pin_in_words({"concat": ["text/a", "text/b"]}) == "text/concat(a, b)" and pin_in_words("text/a") == "text/a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_count": 10**9}, "damaged"),
        ({"layer_count": 5}, "damaged"),
        ({"layer_count": 0}, "damaged"),
        ({"layer_count": None}, "damaged"),
        ({"layers": "best"}, "damaged"),
        ({"layers": 3}, "damaged"),
        ({"layers": {"learned": 1}}, "damaged"),
        ({"parts": []}, "damaged"),
        ({"parts": 3}, "damaged"),
        ({"layer_count": 3}, "does not fit config.yaml"),
        ({"layer_count": 1}, "does not fit config.yaml"),
    ],
)
def test_layers_of_a_foreign_run_are_checked(learned, tmp_path, changes, message):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for path in learned[0].iterdir():
        (foreign / path.name).write_bytes(path.read_bytes())
    facts = yaml.safe_load((foreign / "config.yaml").read_text())
    facts["run"]["features"]["audio"]["made"].update(changes)
    (foreign / "config.yaml").write_text(yaml.safe_dump(facts))
    said = one_line(call(eval_command, foreign, "--device", "cpu"))
    assert message in said or f"has {LAYERS} layers, not " in said  # the store is compared before the weights
    with pytest.raises(UserError, match=message):
        TurnClassifier(foreign, "cpu", lambda _: None)


def test_weights_in_words():
    assert weights_in_words({"audio": [0.1, 0.2, 0.4, 0.3]}) == [
        "audio layers: 0.40 on layer 2, 0.30 on 3, 0.20 on 1; 0.10 on the other 1"
    ]
    assert weights_in_words({"text": [0.75, 0.25]}) == ["text layers: 0.75 on layer 0, 0.25 on 1"]
