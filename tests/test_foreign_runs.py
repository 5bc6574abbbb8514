"""Runs and packages from someone else: what they claim is checked before it costs memory, and no path leads out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.train.config import load_config, parse_config
from erc_toolkit.train.data.features import Normaliser
from erc_toolkit.train.inference.model_paths import in_package, resolve_models
from erc_toolkit.train.inference.packaging import package
from erc_toolkit.train.inference.turn_classifier import TurnClassifier
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.loop.run_folder import Run, check_fit, write_weights
from erc_toolkit.train.models.registry import MODELS

DIMS = {"text": 10, "audio": 8, "visual": 6}
COUNTS = np.array([5, 3, 2, 4, 4, 4, 4])
BILLION = 10**9


@pytest.fixture
def run(store_path, tmp_path) -> Path:
    """A small run with a speaker table."""
    settings = ["model.name=mmgcn", "model.size=8", "train.epochs=1", "model.encoder_layers=1"]
    arguments = ["train", store_path, "--out", tmp_path / "run", "--recipe", "demo"]
    invoke(*arguments, *(part for setting in settings for part in ("--set", setting)))
    return tmp_path / "run"


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def error_line(output: str) -> str:
    assert "Traceback" not in output
    return next(line for line in output.splitlines() if "rror" in line)


def edit(run: Path, change) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    change(content)
    (run / "config.yaml").write_text(yaml.safe_dump(content), "utf-8")


def edit_weights(run: Path, change) -> None:
    tensors = load_file(run / "model.safetensors")
    change(tensors)
    save_file(tensors, run / "model.safetensors")


LIMITED = (
    "import resource, sys\n"
    "from erc_toolkit.toolkit.commands.main import main\n"
    "import torch, erc_toolkit.train.loop.evaluation\n"
    "resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))\n"
    "main(sys.argv[1:])\n"
)


def test_slots_of_a_foreign_run_take_no_memory(run):
    edit(run, lambda content: content["run"]["speakers"].update(slots=BILLION))
    done = subprocess.run([sys.executable, "-c", LIMITED, "eval", run], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"model.safetensors: does not fit config.yaml", done.stderr)
    with pytest.raises(UserError, match="model.safetensors: does not fit config.yaml"):
        TurnClassifier(run, "cpu", print)


@pytest.mark.parametrize("key, value", [("size", BILLION), ("size", 10**6), ("encoder_layers", BILLION)])
def test_settings_of_a_foreign_run_take_no_memory(run, key, value):
    edit(run, lambda content: content["model"].update({key: value}))
    line = error_line(invoke("eval", run, code=1))
    assert "model.safetensors: does not fit config.yaml" in line


def whole_numbers(name: str) -> list[str]:
    settings = load_config("meld", [f"model.name={name}"]).model
    return [key for key, value in vars(settings).items() if type(value) is int]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(MODELS))
def test_no_setting_of_any_model_takes_memory(name, tmp_path):
    """Each whole number set to a billion, and the numbers of speakers and dimensions, within seconds."""
    config = load_config("meld", [f"model.name={name}"])
    facts = {"features": {m: {"dim": dim} for m, dim in DIMS.items()}}
    identities = {m: Normaliser.identity(dim) for m, dim in DIMS.items()}
    write_weights(tmp_path, build_model(config, DIMS, 3, COUNTS), identities, {})
    check_fit(Run(tmp_path, config, facts), lambda: build_model(config, DIMS, 3, COUNTS))
    for key in [*whole_numbers(name), "speakers", "dim"]:
        dims = {**DIMS, "text": BILLION} if key == "dim" else DIMS
        speakers = BILLION if key == "speakers" else 3
        content = config.as_dict()
        if key in content["model"]:
            content["model"][key] = BILLION
        try:
            other = parse_config(content, "config.yaml")  # as a run's is read
            check_fit(Run(tmp_path, other, facts), lambda: build_model(other, dims, speakers, COUNTS))  # noqa: B023
        except UserError as error:
            assert "model.safetensors: does not fit config.yaml" in error.message or key in error.message
        else:  # what neither memory nor, as passes over the same weights, time depends on
            assert key not in ("dim", "hidden", "size", "layers", "encoder_layers", "ode_steps")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["speaker.weight", "normalise.text.mean", "normalise.text.scale"])
def test_numbers_that_are_not_finite(run, name, value):
    edit_weights(run, lambda tensors: tensors[name].view(-1)[:2].fill_(value))
    line = error_line(invoke("eval", run, code=1))
    assert f"model.safetensors: {name} has 2 NaN or infinite numbers" in line
    with pytest.raises(UserError, match=re.escape(name)):
        TurnClassifier(run, "cpu", print)


def test_a_negative_scale(run):
    edit_weights(run, lambda tensors: tensors["normalise.text.scale"].view(-1)[:1].fill_(-1))
    assert "normalise.text.scale has 1 negative number;" in error_line(invoke("eval", run, code=1))


def test_a_scale_of_zero_is_a_constant_dimension(run):
    edit_weights(run, lambda tensors: tensors["normalise.text.scale"].zero_())
    invoke("eval", run)


def test_outputs_that_are_not_finite(run):
    edit_weights(run, lambda tensors: [x.fill_(3e38) for n, x in tensors.items() if n.startswith("output")])
    edit_weights(run, lambda tensors: [x.fill_(3e38) for n, x in tensors.items() if x.dtype == torch.float32])
    assert "not finite" in error_line(invoke("eval", run, code=1))


@pytest.fixture
def packaged(tmp_path) -> Path:
    folder = tmp_path / "package"
    (folder / "encoders" / "text_model" / "roberta").mkdir(parents=True)
    (folder / "encoders" / "text_model" / "roberta" / "config.json").write_text("{}")
    (folder / "extraction.yaml").write_text("{}")
    return folder


INSIDE = "encoders/text_model/roberta"


def test_a_package_names_its_own_files_and_hub_models(packaged):
    options = {"text_model": INSIDE, "audio_model": "facebook/wav2vec2-base", "fps": 5.0, "other.note": "/regex/"}
    resolve_models(packaged, options)
    assert options["text_model"] == str((packaged / INSIDE).resolve())
    assert options["audio_model"] == "facebook/wav2vec2-base" and options["other.note"] == "/regex/"


@pytest.mark.parametrize(
    "value",
    ["/etc", "../secret", "encoders/../../secret", "a/../../b", "~/models", "./model", "C:\\models", "\\\\host\\x", ""],
)
def test_no_path_leads_out_of_a_package(packaged, value):
    if value == "":  # a path of another package's option, which exists
        options = {"mine.weights": str(packaged.parent)}
    else:
        options = {"text_model": value}
    with pytest.raises(UserError, match="package: its .* leads out of the package") as error:
        resolve_models(packaged, dict(options))
    assert value == "" or "--text-model" in error.value.message
    resolve_models(packaged, options, list(options))  # the remedy


def test_no_link_leads_out_of_a_package(packaged, tmp_path):
    (tmp_path / "secret").mkdir()
    (packaged / "encoders" / "outside").symlink_to(tmp_path / "secret")
    (packaged / INSIDE / "weights").symlink_to(packaged / INSIDE / "config.json")
    assert in_package(packaged, "text_model", INSIDE)
    (packaged / INSIDE / "model.safetensors").symlink_to(tmp_path / "secret")
    for value in ("encoders/outside", INSIDE):
        with pytest.raises(UserError, match="leads out"):
            in_package(packaged, "text_model", value)


def test_a_run_may_name_any_path(packaged):
    (packaged / "extraction.yaml").unlink()
    options = {"text_model": "/models/roberta", "mine.weights": str(packaged.parent)}
    resolve_models(packaged, options)
    assert options["text_model"] == "/models/roberta"


def test_a_package_of_a_hostile_package_takes_no_other_files(run, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    made = {"extractor": "text", "options": {"text_model": str(secret)}}
    edit(run, lambda content: [f.update(made=made) for f in content["run"]["features"].values()])
    shutil.copytree(run, tmp_path / "pkg")
    (tmp_path / "pkg" / "extraction.yaml").write_text("{}")
    with pytest.raises(UserError, match="leads out of the package"):
        package(tmp_path / "pkg", tmp_path / "again", print)
    assert not (tmp_path / "again").exists()
