"""`finetune-text`, `finetune-speech` and `train-face`, disturbed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from chaos_support import Command, attempt, tries
from tuning_support import spoken_manifest, tiny_speech

from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest

pytestmark = pytest.mark.slow
WORDS = {"joy": "happy", "anger": "furious"}


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    utterances = []
    for i in range(48):
        label = list(WORDS)[i % 2]
        split = ("train", "train", "val", "test")[i // 6 % 4]
        text = f"{WORDS[label]} {'so very today here then'.split()[i % 5]}"
        utterances.append(Utterance(f"u{i}", f"d{i // 6}", i % 6, "Ann", text, label, split))
    write_manifest(Manifest("toy", list(WORDS), folder, utterances), folder / "m.jsonl")
    start = make_text_encoder(folder / "start", [u.text for u in utterances], layers=4)
    options = ["--text-model", start, "--epochs", "4", "--batch", "8", "--lr", "1e-3", "--device", "cpu"]
    return Command(
        "finetune-text", lambda root: ["finetune-text", folder / "m.jsonl", "--out", root / "tuned", *options]
    ).learn(tmp_path_factory.mktemp("finetune"))


@tries(kill=2, stop=1, fill=2, twice=1)
def test_finetune_text(tuning, kind, place, tmp_path, record_property):
    attempt(tuning, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def speech_tuning(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    manifest, start = spoken_manifest(folder, count=16), tiny_speech(folder / "start")
    options = [
        "--audio-model",
        start,
        "--epochs",
        "3",
        "--batch",
        "4",
        "--lr",
        "1e-3",
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    return Command(
        "finetune-speech", lambda root: ["finetune-speech", manifest, "--out", root / "heard", *options]
    ).learn(tmp_path_factory.mktemp("finetune-speech"))


@tries(kill=2, stop=1, fill=2, twice=1)
def test_finetune_speech(speech_tuning, kind, place, tmp_path, record_property):
    attempt(speech_tuning, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def face_training(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for i, label in enumerate(("dark", "light")):
            (folder / split / label).mkdir(parents=True)
            for n in range(count):
                image = np.clip(rng.normal(60 + 120 * i, 20, (64, 64)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / split / label / f"{n}.png"), image)
    options = ["--epochs", "3", "--batch", "8", "--device", "cpu"]
    return Command("train-face", lambda root: ["train-face", folder, "--out", root / "trained", *options]).learn(
        tmp_path_factory.mktemp("train-face")
    )


@tries(kill=2, stop=1, fill=2, twice=1)
def test_train_face(face_training, kind, place, tmp_path, record_property):
    attempt(face_training, kind, place, tmp_path, record_property)
