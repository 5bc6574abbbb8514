"""A precision that is slower here than float32 is reported, and `auto` chooses what is faster and stays with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from command_support import erc, succeed
from kill_support import run_until

from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.run.precision import with_precision
from erc_toolkit.toolkit.base import precision
from erc_toolkit.toolkit.base.device import check_precision
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Sets the ratio that is measured; without it the tests would depend on the processor."""

    def be(ratio: float) -> None:
        monkeypatch.setattr(precision, "relative_time", lambda name, device: ratio)

    return be


@pytest.fixture
def manifest(tmp_path):
    utterances = [Utterance(f"u{i}", f"d{i // 2}", i % 2, "Ann", f"text {i}", "joy", "train") for i in range(40)]
    write_manifest(Manifest("toy", ["joy"], tmp_path, utterances), tmp_path / "m.jsonl")
    return tmp_path / "m.jsonl"


def test_a_measurement_is_a_ratio_of_times():
    ratio = precision.relative_time("bfloat16", CPU)
    assert 0.01 < ratio < 1000 and precision.relative_time("bfloat16", CPU) == ratio  # measured once


def test_the_random_numbers_of_a_run_do_not_depend_on_it():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    precision.relative_time.__wrapped__("bfloat16", CPU)
    assert torch.equal(torch.rand(1), expected)


def test_what_is_slower_is_said_and_not_chosen(measured):
    measured(3.2)
    line = precision.slowness("bfloat16", CPU, "--precision")
    assert line is not None and "--precision bfloat16" in line and "3.2" in line and "float32" in line
    assert precision.fastest_precision(CPU) == "float32"
    assert precision.slowness("float32", CPU, "x") is None and precision.slowness("tf32", CPU, "x") is None
    measured(0.9)  # hardly faster is no reason to be less exact
    assert precision.slowness("bfloat16", CPU, "x") is None and precision.fastest_precision(CPU) == "float32"
    measured(0.5)
    assert precision.fastest_precision(CPU) == "bfloat16"


def test_auto_is_no_precision_to_compute_in():
    with pytest.raises(UserError, match="--precision"):
        check_precision("auto", CPU, "--precision")


def test_features_without_a_network_need_no_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "relative_time", None)
    options = Options(modalities=("audio",), precision="auto", device="cpu")
    assert with_precision(options, tmp_path / "x.h5", pytest.fail).precision == "float32"


def recorded(path) -> str:
    with FeatureStore.open(path) as store:
        (name,) = store.feature_names()
        attrs = store.feature(name).attrs
    assert json.loads(str(attrs["options"]))["precision"] == json.loads(str(attrs["parameters"]))["dtype"]
    return json.loads(str(attrs["options"]))["precision"]


def words(manifest, text_encoder, out, chosen: str) -> list[object]:
    return [
        *("extract", "manifest", manifest, "--modalities", "text", "--text-model", text_encoder, "--device", "cpu"),
        *("--precision", chosen, "--out", out),
    ]


@pytest.mark.parametrize("ratio, chosen", [(0.5, "bfloat16"), (2.0, "float32")])
def test_what_auto_chose_is_recorded_and_kept(ratio, chosen, measured, manifest, text_encoder, tmp_path):
    from erc_toolkit.extract.api import extract

    lines: list[str] = []
    given = {"modalities": ("text",), "text_model": str(text_encoder), "device": "cpu", "precision": "auto"}
    measured(ratio)
    extract(manifest, tmp_path / "x.h5", notify=lines.append, **given)
    assert recorded(tmp_path / "x.h5") == chosen and any(line.startswith(f"precision: {chosen}") for line in lines)
    measured(1 / ratio)  # another measurement does not make it compute everything again, or refuse its own work
    extract(manifest, tmp_path / "x.h5", notify=lines.append, **given)
    assert recorded(tmp_path / "x.h5") == chosen


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_precision_of_its_parts(manifest, text_encoder, tmp_path):
    out = tmp_path / "x.h5"
    chosen = "bfloat16"
    run_until(words(manifest, text_encoder, out, chosen), "finish", r"options\.json$")  # before it is recorded
    run_until(words(manifest, text_encoder, out, chosen), "finish", r"x\.h5$")  # all parts are there, no store yet
    succeed(*words(manifest, text_encoder, out, "auto"))
    assert recorded(out) == chosen


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch computes without oneDNN here")
def test_a_processor_without_bfloat16_instructions(manifest, text_encoder, tmp_path):
    """oneDNN, which computes for PyTorch, can be kept from instructions that the processor has."""
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    code = "import torch; from erc_toolkit.toolkit.base.precision import *; d = torch.device('cpu'); " + (
        "print(relative_time('bfloat16', d), fastest_precision(d))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    ratio, fastest = out.split()
    if float(ratio) <= 1:
        pytest.skip(f"bfloat16 is not slower here without its instructions: {ratio}")
    assert fastest == "float32"
    command = [
        sys.executable,
        "-m",
        "erc_toolkit",
        *map(str, words(manifest, text_encoder, tmp_path / "x.h5", "bfloat16")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert [line for line in done.stdout.splitlines() if "bfloat16" in line and "times" in line]


@pytest.mark.slow
def test_training_says_it_too(tmp_path, monkeypatch, capsys, measured):
    from test_train_cli import train_on
    from test_train_support import write_store

    measured(2.5)
    store = write_store(tmp_path / "s.h5")
    done = train_on(store, tmp_path / "run", "--set", "train.precision=bfloat16", settings=["train.epochs=1"])
    assert done.exit_code == 0 and "train.precision bfloat16" in done.output and "2.5" in done.output
    assert erc("train", store, "--set", "train.precision=auto", "--dry-run").returncode == 1
