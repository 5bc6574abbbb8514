"""Each extractor compared with the library that it uses, or with a slow second computation."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch

from erc_toolkit.extract.encoders.audio.opensmile_sets import functionals
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder
from erc_toolkit.extract.encoders.weights import checksum, load_state
from erc_toolkit.extract.faces.detection import Face, crop, face_model, make_detector, overlap
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.media import FULL_SCALE


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    t = np.arange(int(16000 * seconds)) / 16000
    tone = sum(np.sin(2 * np.pi * 140 * k * t * (1 + 0.02 * np.sin(7 * t))) / k for k in range(1, 12))
    noise = np.random.default_rng(seed).normal(0, 0.02, len(t))
    return (0.2 * tone * (0.6 + 0.4 * np.sin(5 * t)) + noise).astype(np.float32)


@pytest.mark.parametrize(
    "name, dim",
    [
        ("ComParE_2016", 6373),
        ("IS10", 1582),
        ("IS09", 384),
        ("IS13", 6373),
        ("eGeMAPSv02", 88),
        ("GeMAPSv01b", 62),
        ("emobase", 988),
    ],
)
def test_functionals_are_opensmiles_own(name, dim):
    import opensmile

    samples = voice(1.5)
    values, reason = functionals(name)(samples)
    smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
    table = smile.process_signal(samples, 16000)
    assert reason == "" and values.shape == (dim,) and values.dtype == np.float32
    assert (values == table.to_numpy(np.float32)[0]).all()
    assert functionals(name).dimension_names == list(table.columns)


def test_audio_without_functionals():
    assert functionals("IS10")(np.zeros(0, np.float32)) == (None, "no audio samples in this span")
    assert functionals("IS10")(np.zeros(16000, np.float32))[1].startswith("silent audio")
    assert functionals("ComParE_2016")(voice(0.02))[1].startswith("audio too short for ComParE_2016")


def test_full_scale_does_not_wrap():
    """A sample at 1.0 would come out of opensmile's 16-bit cast as -1.0; at the clipping bound it does not."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.LowLevelDescriptors)
    loud = np.clip(voice(0.5) * 20, -1, FULL_SCALE).astype(np.float32)
    as_integers = np.round(loud * 32768).astype(np.int16)
    assert as_integers.max() == 32767 and np.isfinite(smile(loud, 16000)).all()


TEXTS = ["Hello.", "What do you want from me, my day?", "I am so happy to see you! " * 40, "", "  ", "worst"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_text_in_batches_equals_text_alone(text_encoder, pooling):
    encoder = TextEncoder(str(text_encoder), pooling)
    values, reasons, details = encoder(TEXTS)
    assert values.shape == (6, encoder.dim) and reasons == ["", "", "", "empty transcript", "empty transcript", ""]
    for i in (0, 1, 2, 5):
        np.testing.assert_allclose(values[i], encoder([TEXTS[i]])[0][0], atol=1e-5)
    assert details["tokens"][2] == 128 and details["tokens_cut"][2] > 100 and details["tokens_cut"][0] == 0


def test_text_equals_transformers_own_result(text_encoder):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(text_encoder), AutoModel.from_pretrained(text_encoder).eval()
    with torch.no_grad():
        hidden = model(**tokenizer(TEXTS[1], return_tensors="pt")).last_hidden_state[0].numpy()
    np.testing.assert_allclose(TextEncoder(str(text_encoder), "cls")([TEXTS[1]])[0][0], hidden[0], atol=1e-5)
    np.testing.assert_allclose(TextEncoder(str(text_encoder), "mean")([TEXTS[1]])[0][0], hidden.mean(0), atol=1e-5)
    assert not np.allclose(TextEncoder(str(text_encoder))([TEXTS[1]])[0], TextEncoder(str(text_encoder))([TEXTS[0]])[0])


def test_a_text_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError) as error:
        TextEncoder(str(tmp_path))
    assert (
        "--text-model DIR" in error.value.message and "hub" in error.value.message and "\n" not in error.value.message
    )


def test_the_same_weights_have_the_same_checksum(text_encoder):
    """The checkpoint has no pooler; a random one must not enter the record, nor any other missing weight."""
    assert TextEncoder(str(text_encoder)).provenance() == TextEncoder(str(text_encoder)).provenance()


def test_weights_that_lack_a_layer_are_refused(text_encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in text_encoder.iterdir():
        shutil.copy(path, tmp_path)
    state = load_file(text_encoder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'encoder\.layer\.1\.output\.dense\.weight'"):
        TextEncoder(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(text_encoder, tmp_path):
    """transformers would build a tokenizer without any words, and without a warning."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(text_encoder / name, tmp_path)
    with pytest.raises(UserError, match="tokenizer.json"):
        TextEncoder(str(tmp_path))


def test_denseface_is_the_published_network():
    """Channels 24, 216, 108, 300, 150, 342 and an 8x8 last map, from a 64x64 grey image."""
    encoder = FaceEncoder("denseface", "random")
    net = encoder.net.features
    channels = {}
    for name, module in net.named_children():
        module.register_forward_hook(lambda m, i, o, name=name: channels.__setitem__(name, tuple(o.shape[1:])))
    out = encoder(np.zeros((2, 64, 64), np.uint8))
    assert out.shape == (2, 342) and encoder.dim == 342
    assert [
        channels[n][0] for n in ("conv0", "denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
    ] == [24, 216, 108, 300, 150, 342]
    assert channels["conv0"][1:] == (32, 32) and channels["norm5"][1:] == (8, 8)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "denseface")) for n in sorted(ARCHITECTURES)]
)
def test_faces_in_batches_equal_faces_alone(name):
    encoder = FaceEncoder(name, "random")
    size, grey = encoder.expected.side, encoder.expected.grey
    crops = np.random.default_rng(0).integers(0, 256, (3, size, size) if grey else (3, size, size, 3), dtype=np.uint8)
    together = encoder(crops)
    np.testing.assert_allclose(together, np.concatenate([encoder(c[None]) for c in crops]), rtol=1e-4, atol=1e-5)
    images = torch.from_numpy(crops).float() / 255
    images = images[:, None] if grey else images.permute(0, 3, 1, 2)
    mean, std = (
        torch.tensor(x).view(1, -1, 1, 1)
        for x in (encoder.expected.normalisation.mean, encoder.expected.normalisation.std)
    )
    with torch.no_grad():
        maps = torch.relu(encoder.net.features((images - mean) / std))
    np.testing.assert_allclose(
        together, torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1), rtol=1e-4, atol=1e-5
    )
    several = [crops[:1], crops, np.concatenate([crops] * 40)[:101], crops[1:]]  # fills one batch and part of another
    for (vector, frames), own in zip(encoder.utterances(several), several, strict=True):
        np.testing.assert_allclose(frames, encoder(own), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(vector, encoder(own).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_weights_from_a_file(tmp_path, kind):
    from safetensors.torch import save_file

    torch.manual_seed(7)
    net = ARCHITECTURES["denseface"].build()
    path = tmp_path / f"face.{kind}"
    save_file(net.state_dict(), path) if kind == "safetensors" else torch.save(net.state_dict(), path)
    encoder = FaceEncoder("denseface", str(path))
    assert encoder.provenance()["weights"] == f"file face.{kind}"
    assert encoder.provenance()["weights_sha256"] == checksum(net.features.state_dict())
    assert encoder.provenance()["weights_sha256"] != FaceEncoder("denseface", "random").provenance()["weights_sha256"]


def test_old_names_of_densenet_layers(tmp_path):
    """torchvision's published file still has norm.1 instead of norm1."""
    net = ARCHITECTURES["densenet121"].build()
    old = {
        k.replace(".norm1.", ".norm.1.")
        .replace(".conv1.", ".conv.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv2.", ".conv.2.")
        if "denselayer" in k
        else k: v
        for k, v in net.state_dict().items()
    }
    assert old.keys() != net.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    assert FaceEncoder("densenet121", str(tmp_path / "old.pth")).provenance()["weights_sha256"] == checksum(
        net.features.state_dict()
    )


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


def test_weights_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"features.conv0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    for weights, fact in [
        ("evil.pt", "evil.pt"),
        ("text.pt", "text.pt"),
        ("other.pt", "--visual-weights: .*denseface: '.+'"),
        ("none.pt", "none.pt"),
        ("imagenet", "--visual-weights imagenet: denseface"),
    ]:
        with pytest.raises(UserError, match=fact):
            FaceEncoder("denseface", weights)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(UserError):
        load_state(tmp_path / "text.pt")


def test_imagenet_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="--visual-weights FILE"):
        FaceEncoder("densenet121", "imagenet")


def test_yunet_that_cannot_be_downloaded(monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UserError, match="--face-model FILE"):
        face_model("yunet", None)
    with pytest.raises(UserError, match="--face-model .*none.onnx"):
        face_model("yunet", tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_text("hello")
    for kind in ("yunet", "haar"):
        with pytest.raises(UserError, match="--face-model .*bad.onnx: .*(?i:haar|yunet)"):
            make_detector(kind, tmp_path / "bad.onnx")


@pytest.mark.parametrize("kind", ["haar", "yunet"])
def test_the_smallest_face_that_is_found(kind, request):
    """A face of half the height is found in the same place in the smaller image; a much smaller one is not, by Haar."""
    from erc_toolkit.toolkit.demo.faces import render
    from erc_toolkit.toolkit.demo.looks import speaker_look

    if kind == "haar":
        model = face_model("haar", None)[0]
    else:
        model = request.getfixturevalue("shared") / "models" / "yunet_n_640_640.onnx"
    frames, boxes = render(speaker_look(0, "Boris"), "neutral", np.zeros(1), np.random.default_rng(3))
    frame = frames[0, ..., ::-1]
    large = cv2.resize(frame, (960, 720), interpolation=cv2.INTER_CUBIC)
    small = np.full_like(large, large[0, 0])
    small[240:480, 320:640] = frame
    for fraction in (None, 0.3):
        detect = make_detector(kind, model, fraction)
        (found,) = detect(large)
        assert overlap(found.box, tuple(boxes[0] * 3)) > 0.55
        assert len(detect(small)) == 1 or (kind == "haar" and fraction is not None)
    assert kind == "yunet" or make_detector(kind, model, 0.3)(small) == []


def test_aligned_crop_puts_landmarks_in_place():
    """A face rotated by 30 degrees becomes upright, whatever its position, size and margin."""
    image = np.zeros((400, 500, 3), np.uint8)
    upright = np.array([[0.32, 0.38], [0.68, 0.38], [0.50, 0.58], [0.36, 0.77], [0.64, 0.77]])
    angle, side, at = np.deg2rad(30), 120, np.array([230.0, 180.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (upright - 0.5) * side @ turn.T + at
    for colour, (x, y) in zip(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], points, strict=True
    ):
        image[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = colour
    face = Face((170, 120, 120, 120), 0.9, points)
    for margin in (0.0, 0.25):
        cut = crop(image, face, 100, margin)
        expected = ((upright - 0.5) / (1 + 2 * margin) + 0.5) * 100
        for colour, (x, y) in zip(
            [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], expected, strict=True
        ):
            assert np.abs(cut[int(y), int(x)].astype(int) - colour).max() < 90


def test_box_crop_is_the_box():
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    assert (crop(image, Face((40, 50, 64, 64), 1, None), 64, 0.0) == image[50:114, 40:104]).all()


def test_overlap():
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3) and overlap((0, 0, 1, 1), (5, 5, 1, 1)) == 0
