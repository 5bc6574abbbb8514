"""Fine-tuning tiny speech models on tones, and their class probabilities, beside transformers' own results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
import yaml
from click.testing import CliRunner
from tuning_support import spoken_manifest, tiny_speech, tiny_whisper

from erc_toolkit.extract.encoders.audio.classifier import SpeechClassifier
from erc_toolkit.extract.encoders.audio.speech import AudioModel
from erc_toolkit.extract.encoders.base import AudioSpan
from erc_toolkit.extract.tuning.adapters import freeze_below, trained
from erc_toolkit.extract.tuning.recordings import read_clips
from erc_toolkit.extract.tuning.speech import SpeechRecipe, finetune_speech
from erc_toolkit.toolkit.base.errors import Interrupted, UserError
from erc_toolkit.toolkit.base.progress import Stages
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest
from erc_toolkit.toolkit.media import MediaReader
from erc_toolkit.toolkit.store import FeatureStore

QUICK = SpeechRecipe(epochs=5, lr=3e-3, batch=4, micro_batch=4, freeze_layers=1)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    return spoken_manifest(folder), tiny_speech(folder / "wavlm")


@pytest.fixture(scope="module")
def tuned(task, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "wavlm-tones"
    return out, finetune_speech(task[0], str(task[1]), out, QUICK, "cpu", lambda line: None, workers=1)


def wave_of(manifest, row: int) -> np.ndarray:
    found = load_manifest(manifest)
    with MediaReader(found.path(found.utterances[row].media or "")) as media:
        media.finish()
    assert media.samples is not None
    return media.samples


def by_hand(folder, wave: np.ndarray) -> np.ndarray:
    model = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**prepare(wave, sampling_rate=16_000, return_tensors="pt")).logits[0]
    return torch.softmax(logits, -1).numpy()


def test_it_learns_and_loads_as_an_audio_model(task, tuned):
    out, best = tuned
    assert best["val_accuracy"] > 0.9  # chance is a half
    record = yaml.safe_load((out / "finetune.yaml").read_text())
    assert record["labels"] == ["low", "high"] and record["utterances"] == {"train": 20, "val": 20}
    assert record["skipped"] == {} and record["recipe"]["freeze_layers"] == 1 and record["frozen_parameters"] > 0
    before, after = AudioModel(str(task[1])), AudioModel(str(out))
    span = [AudioSpan(wave_of(task[0], 0), 16_000)]
    a, b = (next(iter(model.utterances(span)))[0] for model in (before, after))
    assert a is not None and b is not None and np.abs(a - b).max() > 1e-3


def test_what_is_frozen_stays(task, tuned):
    from safetensors.torch import load_file

    start, end = load_file(task[1] / "model.safetensors"), load_file(tuned[0] / "model.safetensors")
    same = {name for name, tensor in start.items() if torch.equal(tensor, end[f"wavlm.{name}"])}
    assert all(name in same for name in start if name.startswith(("feature_extractor.", "encoder.layers.0.")))
    assert not any(name in same for name in start if name.startswith("encoder.layers.1.") and "dense" in name)
    model = transformers.AutoModelForAudioClassification.from_pretrained(task[1])
    with pytest.raises(UserError, match="--freeze-layers 3: the model has 2 layers"):
        freeze_below(model, 3, ("projector", "classifier"))
    assert freeze_below(model, 0, ()) == [] and len(list(trained(model))) == len(list(model.parameters()))


def test_probabilities_are_the_models_own(task, tuned):
    out, _ = tuned
    model = SpeechClassifier(str(out))
    waves = [wave_of(task[0], row) for row in (0, 1, 5)] + [np.ones(100, np.float32)]
    spans = [AudioSpan(wave, 16_000) for wave in waves]
    together = list(model.extract(spans, lambda count: None))
    for wave, one, span in zip(waves[:3], together, spans, strict=False):
        np.testing.assert_allclose(one.values, by_hand(out, wave), atol=1e-5)
        alone = next(iter(model.extract([span], lambda count: None)))
        np.testing.assert_allclose(one.values, alone.values, atol=1e-5)
    assert together[3].values is None and "too short" in together[3].reason
    assert model.name == "wavlm-tones-probs" and model.dimension_names == ("low", "high")


@pytest.mark.parametrize("kind", ["Data2VecAudio", "WavLM"])
def test_padding_never_reaches_a_clip(tmp_path, kind):
    """Data2vec's positional layers would carry it into the last frames, in spite of the attention mask."""
    tiny_speech(tmp_path, kind)
    torch.manual_seed(2)
    model = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path)
    (tmp_path / "finetune.yaml").write_text("labels: [low, high]\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    spans = [AudioSpan(rng.normal(0, 0.1, n).astype(np.float32), 16_000) for n in (4_000, 9_000, 30_000)]
    classifier = SpeechClassifier(str(tmp_path))
    together = np.stack([one.values for one in classifier.extract(spans, lambda count: None)])
    alone = np.stack([next(iter(classifier.extract([span], lambda count: None))).values for span in spans])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_probabilities_through_extract(task, tuned, tmp_path):
    arguments = ["extract", "manifest", str(task[0]), "--modalities", "audio", "--device", "cpu", "--workers", "1"]
    arguments += ["--audio-model", str(tuned[0]), "--output", "probs", "--out", str(tmp_path / "s.h5")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("audio/wavlm-tones-probs")
        assert feature.dim == 2 and feature.dimension_names() == ["low", "high"]
        np.testing.assert_allclose(feature.values()[5], by_hand(tuned[0], wave_of(task[0], 5)), atol=1e-5)
        right = feature.values().argmax(1) == store.column("label")
        assert right[store.column("split") == "val"].mean() == pytest.approx(tuned[1]["val_accuracy"])
        assert json.loads(str(feature.attrs["parameters"]))["trained_on"] == ["train"]


def test_bad_clips_are_left_out_and_counted(task, tmp_path):
    found = load_manifest(task[0])
    used = [*found.utterances]
    (found.root / "tones" / "broken.wav").write_bytes(b"RIFF nothing")
    more = [("broken.wav", None, None), ("missing.wav", None, None), ("0.wav", 0.0, 9.0), ("0.wav", 0.1, 0.3)]
    more.append(("0.wav", 0.1, 0.12))
    used += [
        Utterance(f"x{i}", "x", i, "Ann", "hm", "low", "train", media=f"tones/{name}", start=start, end=end)
        for i, (name, start, end) in enumerate(more)
    ]
    path = found.root / "more.jsonl"
    write_manifest(Manifest("tones", found.labels, found.root, used), path)
    with Stages() as progress:
        clips = read_clips(path, 16_000, 0.25, tmp_path, progress, 1)
    assert len(clips.splits["train"]) == 21 and sum(clips.skipped.values()) == 4
    assert "beyond the end of the file" in clips.skipped and "missing file" in clips.skipped
    last = clips.samples("train", 20)
    np.testing.assert_array_equal(last, wave_of(task[0], 0)[1600:4800])
    assert len(clips.samples("train", 0)) == 4000 and clips.cut == 40  # a quarter of a second
    assert not list(tmp_path.iterdir())  # the samples are in a file without a name


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Whisper"])
def test_other_models_and_adapters(task, tmp_path, kind):
    """One that must not see padding, and one that hears spectrograms; by adapters, which are merged."""
    start = tiny_whisper(tmp_path / "start") if kind == "Whisper" else tiny_speech(tmp_path / "start", kind)
    small = spoken_manifest(tmp_path / "few", count=16)
    recipe = SpeechRecipe(epochs=1, lr=1e-2, batch=4, micro_batch=2, lora=2, gradient_checkpointing=kind == "Whisper")
    best = finetune_speech(small, str(start), tmp_path / "out", recipe, "cpu", lambda line: None, workers=1)
    model = SpeechClassifier(str(tmp_path / "out"))
    spans = [AudioSpan(wave_of(small, row), 16_000) for row in range(16)]
    found = np.stack([one.values for one in model.extract(spans, lambda count: None)])
    for row in (0, 3):
        np.testing.assert_allclose(found[row], by_hand(tmp_path / "out", spans[row].samples), atol=1e-5)
    labels = np.arange(16) % 2
    val = np.arange(16) // 4 % 2 == 1
    assert -np.log(found[val, labels[val]]).mean() == pytest.approx(best["val_loss"], abs=1e-4)
    assert not list((tmp_path / "out").glob("adapter*"))


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_bytes(task, tuned, tmp_path):
    manifest, start = task
    out = tmp_path / "wavlm-tones"

    def after(line: str) -> None:
        if line.startswith("  epoch 1:"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after epoch 1 of 5"):
        finetune_speech(manifest, str(start), out, QUICK, "cpu", after, workers=1)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from erc_toolkit.extract.tuning.speech import SpeechRecipe, finetune_speech\n"
        "def kill(line):\n    if 'epoch 3' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "recipe = SpeechRecipe(epochs=5, lr=3e-3, batch=4, micro_batch=4, freeze_layers=1)\n"
        "finetune_speech(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), recipe, 'cpu', kill, workers=1)"
    )
    died = subprocess.run([sys.executable, "-c", code, manifest, start, out], check=False)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    lines: list[str] = []
    finetune_speech(manifest, str(start), out, QUICK, "cpu", lines.append, workers=1)
    assert "resuming after epoch 2" in lines
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in tuned[0].iterdir()}


def test_mistakes_are_one_line(task, tmp_path, text_encoder):
    def error_of(*arguments, command="finetune-speech") -> str:
        words = [command, str(task[0]), "--out", str(tmp_path / "out"), "--device", "cpu"]
        if command == "extract":
            words = ["extract", "manifest", *words[1:], "--modalities", "audio"]
        result = CliRunner().invoke(main, [*words, *map(str, arguments)])
        assert result.exit_code == 1 and result.stderr.strip().count("\n") == 0, result.output
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
        return result.stderr

    assert "transformers has no classifier of roberta" in error_of("--audio-model", text_encoder)
    assert "--audio-model DIR" in error_of("--audio-model", tmp_path)
    both = error_of("--audio-model", task[1], "--freeze-layers", "1", "--lora", "2")
    assert "--freeze-layers" in both and "--lora" in both
    refused = error_of("--audio-model", task[1], "--output", "probs", command="extract")
    assert "finetune-speech" in refused and json.dumps(str(task[1]))[1:-1] in refused
