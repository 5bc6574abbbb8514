"""Batches: prepared ahead, halved where they do not fit, no item lost or computed twice, and their size remembered."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stand_in import DEVICE, StandIn
from test_models_by_name import image_folder, spans, speech_folder
from test_visual_models import model_folder

from erc_toolkit.extract.encoders import batching, remembered
from erc_toolkit.extract.encoders.audio.speech import AudioModel
from erc_toolkit.extract.encoders.base import Turn
from erc_toolkit.extract.encoders.batching import Batches
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.visual.face_network import FaceEncoder
from erc_toolkit.extract.encoders.visual.image import ImageModel
from erc_toolkit.extract.encoders.visual.video import VideoModel
from erc_toolkit.toolkit.base.device import Memory, device_memory, empty_cache, to_host
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest

CPU = torch.device("cpu")
TEXTS = [f"what do you want {'now ' * (i % 4)}" for i in range(20)]


def batches(most: int = 4, model: str = "text, weights abc", precision: str = "float32") -> Batches:
    return Batches("text model x", "tokens", most, CPU, precision, model)


def prepare(batch: range) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(list(batch), dtype=torch.float64)}


def holding(most: int, seen: list[int] | None = None):
    """A network for whose memory batches of more than `most` items are too large."""

    def compute(tensors):
        if len(tensors["x"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if seen is not None:
            seen.append(len(tensors["x"]))
        return 10 * tensors["x"]

    return compute


def rows(runner: Batches, count: int, compute) -> list[float]:
    """The results of items of size 1; checks that they come in order."""
    found: list[float] = []
    for batch, values in runner.run([1] * count, prepare, compute):
        assert batch.start == len(found) and len(batch) == len(values) and values.dtype == np.float32
        found += values.tolist()
    return found


# -- ahead


def test_a_batch_is_prepared_and_launched_before_the_one_before_it_is_collected(monkeypatch):
    log: list[str] = []

    def logged_copy(x):
        def wait():
            log.append(f"collect {int(x[0])}")
            return x

        return wait

    def logged_prepare(batch):
        log.append(f"prepare {batch.start}")
        return prepare(batch)

    def compute(tensors):
        log.append(f"launch {int(tensors['x'][0])}")
        return tensors["x"]

    monkeypatch.setattr(batching, "to_host", logged_copy)
    results = batches(2).run([1] * 5, logged_prepare, compute)
    assert not log  # nothing is done before it is asked for
    next(results)
    assert log == ["prepare 0", "launch 0", "prepare 2", "launch 2", "collect 0"]
    assert [list(batch) for batch, _ in results] == [[2, 3], [4]]
    assert log[5:] == ["prepare 4", "launch 4", "collect 2", "collect 4"]


@pytest.mark.parametrize(
    "sizes, most, expected",
    [
        ([], 4, []),
        ([9], 4, [[0]]),
        ([1, 1, 2, 2, 9], 4, [[0, 1], [2, 3], [4]]),
        ([3, 1, 1], 4, [[0], [1, 2]]),
        ([1, 1, 1], 0, [[0], [1], [2]]),
    ],
)
def test_the_size_of_a_batch_is_that_of_its_padding(sizes, most, expected):
    assert [list(batch) for batch, _ in batches(most).run(sizes, prepare, holding(9))] == expected


@pytest.mark.parametrize("caller", [torch.enable_grad, torch.no_grad])
def test_networks_compute_without_gradients_and_the_caller_is_unaffected(caller):
    def compute(tensors):
        assert torch.is_inference_mode_enabled()
        return tensors["x"]

    with caller():
        before = torch.is_grad_enabled()
        for _ in batches(1).run([1, 1], prepare, compute):
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled() == before


# -- too little memory


def test_batches_are_halved_until_they_fit(capsys):
    runner, seen = batches(16), []
    assert rows(runner, 16, holding(3, seen)) == [10 * i for i in range(16)]
    assert seen == [2] * 8 and runner.most == 2
    assert rows(runner, 3, holding(3, seen)) == [0, 10, 20] and seen[8:] == [2, 1]
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("text model x: ") and "tokens" in line for line in lines)
    assert len(lines) == 3 and "at most 8 " in lines[0]


@pytest.mark.parametrize(
    "kind", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")]
)
@pytest.mark.parametrize("failing", [{0}, {2}, {3}, {0, 1}, {2, 3}, {0, 2}, {3, 4}, {0, 3, 6}])
def test_memory_that_runs_out_at_any_launch(failing, kind, monkeypatch):
    """Four batches of four; launches are counted, failed ones as well."""
    runner, launches, freed = batches(4), [], []
    monkeypatch.setattr(batching, "empty_cache", freed.append)

    def compute(tensors):
        launches.append(tensors["x"].tolist())
        if len(launches) - 1 in failing and len(tensors["x"]) > 1:
            raise kind
        return 10 * tensors["x"]

    assert rows(runner, 16, compute) == [10 * i for i in range(16)]
    failed = [launch for i, launch in enumerate(launches) if i in failing and len(launch) > 1]
    computed = [item for launch in launches if launch not in failed for item in launch]
    assert computed == list(range(16)) and freed == [CPU] * len(failed) and runner.most == 4 // 2 ** len(failed)


def test_an_earlier_result_is_collected_before_memory_is_freed(monkeypatch):
    log: list[object] = []
    monkeypatch.setattr(batching, "empty_cache", lambda device: log.append("freed"))
    monkeypatch.setattr(batching, "to_host", lambda x: lambda: (log.append(x.tolist()), x)[1])

    def second_fails(tensors):
        if len(tensors["x"]) == 2 and tensors["x"][0] == 2:
            raise torch.OutOfMemoryError
        return tensors["x"]

    assert len(list(batches(2).run([1] * 4, prepare, second_fails))) == 3
    assert log == [[0, 1], "freed", [2], [3]]


def test_an_item_that_never_fits_is_an_error():
    with pytest.raises(UserError, match="text model x: .*--device cpu"):
        rows(batches(), 2, holding(0))
    results = batches(1).run([1, 1], prepare, lambda tensors: holding(1 - int(tensors["x"][0]))(tensors))
    assert next(results)[1].tolist() == [0]  # what was computed before is there
    with pytest.raises(UserError):
        next(results)


def test_other_errors_are_not_hidden():
    def compute(tensors):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        rows(batches(), 2, compute)


def test_the_text_encoder_continues_with_smaller_batches(text_encoder, monkeypatch):
    encoder = TextEncoder(str(text_encoder))
    expected = encoder(TEXTS)[0]
    forward = encoder._model.forward

    def small_memory(*args, **kwargs):
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(encoder._model, "forward", small_memory)
    np.testing.assert_allclose(encoder(TEXTS)[0], expected, rtol=1e-4, atol=1e-5)


# -- remembered

GPU = Memory("Some GPU", 8_000, 10_000)


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A function that sets the memory that the device seems to have; what this process remembers is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(remembered, "_here", {})

    def seems(found: Memory = GPU) -> None:
        monkeypatch.setattr(batching, "device_memory", lambda device: found)

    seems()
    return seems


def first_batch(runner: Batches) -> int:
    return len(next(runner.run([1] * 16, prepare, holding(16)))[0])


def found_four() -> None:
    assert len(rows(batches(16), 16, holding(7))) == 16  # 16, 8, 4


def test_a_second_encoder_starts_with_the_size_that_fitted(memory, capsys):
    found_four()
    capsys.readouterr()
    runner = batches(16)
    assert first_batch(runner) == first_batch(runner) == runner.most == 4
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith("text model x: ") and "4 tokens" in line and "Some GPU" in line
    assert first_batch(batches(2)) == 2 and not capsys.readouterr().err  # its own limit is lower


def test_a_new_process_starts_with_the_size_that_fitted(memory, tmp_path):
    found_four()
    code = (
        "import torch\nfrom erc_toolkit.extract.encoders import batching\n"
        "from erc_toolkit.toolkit.base.device import Memory\n"
        f"batching.device_memory = lambda device: Memory(*{tuple(GPU)})\n"
        "b = batching.Batches('x', 'tokens', 16, torch.device('cpu'), 'float32', 'text, weights abc')\n"
        "print([len(batch) for batch, _ in b.run([1] * 8, lambda r: {'x': torch.ones(len(r))}, lambda t: t['x'])])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[4, 4]" and "4 tokens" in done.stderr
    assert [path.name for path in (tmp_path / "erc-toolkit").iterdir()] == ["batches.json"]


@pytest.mark.parametrize("in_process", [True, False])
def test_another_model_device_or_precision_starts_afresh(memory, in_process, monkeypatch):
    found_four()
    if not in_process:
        monkeypatch.setattr(remembered, "_here", {})
    assert first_batch(batches(16)) == 4
    assert first_batch(batches(16, model="text, weights xyz")) == 16
    assert first_batch(batches(16, precision="bfloat16")) == 16
    for other in (Memory("Other GPU", 8_000, 10_000), Memory("Some GPU", 8_000, 20_000)):
        memory(other)
        assert first_batch(batches(16)) == 16


def test_much_more_free_memory_starts_afresh(memory):
    found_four()
    for free, expected in ((5_000, 4), (9_999, 4), (10_000, 4), (10_001, 16)):
        memory(GPU._replace(free=free))
        assert first_batch(batches(16)) == expected, free


def test_only_a_size_that_fitted_is_remembered(memory):
    with pytest.raises(UserError):
        rows(batches(16), 16, holding(0))
    rows(batches(16), 16, holding(16))
    assert not remembered.cache_file().exists() and first_batch(batches(16)) == 16


def test_two_models_share_the_file(memory, monkeypatch):
    found_four()
    rows(batches(16, model="other"), 16, holding(3))
    monkeypatch.setattr(remembered, "_here", {})
    assert first_batch(batches(16)) == 4 and first_batch(batches(16, model="other")) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\0", b"[]", b"null", b"[" * 100_000, "entry"])
def test_a_damaged_file_is_ignored_and_replaced(memory, content, monkeypatch):
    found_four()
    path = remembered.cache_file()
    if content == "entry":
        (key,) = json.loads(path.read_bytes())
        for entry in (None, [], {}, {"most": "4", "free": 8_000}, {"most": 0, "free": 8_000}, {"most": 4}):
            monkeypatch.setattr(remembered, "_here", {})
            path.write_text(json.dumps({key: entry}))
            assert first_batch(batches(16)) == 16, entry
        return
    monkeypatch.setattr(remembered, "_here", {})
    path.write_bytes(content)
    assert first_batch(batches(16)) == 16
    found_four()
    assert [entry["most"] for entry in json.loads(path.read_bytes()).values()] == [4]


def test_a_file_that_cannot_be_written_is_ignored(memory, tmp_path, monkeypatch):
    (tmp_path / "erc-toolkit").write_text("a file where the folder belongs")
    found_four()
    assert first_batch(batches(16)) == 4  # in this process
    monkeypatch.setattr(remembered, "_here", {})
    assert first_batch(batches(16)) == 16


@pytest.mark.parametrize("given", [None, "", "relative"])
def test_the_cache_folder_without_a_valid_variable(given, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert remembered.cache_file() == tmp_path / ".cache/erc-toolkit/batches.json"


def test_the_tests_do_not_write_to_the_users_cache():
    assert remembered.cache_file().parts[-4:-2] == (".pytest_cache", "user")


# -- devices and precisions


def test_a_device_whose_memory_is_unknown():
    assert device_memory(CPU) is None
    empty_cache(CPU)


def test_on_a_cpu_a_result_is_not_copied():
    x = torch.ones(2)
    assert to_host(x)() is x


def test_all_encoders_on_a_device(text_encoder, tmp_path):
    """Nothing mixes devices, numbers are the CPU's, and the host waits for copies only where transformers asks."""
    turns = [Turn(text, "Ann", ("Bob: now", "Bob: you")[: i % 3]) for i, text in enumerate(TEXTS)]
    speech, image = speech_folder(tmp_path / "m", "hubert"), image_folder(tmp_path / "i", "vit")
    videos = [model_folder(tmp_path / kind, kind) for kind in ("videomae", "timesformer")]
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (n, 48, 48, 3), dtype=np.uint8) for n in (1, 40, 2)]
    grey = [rng.integers(0, 256, (n, 64, 64), dtype=np.uint8) for n in (1, 2)]

    def encoders(device):
        return (
            TextEncoder(str(text_encoder), device=device, context=2),
            AudioModel(str(speech), device, sequences=True),
            ImageModel(str(image), device),
            FaceEncoder("denseface", "random", device),
            *(VideoModel(str(folder), device) for folder in videos),
        )

    def results(text, audio, picture, face, *clips):
        yield text(turns)[0]
        yield from (frames for *_, frames, _ in audio.utterances(spans()) if frames is not None)
        yield from (frames for _, frames in picture.utterances(crops))
        yield from (frames for _, frames in face.utterances(grey))
        yield from (frames for video in clips for _, frames in video.utterances(crops))

    expected = list(results(*encoders(CPU)))
    with StandIn() as device:
        there = encoders(DEVICE)
        with device.counting() as waits:
            found = list(results(*there))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # transformers asks once per batch whether there is padding.
    assert {wait.operation for wait in waits} == {"_local_scalar_dense"}
    assert not any("face_network" in wait.line for wait in waits)


def test_text_in_bfloat16_is_near_float32_and_recorded(text_encoder):
    exact, fast = TextEncoder(str(text_encoder)), TextEncoder(str(text_encoder), precision="bfloat16")
    a, b = exact(["Hello there, my day."])[0], fast(["Hello there, my day."])[0]
    assert b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert fast.provenance()["parameters"]["dtype"] == "bfloat16"


def test_networks_compute_in_the_precision(monkeypatch):
    """Of a CUDA device that is not there: convolutions are exact unless TF32 is asked for."""
    seen = []
    for precision in ("float32", "tf32", "bfloat16"):
        runner = Batches("x", "tokens", 4, torch.device("cuda"), precision, "x")
        monkeypatch.setattr(batching, "to_device", lambda x, device: x)
        runner.one(prepare(range(2)), lambda tensors: (seen.append(torch.backends.cudnn.allow_tf32), tensors["x"])[1])
    assert seen == [False, True, False]


def test_tf32_needs_cuda(tmp_path, text_encoder):
    with pytest.raises(UserError, match="^--precision: tf32"):
        TextEncoder(str(text_encoder), precision="tf32")
    one = Utterance("u", "d", 0, "Ann", "Hello.", "joy", "train")
    write_manifest(Manifest("toy", ["joy"], tmp_path, [one]), tmp_path / "m.jsonl")
    command = ["extract", "manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "s.h5"), "--device", "cpu"]
    result = CliRunner().invoke(main, [*command, "--precision", "tf32", "--text-model", "nobody/nothing"])
    assert result.exit_code == 1 and result.stderr.startswith("Error: --precision: tf32"), result.output
    assert len(result.stderr.splitlines()) == 1
