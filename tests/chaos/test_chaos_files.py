"""`convert`, `export` and `predict`, disturbed."""

from __future__ import annotations

import pytest
from chaos_support import Child, Command, attempt, tries
from test_train_support import write_store

from erc_toolkit.toolkit.demo.clips import write_clip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


@pytest.fixture(scope="module")
def exporting(store, tmp_path_factory):
    return Command("export", lambda root: ["export", store, "--format", "npz", "--out", root / "x.npz"]).learn(
        tmp_path_factory.mktemp("export")
    )


@tries(kill=2, stop=1, fill=2, twice=1)
def test_export(exporting, kind, place, tmp_path, record_property):
    attempt(exporting, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def converting(store, tmp_path_factory):
    made = tmp_path_factory.mktemp("made")
    done = Child(["export", store, "--format", "npz", "--out", made / "x.npz"], made)
    assert done.wait() == 0, done.output()
    return Command("convert", lambda root: ["convert", made / "x.npz", "--out", root / "s.h5"]).learn(
        tmp_path_factory.mktemp("convert")
    )


@tries(kill=2, stop=1, worker=1, fill=2, twice=1)
def test_convert(converting, kind, place, tmp_path, record_property):
    attempt(converting, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def predicting(raw, text_encoder, tmp_path_factory):
    """A run on text and audio, and a recording of two seconds with two turns."""
    import numpy as np

    made = tmp_path_factory.mktemp("predict")
    wave = (0.3 * np.sin(np.arange(32_000) / 20)).astype(np.float32)
    write_clip(made / "talk.wav", None, wave, sample_rate=16_000, audio_codec="pcm_s16le")
    (made / "talk.srt").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\nAnn: I am happy.\n\n2\n00:00:01,000 --> 00:00:02,000\nBob: Why?\n"
    )
    settings = ("train.epochs=1", "model.hidden=16", "model.heads=2", "data.modalities=[text,audio]")
    commands = [
        ["extract", "meld", raw, "--out", made / "s.h5", "--text-model", text_encoder, "--modalities", "text,audio"]
        + ["--audio-set", "eGeMAPSv02"],
        ["train", made / "s.h5", "--out", made / "run", "--recipe", "demo", "--device", "cpu"]
        + [part for setting in settings for part in ("--set", setting)],
    ]
    for command in commands:
        done = Child(command, made)
        assert done.wait() == 0, done.output()
    return Command(
        "predict",
        lambda root: [
            *("predict", made / "run", made / "talk.wav", "--transcript", made / "talk.srt"),
            *("--out", root / "out", "--device", "cpu"),
        ],
    ).learn(tmp_path_factory.mktemp("predicted"))


@tries(kill=2, stop=1, worker=1, fill=2, twice=1)
def test_predict(predicting, kind, place, tmp_path, record_property):
    attempt(predicting, kind, place, tmp_path, record_property)
