"""`--device`: which devices there are, which is selected, and what is refused."""

from __future__ import annotations

import os

import pytest
import torch
from click.testing import CliRunner
from stand_in import DEVICE, StandIn
from test_train_support import write_store

from erc_toolkit.toolkit.base.cores import core_count
from erc_toolkit.toolkit.base.device import (
    check_precision,
    device_name,
    is_device_name,
    matrix_precision,
    pick_device,
    products_in,
    to_device,
    to_host,
)
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import COMMANDS, main

WRONG = [
    "banana",
    "",
    "CPU",
    "cuda:",
    "cuda:-1",
    "cuda:01",
    "cuda:one",
    "cuda:²",
    "cpu:0",
    "cpu\n",
    "mps:0",
    "cuda:0,1",
]


@pytest.fixture
def gpus(monkeypatch):
    """Makes PyTorch report a number of CUDA devices."""

    def see(count: int, apple: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)

    return see


@pytest.mark.parametrize(
    "count, name, device",
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_of_a_name(gpus, count, name, device):
    gpus(count)
    assert pick_device(name) == torch.device(device)


@pytest.mark.parametrize(
    "count, name, facts",
    [
        (0, "cuda", ["no CUDA device", "cpu"]),
        (0, "cuda:0", ["no CUDA device", "cpu"]),
        (1, "cuda:1", ["1 CUDA device", "cuda:0"]),
        (2, "cuda:99", ["2 CUDA devices", "cuda:0 to cuda:1"]),
        (0, "mps", ["no CUDA device", "use auto or cpu"]),
    ],
)
def test_a_device_that_does_not_exist(gpus, count, name, facts):
    gpus(count)
    with pytest.raises(UserError) as error:
        pick_device(name)
    for fact in [f"--device {name}:", *facts]:
        assert fact in error.value.message


def test_an_apple_gpu_only_by_name(gpus):
    gpus(0, apple=True)
    assert pick_device("auto") == torch.device("cpu") and pick_device("mps") == torch.device("mps")
    with pytest.raises(UserError, match="use auto, cpu or mps"):
        pick_device("cuda")


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_device_name(gpus, name):
    gpus(2)
    assert not is_device_name(name)
    with pytest.raises(UserError) as error:
        pick_device(name)
    assert "--device" in error.value.message and "cuda:0 to cuda:1" in error.value.message
    assert len(error.value.message.splitlines()) == 1


def test_recorded_device_names(gpus, monkeypatch):
    gpus(2)
    assert device_name(torch.device("cuda")) == "cuda (Some GPU)"
    assert device_name(torch.device("cuda:1")) == "cuda:1 (Some GPU)"
    for count, expected in ((1, "cpu (1 thread)"), (8, "cpu (8 threads)")):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert device_name(torch.device("cpu")) == expected


@pytest.mark.parametrize("name, dtype", [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_matrix_products_in_a_precision(name, dtype):
    x = torch.ones(2, 2)
    with matrix_precision(name, x.device):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_tf32_is_for_cuda(monkeypatch):
    check_precision("tf32", torch.device("cuda"), "x")
    for name in ("float32", "bfloat16"):
        check_precision(name, torch.device("cpu"), "x")
    with pytest.raises(UserError, match="^train.precision: tf32"):
        check_precision("tf32", torch.device("cpu"), "train.precision")


@pytest.mark.parametrize("name, rounded", [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_convolutions_round_to_tf32_only_if_asked(name, rounded):
    before = torch.backends.cudnn.allow_tf32
    with products_in(name, torch.device("cuda")):
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == rounded
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_copy_to_the_host_waits_only_when_it_is_asked_for(monkeypatch):
    log: list[object] = []

    class Event:
        def __init__(self, device):
            log.append(device)

        def record(self, stream):
            log.append(stream)

        def synchronize(self):
            log.append("waited")

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: f"stream of {device}")
    with StandIn() as device:
        collect = to_host(to_device(torch.ones(3), DEVICE))
        assert log == [DEVICE, f"stream of {DEVICE}"]
        assert collect().device.type == "cpu" and collect().tolist() == [1, 1, 1] and log[2:] == ["waited"] * 2
    assert len(device.copies) == 2 and not device.waits


def commands_with_a_device() -> dict[str, list[str]]:
    """The words of each command to its required arguments, which are not read before the options are checked."""
    found = {
        "extract meld": ["root", "--out", "x.h5"],
        "extract manifest": ["file", "--out", "x.h5"],
        "realign meld": ["root", "--out", "x.jsonl"],
        "realign manifest": ["file", "--out", "x.jsonl"],
        "finetune-text": ["file", "--text-model", "x", "--out", "x"],
        "finetune-speech": ["file", "--audio-model", "x", "--out", "x"],
        "train-face": ["faces", "--out", "x"],
        "demo": [],
        "train": ["x.h5", "--out", "x"],
        "eval": ["x"],
        "study": ["x.h5"],
        "leaderboard": ["x.h5", "--out", "x"],
        "report": ["x"],
        "reproduce": ["amb-dsgdn", "--meld", "x", "--out", "x"],
        "predict": ["x", "y.wav", "--transcript", "y.srt"],
        "transcribe": ["y.wav", "--out", "x.json"],
    }
    assert {words.split()[0] for words in found} <= set(COMMANDS)
    return found


def test_every_command_with_a_device_is_listed():
    listed = {words.split()[0] for words in commands_with_a_device()}
    for name in set(COMMANDS) - {"extract", "realign"}:
        shown = CliRunner().invoke(main, [name, "--help"]).output
        assert ("--device" in shown) == (name in listed), name


@pytest.mark.parametrize("words", commands_with_a_device())
def test_the_command_line_refuses_at_once(gpus, words, tmp_path, monkeypatch):
    gpus(2)
    monkeypatch.chdir(tmp_path)
    arguments = [*words.split(), *commands_with_a_device()[words]]
    result = CliRunner().invoke(main, [*arguments, "--device", "banana"])
    assert result.exit_code == 2 and "--device" in result.stderr and "cuda:N" in result.stderr, result.output
    assert "cuda:0 to cuda:1" in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_missing_device_is_one_line_at_the_command_line(gpus, tmp_path):
    gpus(0)
    write_store(tmp_path / "store.h5")
    arguments = ["train", str(tmp_path / "store.h5"), "--out", str(tmp_path / "run"), "--device", "cuda:3"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and result.stderr.startswith("Error: --device cuda:3"), result.output
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_cores(monkeypatch):
    assert core_count() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert core_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert core_count() == 1
