"""`transcribe`, disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from chaos_support import Command, attempt, tries
from transcribe_support import demo_voice, make_voices, make_whisper, write_wav

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def transcribing(tmp_path_factory):
    """Three voices, far apart, in pieces of their own."""
    folder = tmp_path_factory.mktemp("transcribing")
    rng, parts = np.random.default_rng(0), []
    for i in range(3):
        parts += [demo_voice(("Alma", "Boris")[i % 2], 3, i), rng.normal(0, 1e-3, 45 * 16000).astype(np.float32)]
    scene = write_wav(folder / "scene.wav", np.concatenate(parts))
    models = ["--asr-model", make_whisper(folder / "whisper"), "--speaker-model", make_voices(folder / "voices")]
    options = [*models, "--device", "cpu", "--language", "en"]
    return Command(
        "transcribe", lambda root: ["transcribe", scene, "--out", root / "turns.json", *options], locks=True
    ).learn(tmp_path_factory.mktemp("transcribe"))


@tries(kill=2, stop=1, fill=1, twice=1)
def test_transcribe(transcribing, kind, place, tmp_path, record_property):
    attempt(transcribing, kind, place, tmp_path, record_property)
