"""Small untrained speech and image encoders of transformers, from folders, compared with transformers' own results."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from erc_toolkit.extract.encoders.audio.speech import AudioModel
from erc_toolkit.extract.encoders.base import AudioSpan
from erc_toolkit.extract.encoders.visual.face_network import FaceEncoder, Normalisation
from erc_toolkit.extract.encoders.visual.image import ImageModel
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.store import FeatureStore

SPEECH = {
    "wav2vec2": ("Wav2Vec2", {"feat_extract_norm": "group"}, False),
    "hubert": ("Hubert", {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}, True),
    "wavlm": ("WavLM", {"feat_extract_norm": "layer"}, True),
}


def speech_folder(folder, kind: str, rate: int = 16_000):
    name, more, mask = SPEECH[kind]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **more,
    )
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=rate, padding_value=0.0, do_normalize=True, return_attention_mask=mask
    ).save_pretrained(folder)
    return folder


def spans(seed: int = 0) -> list[AudioSpan]:
    rng = np.random.default_rng(seed)
    return [AudioSpan(rng.normal(0, 0.1, n).astype(np.float32), 16_000) for n in (16_000, 4_000, 25_000, 3, 16_001)]


@pytest.mark.parametrize("kind", sorted(SPEECH))
def test_speech_model_equals_transformers_own_result(tmp_path, kind):
    """In batches or alone, padded or not: the same as the model and its preprocessor for a single utterance."""
    folder = speech_folder(tmp_path / kind, kind)
    encoder = AudioModel(str(folder), sequences=True)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    found = list(encoder.utterances(spans()))
    for span, (mean, reason, frames, times) in zip(spans(), found, strict=True):
        if len(span.samples) < 100:
            assert mean is None and reason.startswith(f"audio too short for {kind}")
            continue
        with torch.no_grad():
            own = model(**prepare(span.samples, sampling_rate=16_000, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(frames, own, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(mean, own.mean(0), rtol=1e-3, atol=2e-5)
        assert np.diff(times) == pytest.approx(80 / 16_000) and reason == ""
    assert encoder.provenance()["versions"]["torchaudio"] and encoder.provenance()["parameters"]["dtype"] == "float32"


def test_audio_of_another_rate_is_resampled_by_torchaudio(tmp_path):
    import torchaudio

    encoder = AudioModel(str(speech_folder(tmp_path / "m", "wavlm")))
    wave = np.sin(np.arange(44_100) / 15).astype(np.float32)
    expected = torchaudio.functional.resample(torch.from_numpy(wave), 44_100, 16_000).numpy()
    (mean, *_), (own, *_) = encoder.utterances([AudioSpan(wave, 44_100), AudioSpan(expected, 16_000)])
    np.testing.assert_array_equal(mean, own)


def test_bfloat16_is_near_float32_and_recorded(tmp_path):
    folder = speech_folder(tmp_path / "m", "hubert")
    exact, fast = AudioModel(str(folder)), AudioModel(str(folder), precision="bfloat16")
    a, b = (next(iter(encoder.utterances(spans())))[0] for encoder in (exact, fast))
    assert not np.array_equal(a, b) and np.abs(a - b).max() < 0.1 and b.dtype == np.float32
    assert fast.provenance()["parameters"]["dtype"] == "bfloat16"
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    a, b = (FaceEncoder("denseface", "random", precision=p)(crops) for p in ("float32", "bfloat16"))
    assert not np.array_equal(a, b) and np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_speech_models_that_are_refused(tmp_path, text_encoder):
    with pytest.raises(UserError, match="audio model 'nobody/nothing'.*--audio-model DIR"):
        AudioModel("nobody/nothing")
    with pytest.raises(UserError, match=f"(?=.*{text_encoder})(?=.*--audio-model)"):
        AudioModel(str(text_encoder))
    folder = speech_folder(tmp_path / "m", "wavlm")
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop(next(key for key in state if "attention.k_proj.weight" in key))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="'.*k_proj.weight'"):
        AudioModel(str(folder))


IMAGES = {
    "vit": (
        "ViT",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 48,
            "patch_size": 16,
        },
    ),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 48}),
}


def image_folder(folder, kind: str):
    name, config = IMAGES[kind]
    torch.manual_seed(1)
    getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", sorted(IMAGES))
def test_image_model_equals_transformers_own_result(tmp_path, kind):
    folder = image_folder(tmp_path / kind, kind)
    encoder = ImageModel(str(folder))
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    model, prepare = (
        transformers.AutoModel.from_pretrained(folder).eval(),
        transformers.AutoImageProcessor.from_pretrained(folder),
    )
    with torch.no_grad():
        hidden = model(**prepare(list(crops), return_tensors="pt")).last_hidden_state
    own = hidden[:, 0] if kind == "vit" else hidden.mean((2, 3))
    assert encoder.expected.side == 48 and not encoder.expected.grey
    np.testing.assert_allclose(encoder(crops), own.numpy(), rtol=1e-3, atol=2e-5)


def test_image_models_that_are_refused(tmp_path):
    with pytest.raises(UserError, match="image model 'nobody/nothing'.*--visual-model DIR"):
        ImageModel("nobody/nothing")
    with pytest.raises(UserError, match=f"(?=.*{tmp_path}/m)(?=.*--visual-model)"):
        ImageModel(str(speech_folder(tmp_path / "m", "wavlm")))


def test_normalisation():
    assert (
        Normalisation.parse("51,102", grey=True).mean == (0.2,)
        and Normalisation.parse("51,102", grey=False).std == (0.4,) * 3
    )
    assert Normalisation.parse("iemocap", grey=True).mean == (131.0754 / 255,)
    for text in ("x", "1", "1,2,3", "1,0", "1,-2", "nan,1"):
        with pytest.raises(UserError, match="--normalisation"):
            Normalisation.parse(text, grey=True)
    with pytest.raises(UserError, match="--normalisation meld: .*grey"):
        Normalisation.parse("meld", grey=False)
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    plain, dark = (
        FaceEncoder("denseface", "random"),
        FaceEncoder("denseface", "random", normalisation=Normalisation.parse("meld", True)),
    )
    assert not np.allclose(plain(crops), dark(crops))
    assert dark.provenance()["parameters"]["normalised_by"] == "given as meld"


@pytest.mark.slow
def test_extracting_with_models_by_name_and_sequences(raw, tmp_path):
    """The whole command: the frames behind each vector are kept, and their mean is the vector."""
    audio, visual = speech_folder(tmp_path / "speech", "hubert"), image_folder(tmp_path / "image", "vit")
    command = [
        "extract",
        "meld",
        str(raw),
        "--out",
        str(tmp_path / "s.h5"),
        "--modalities",
        "audio,visual",
        "--face-detector",
        "haar",
        "--fps",
        "3",
        "--sequences",
        "--audio-model",
        str(audio),
        "--visual-model",
        str(visual),
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        store.verify()
        for name in ("audio/speech", "visual/image"):
            feature = store.feature(name)
            values, present = feature.values(), feature.present()
            assert feature.has_sequences and present.sum() > 10 and not present.all()
            for row in range(len(store)):
                frames, times = feature.sequence(row)
                assert len(frames) == len(times) and (len(frames) > 0) == present[row]
                if present[row]:
                    np.testing.assert_allclose(frames.mean(0), values[row], rtol=1e-4, atol=1e-5)
                    assert times[0] >= 0 and (np.diff(times) > 0).all()
        assert (store.feature("visual/image").details()["tracks"][store.feature("visual/image").present()] >= 1).all()
        hash_one = store.content_hash
    shutil.move(tmp_path / "s.h5", tmp_path / "first.h5")
    assert CliRunner().invoke(main, [*command, "--part-size", "3"]).exit_code == 0
    with FeatureStore.open(tmp_path / "s.h5") as store, FeatureStore.open(tmp_path / "first.h5") as first:
        a, b = store.feature("audio/speech"), first.feature("audio/speech")
        np.testing.assert_allclose(a.values(), b.values(), rtol=1e-3, atol=1e-5)
        assert hash_one and (store.feature("visual/image").present() == first.feature("visual/image").present()).all()


def test_low_level_descriptors_are_opensmiles_own(raw, tmp_path):
    import opensmile

    from erc_toolkit.toolkit.media import MediaReader

    command = [
        "extract",
        "meld",
        str(raw),
        "--out",
        str(tmp_path / "s.h5"),
        "--modalities",
        "audio",
        "--audio-set",
        "eGeMAPSv02",
        "--sequences",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("audio/eGeMAPSv02")
        assert feature.frame_names() == list(smile.feature_names) and feature.dim == 88
        row = int(np.flatnonzero(feature.present())[3])
        frames, times = feature.sequence(row)
        with MediaReader(raw / store.column("media")[row]) as media:
            media.finish()
        expected = smile.process_signal(media.samples, 16_000)
        assert (frames == expected.to_numpy(np.float32)).all() and frames.shape[1] == 25
        assert times == pytest.approx(0.01 * np.arange(len(frames)))
    found = json.loads(CliRunner().invoke(main, ["info", str(tmp_path / "s.h5"), "--json"]).output)
    assert found["features"]["audio/eGeMAPSv02"]["made"]["parameters"]["sequences"] == "low-level descriptors"


def test_options_that_would_be_ignored_are_refused(raw, tmp_path):
    from erc_toolkit.extract.commands.extract import DENSENETS
    from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES

    assert set(DENSENETS) == set(ARCHITECTURES)
    refused = (
        (["--audio-model", "x", "--audio-set", "IS10"], ("--audio-model", "--audio-set")),
        (["--visual-model", "vit", "--visual-weights", "random"], ("--visual-weights", "vit")),
    )
    for options, facts in refused:
        result = CliRunner().invoke(main, ["extract", "meld", str(raw), "--out", str(tmp_path / "s.h5"), *options])
        assert result.exit_code == 2 and all(fact in result.output for fact in facts)
