"""Layers, poolings and windows of speech encoders, compared with transformers' own states, pooled by hand in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from erc_toolkit.extract.encoders.audio.layers import Layers
from erc_toolkit.extract.encoders.audio.pooling import pooled, pooled_alone
from erc_toolkit.extract.encoders.audio.speech import AudioModel, _Item
from erc_toolkit.extract.encoders.base import AudioSpan, Setup
from erc_toolkit.extract.encoders.selection import AUDIO_POOLINGS, Options
from erc_toolkit.toolkit.base.errors import UserError

LAYERS, WIDTH = 3, 16
_STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
# Name of transformers' classes, more of the configuration, and whether the model may see padding.
FAMILIES = {
    "wav2vec2": ("Wav2Vec2", {"feat_extract_norm": "group"}, False),
    "wav2vec2-large": ("Wav2Vec2", _STABLE, True),
    "hubert": ("Hubert", {"feat_extract_norm": "group"}, False),
    "hubert-large": ("Hubert", _STABLE, True),
    "wavlm": ("WavLM", {"feat_extract_norm": "group"}, False),
    "wavlm-large": ("WavLM", _STABLE, True),
    "unispeech-sat": ("UniSpeechSat", _STABLE, True),
    "data2vec-audio": ("Data2VecAudio", {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}, True),
    "conformer": ("Wav2Vec2Conformer", {"feat_extract_norm": "layer", "conv_depthwise_kernel_size": 3}, True),
    "group norm with a mask": ("Hubert", {"feat_extract_norm": "group"}, True),
}
CHOICES = ["last", "all", "1-2", "2", "each"]
LENGTHS = (40_000, 16_001, 900, 4_000)


def scattered(model, seed: int = 1):
    """The model with random numbers in all its weights, as a trained one has, and not only in its matrices."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval()


def speech_model(folder: Path, family: str, **more) -> Path:
    name, own, mask = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **{
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "conv_dim": (8, 8, 8),
            "conv_stride": (5, 4, 4),
            "conv_kernel": (10, 8, 4),
            "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            **own,
            **more,
        }
    )
    scattered(getattr(transformers, f"{name}Model")(config)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask).save_pretrained(folder)
    return folder


def whisper_model(folder: Path, seconds: int) -> Path:
    """Whisper with windows of so many seconds; its frames are 20 ms."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=50 * seconds,
        max_target_positions=8,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    scattered(transformers.WhisperModel(config)).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=seconds).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    found = {family: speech_model(root / family, family) for family in FAMILIES}
    return {**found, "whisper": whisper_model(root / "whisper", 1)}


def spans(lengths=LENGTHS) -> list[AudioSpan]:
    """Noise whose loudness and colour change within an utterance, so that its frames differ."""
    rng, found = np.random.default_rng(0), []
    for n in lengths:
        wave = rng.normal(0, 0.1, n) * (1 + np.sin(np.arange(n) / 900)) + 0.2 * np.sin(np.arange(n) ** 1.2 / 50)
        found.append(AudioSpan((0.3 * wave).astype(np.float32), 16_000))
    return found


def own_states(folder: Path, wave: np.ndarray, window: int = 0) -> np.ndarray:
    """What transformers gives for one utterance: float32 (layers + 1, T, width); Whisper's window by window."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    found = []
    for start in range(0, len(wave), window or len(wave)):
        piece = wave[start : start + (window or len(wave))]
        inputs = prepare(piece, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            output = (model.encoder if window else model)(**inputs, output_hidden_states=True)
        states = torch.stack([*output.hidden_states[:-1], output.last_hidden_state])[:, 0].numpy()
        found.append(states[:, : int(np.ceil(len(piece) / 320))] if window else states)
    return np.concatenate(found, 1)


def by_hand(states: np.ndarray, layers: str, pooling: str) -> np.ndarray:
    """A vector from the states of one utterance, one number of the formula after the other."""
    states = states.astype(np.float64)
    chosen = {
        "last": [states[-1]],
        "all": [states[1:].mean(0)],
        "1-2": [(states[1] + states[2]) / 2],
        "2": [states[2]],
        "each": list(states),
    }[layers]
    found = []
    for h in chosen:
        weights = np.full(len(h), 1 / len(h))
        if pooling == "attentive":
            scores = np.array([frame @ h.mean(0) for frame in h]) / np.sqrt(WIDTH)
            weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        mean = np.average(h, 0, weights)
        found.append(mean)
        if pooling != "mean":
            found.append(np.sqrt(np.average((h - mean) ** 2, 0, weights)))
    return np.concatenate(found)


@pytest.mark.parametrize("layers", CHOICES)
@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
def test_a_vector_is_transformers_own_alone_and_in_a_batch(folders, family, layers, record_property):
    window = 16_000 if family == "whisper" else 0
    expected = [own_states(folders[family], span.samples, window) for span in spans()]
    for pooling in AUDIO_POOLINGS:
        encoder = AudioModel(str(folders[family]), layers=layers, audio_pooling=pooling)
        together = [vector for vector, *_ in encoder.utterances(spans())]
        alone = [next(iter(encoder.utterances([span])))[0] for span in spans()]
        for states, one, many in zip(expected, alone, together, strict=True):
            own = by_hand(states, layers, pooling)
            assert one.dtype == many.dtype == np.float32 and one.shape == many.shape == (encoder.dim,) == own.shape
            np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(one, own, rtol=1e-5, atol=1e-5)
            record_property(f"{pooling}, batch - alone", float(np.abs(many - one).max()))
            record_property(f"{pooling}, alone - by hand", float(np.abs(one - own).max()))
        assert np.abs(together[0] - together[2]).max() > 0.01  # the comparison can fail


def test_models_that_padding_would_reach_get_utterances_one_by_one(folders):
    """Their features used to depend on the batch; those of others did not and are recorded as before."""
    alone = {family for family in FAMILIES if "batches" in AudioModel(str(folders[family])).provenance()["parameters"]}
    assert alone == {"data2vec-audio", "conformer", "group norm with a mask"}
    for family in ("data2vec-audio", "conformer", "group norm with a mask"):
        encoder = AudioModel(str(folders[family]), sequences=True)
        long, short = spans((8_000, 2_000))
        together = encoder._batches.one(
            encoder._inputs([_item(encoder, 0, short), _item(encoder, 1, long)]), encoder._frames
        )
        frames = next(iter(encoder.utterances([short])))[2]
        assert np.abs(together[0, : len(frames)] - frames).max() > 0.01


def _item(encoder, row: int, span: AudioSpan):
    return _Item(row, encoder._front.cut(len(span.samples))[0], span.samples)


def test_whisper_takes_windows_of_thirty_seconds(tmp_path):
    """At Whisper's real sizes: 70 s are three windows, and 1 s is one whose other 29 s do not enter the mean."""
    folder = whisper_model(tmp_path / "whisper", 30)
    encoder = AudioModel(str(folder), sequences=True)
    utterances = spans((70 * 16_000 + 1, 16_000, 30 * 16_000))
    found = list(encoder.utterances(utterances))
    for span, (vector, reason, frames, times) in zip(utterances, found, strict=True):
        own = own_states(folder, span.samples, 480_000)[-1]
        assert frames.shape == own.shape and reason == ""
        np.testing.assert_allclose(frames, own, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(vector, own.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-5)
        assert times == pytest.approx(0.02 * np.arange(len(own)))
    assert [len(frames) for _, _, frames, _ in found] == [3501, 50, 1500]
    with torch.inference_mode():  # one whole window is the model's own result without any cut
        prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
        inputs = prepare(utterances[2].samples, sampling_rate=16_000, return_tensors="pt")
        whole = transformers.WhisperModel.from_pretrained(folder).eval().encoder(**inputs).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found[2][2], whole, rtol=1e-5, atol=1e-5)
    assert encoder.provenance()["parameters"]["windows"].startswith("30 s") and encoder.hop_s == 0.02
    assert not any(
        isinstance(part, transformers.models.whisper.modeling_whisper.WhisperDecoder) for part in _parts(encoder)
    )


def _parts(encoder):
    return [part for one in vars(encoder._front).values() if isinstance(one, torch.nn.Module) for part in one.modules()]


def test_whisper_without_its_decoder_is_complete_and_others_windows_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = whisper_model(tmp_path / "whisper", 1)
    before = AudioModel(str(folder)).provenance()["weights_sha256"]
    state = load_file(folder / "model.safetensors")
    encoder = {key: value for key, value in state.items() if "decoder." not in key}
    assert len(encoder) < len(state)
    save_file(encoder, folder / "model.safetensors", metadata={"format": "pt"})
    assert AudioModel(str(folder)).provenance()["weights_sha256"] == before
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)
    with pytest.raises(UserError, match="32000 samples in 8 mel bands, its encoder takes 16000 in 8"):
        AudioModel(str(folder))


def test_each_layer_is_one_of_the_others_and_declared(folders):
    each = AudioModel(str(folders["wavlm-large"]), layers="each", audio_pooling="mean+std")
    assert (each.layer_count, each.dim, each.frame_width) == (LAYERS + 1, (LAYERS + 1) * 2 * WIDTH, 0)
    parameters = each.provenance()["parameters"]
    assert (parameters["layers"], parameters["layer_count"], parameters["layer_dim"]) == ("each", LAYERS + 1, 2 * WIDTH)
    rows = np.stack([vector for vector, *_ in each.utterances(spans())]).reshape(len(LENGTHS), LAYERS + 1, -1)
    for layer in range(LAYERS + 1):
        one = AudioModel(str(folders["wavlm-large"]), layers=str(layer), audio_pooling="mean+std")
        assert one.layer_count == 0 and one.provenance()["parameters"]["layers"] == str(layer)
        np.testing.assert_allclose(rows[:, layer], [v for v, *_ in one.utterances(spans())], rtol=1e-5, atol=1e-5)
    last = AudioModel(str(folders["wavlm-large"]), audio_pooling="mean+std")  # the top layer is after its normalisation
    np.testing.assert_allclose(rows[:, -1], [v for v, *_ in last.utterances(spans())], rtol=1e-5, atol=1e-5)


def test_the_last_layers_mean_is_recorded_and_computed_as_ever(folders):
    """Features of earlier versions stay valid: the parameters in their order, and the mean of the frames to the bit."""
    encoder = AudioModel(str(folders["hubert-large"]), sequences=True)
    assert json.dumps(encoder.provenance()["parameters"]) == json.dumps(
        {
            "pooling": "mean over frames, last layer",
            "sample_rate_hz": 16_000,
            "frames_per_second": 200.0,
            "resampling": "torchaudio.functional.resample from the track's own rate",
            "channels": "mono mix",
            "dtype": "float32",
            "sequences": "frames of the last layer",
        }
    )
    for vector, _, frames, _ in encoder.utterances(spans()):
        np.testing.assert_array_equal(vector, frames.mean(0, dtype=np.float64).astype(np.float32))


def test_sequences_are_frames_of_the_chosen_layers(folders):
    encoder = AudioModel(str(folders["data2vec-audio"]), sequences=True, layers="1-2", audio_pooling="mean+std")
    assert (encoder.frame_width, encoder.dim) == (WIDTH, 2 * WIDTH)
    assert encoder.provenance()["parameters"]["sequences"] == "frames of the mean of layers 1 to 2"
    for span, (vector, _, frames, times) in zip(spans(), encoder.utterances(spans()), strict=True):
        own = own_states(folders["data2vec-audio"], span.samples)
        np.testing.assert_allclose(frames, own[1:3].mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(vector[WIDTH:], frames.std(0, dtype=np.float64), rtol=1e-5, atol=1e-5)
        assert len(times) == len(frames)


def test_layers_as_written():
    assert Layers.parse("06-12", 12, "m").text == "6-12" and Layers.parse("012", 12, "m").text == "12"
    assert Layers.parse("6-12", 24, "m").words == "mean of layers 6 to 12"
    for text in ("13", "2-13", "5-2", "-1", "first", "", "1-2-3", "٣", "1.0", "99999", "6–12"):
        with pytest.raises(UserError, match=r"--layers .*: m has 12 layers; write .* 0 to 12, .* 6-12$"):
            Layers.parse(text, 12, "m")


def test_what_an_encoder_cannot_do_is_refused(folders, tmp_path):
    folder = str(folders["wav2vec2"])
    with pytest.raises(UserError, match="wav2vec2 has 3 layers"):
        AudioModel(folder, layers="4")
    with pytest.raises(UserError, match="--sequences: not with --layers each"):
        AudioModel(folder, layers="each", sequences=True)
    with pytest.raises(UserError, match="--audio-pooling max: choose from mean"):
        AudioModel(folder, audio_pooling="max")
    FAMILIES["sew"] = ("SEW", {"squeeze_factor": 2}, True)
    sew = str(speech_model(tmp_path / "sew", "sew"))
    del FAMILIES["sew"]
    with pytest.raises(UserError, match="layers of sew have other frames.*--layers last"):
        AudioModel(sew, layers="all")
    assert AudioModel(sew).dim == WIDTH


def test_options_of_a_run_reach_the_encoder(folders):
    options = Options(audio_model=str(folders["wavlm"]), layers="1-3", audio_pooling="attentive")
    encoder = AudioModel.build(options, Setup(torch.device("cpu")))
    parameters = encoder.provenance()["parameters"]
    assert parameters["layers"] == "1-3" and parameters["pooling"].startswith("attention without trained weights: ")


@pytest.mark.parametrize("pooling", AUDIO_POOLINGS)
def test_pooling_ignores_whatever_padding_contains(pooling):
    frames = torch.from_numpy(np.random.default_rng(0).normal(3, 1, (2, 7, 5)).astype(np.float32))
    real = torch.arange(7) < torch.tensor([[7], [1]])
    frames[1, 1:] = torch.nan
    found = pooled(frames, real, pooling)
    assert found.dtype == torch.float64
    for row, length in enumerate((7, 1)):
        np.testing.assert_allclose(found[row], pooled_alone(frames[row, :length].numpy(), pooling), rtol=1e-6)
    assert pooling == "mean" or (found[1, 5:] == 0).all()  # a single frame does not deviate
