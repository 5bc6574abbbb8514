"""The models of `transcribe`: Whisper and voice encoders, little and random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stand_in import DEVICE, StandIn
from transcribe_support import Voices, demo_voice, make_voices, make_whisper

from erc_toolkit.extract.diarization.recognition import FasterWhisper, Word, recognise
from erc_toolkit.extract.diarization.voice_encoders import checked_vectors, load_voice_encoder
from erc_toolkit.extract.diarization.xvectors import XVectors
from erc_toolkit.toolkit.base.errors import UserError


def test_a_little_whisper_gives_words_with_times_in_order(tmp_path):
    folder = make_whisper(tmp_path / "whisper")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # as many as nothing else would choose
    model = FasterWhisper(str(folder), "cpu")
    model.words(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32), "en")
    assert torch.get_num_threads() == 3  # CTranslate2 shares OpenMP with PyTorch
    torch.set_num_threads(threads)
    audio = demo_voice("Alma", 4)
    words, language = recognise(model, audio, [(0.0, 4.0)], None)
    assert language in ("en", "de")
    assert all(0 <= w.start <= w.end <= 4.0 and 0 <= w.probability <= 1 and w.text for w in words)
    assert [w.start for w in words] == sorted(w.start for w in words)
    assert words == recognise(model, audio, [(0.0, 4.0)], language)[0]  # no random numbers
    assert len(model.provenance()["weights_sha256"]) == 64
    with pytest.raises(UserError, match="--language xx"):
        FasterWhisper(str(folder), "cpu", "xx")
    (folder / "model.bin").write_bytes(b"damaged")
    with pytest.raises(UserError, match="--asr-model"):
        FasterWhisper(str(folder), "cpu")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json"):
        FasterWhisper(str(folder), "cpu")
    with pytest.raises(UserError, match="sizes are"):
        FasterWhisper("huge", "cpu")


def test_short_voices_of_a_stream_have_a_short_window(tmp_path, monkeypatch):
    from faster_whisper import WhisperModel

    seen = []

    def encode(self, features):
        seen.append(features.shape[-1])
        return whole(self, features)

    whole = WhisperModel.encode
    monkeypatch.setattr(WhisperModel, "encode", encode)
    folder = make_whisper(tmp_path / "whisper")
    voice = 0.1 * np.random.default_rng(0).standard_normal(14 * 16_000).astype(np.float32)
    for live, seconds, frames in ((True, 3, 1000), (True, 9, 1500), (True, 14, 3000), (False, 3, 3000)):
        model = FasterWhisper(str(folder), "cpu", short_windows=live)
        model.detect(voice[: seconds * 16_000])
        words = model.words(voice[: seconds * 16_000], "en")
        assert seen and set(seen) == {frames} and all(0 <= w.start <= w.end for w in words)
        assert ("windows_s" in model.provenance()["parameters"]) == live
        seen.clear()
    model, heard = FasterWhisper(str(folder), "cpu", short_windows=True), []

    def repeats(samples, language, most_tokens=None):
        heard.append((len(samples), most_tokens))
        return [Word(0.0, 0.1, "two", 0.9)] * (14 if most_tokens else 2)

    monkeypatch.setattr(model, "_words", repeats)
    assert len(model.words(voice[:32_000], "en")) == 2  # nobody says 14 words in 2 s
    assert heard == [(round(9.9 * 16_000), 36), (32_000, None)]


def test_x_vectors_do_not_depend_on_the_other_windows(tmp_path):
    folder = make_voices(tmp_path / "voices")
    model = XVectors(str(folder), torch.device("cpu"))
    windows = [demo_voice("Alma", 1.5), demo_voice("Boris", 0.4), demo_voice("Boris", 1.5, 3)]
    vectors = model.embed(windows)
    assert vectors.shape == (3, 8) and vectors.dtype == np.float32 and np.isfinite(vectors).all()
    for i in range(3):
        assert np.allclose(model.embed(windows[i : i + 1])[0], vectors[i], atol=1e-5)
    assert np.allclose(np.linalg.norm(checked_vectors(model, windows), axis=1), 1, atol=1e-5)
    assert len(model.provenance()["weights_sha256"]) == 64
    with pytest.raises(UserError, match="--speaker-model"):
        load_voice_encoder(str(tmp_path), torch.device("cpu"))


def test_a_voice_encoder_with_another_shape_is_named():
    class Wrong:
        distance = None

        def embed(self, windows):
            return np.zeros((1, 2, 3))

        def provenance(self):
            return {"model": "wrong"}

    with pytest.raises(UserError, match="one vector per window"):
        checked_vectors(Wrong(), [np.zeros(8000, np.float32)])


def test_x_vectors_on_a_device(tmp_path):
    folder = make_voices(tmp_path / "voices")
    windows = [demo_voice("Alma", 1.5), demo_voice("Boris", 0.5)]
    expected = XVectors(str(folder), torch.device("cpu")).embed(windows)
    with StandIn():
        found = XVectors(str(folder), DEVICE).embed(windows)
    assert np.allclose(found, expected, atol=1e-5)


def test_another_packages_voice_encoder(tmp_path, monkeypatch):
    """An entry point in `erc_toolkit.voice_encoders`, by the name that `--speaker-model` gets."""
    info = tmp_path / "toys-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    lines = ["tones = transcribe_support:build_voices", "broken = transcribe_support:nothing", "odd = builtins:str"]
    (info / "entry_points.txt").write_text("\n".join(["[erc_toolkit.voice_encoders]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = load_voice_encoder("tones", torch.device("cpu"))
    assert isinstance(encoder, Voices) and encoder.distance == 0.3
    for name, message in (("broken", "package toys 1"), ("odd", "has no distance")):
        with pytest.raises(UserError, match=message):
            load_voice_encoder(name, torch.device("cpu"))
