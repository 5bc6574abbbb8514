"""Encoders of faces, whole frames and clips, small and untrained: alone and together, and against their libraries."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers
from test_extractor_packages import clip, corpus  # noqa: F401 (clip is a fixture)

from erc_toolkit.extract.encoders.base import Crops, Frames, FrameSeries
from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder
from erc_toolkit.extract.encoders.visual.fitting import fitted
from erc_toolkit.extract.encoders.visual.image import ImageModel
from erc_toolkit.extract.encoders.visual.video import VideoModel, clip_frames
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.extract.run.media.pictures import FrameKeeper
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.toolkit.store.summary import unpacked

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PIXELS = {"image_size": 48, "patch_size": 16}
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TWO = {"vision_config": {**SMALL, **PIXELS}, "text_config": TEXT}
EDGE = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
SQUARE = {"size": {"height": 48, "width": 48}}
MEAN = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
CLIPS = {**SMALL, **PIXELS, "num_frames": 4}

# Class and settings of the model, then of its preprocessor.
IMAGES = {
    "vit": ("ViT", {**SMALL, **PIXELS}, "ViTImageProcessor", SQUARE),
    "deit": (
        "DeiT",
        {**SMALL, **PIXELS},
        "DeiTImageProcessor",
        {"size": {"height": 56, "width": 56}, "crop_size": {"height": 48, "width": 48}},
    ),
    "clip": ("CLIP", TWO, "CLIPImageProcessor", EDGE),
    "siglip": ("Siglip", TWO, "SiglipImageProcessor", SQUARE),
    "dinov2": ("Dinov2", {**SMALL, **PIXELS}, "BitImageProcessor", {**EDGE, "size": {"shortest_edge": 56}}),
    "convnext": (
        "ConvNext",
        {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 48},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 48}},
    ),
}
VIDEOS = {
    "videomae": (
        "VideoMAE",
        {
            **CLIPS,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
        },
        "VideoMAEImageProcessor",
        EDGE,
    ),
    "timesformer": ("Timesformer", CLIPS, "VideoMAEImageProcessor", EDGE),
    "vivit": ("Vivit", {**CLIPS, "tubelet_size": [2, 16, 16]}, "VivitImageProcessor", EDGE),
}
FACES = ("densenet121", "denseface")


def model_folder(folder: Path, kind: str, head: str = "Model") -> Path:
    name, config, processor, settings = {**IMAGES, **VIDEOS}[kind]
    torch.manual_seed(1)
    getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**config)).save_pretrained(folder)
    getattr(transformers, processor)(**{**settings, **MEAN}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built():
    """Encoders by kind, each made once."""
    made = {}

    def get(kind: str, crop: str = "face"):
        if (kind, crop) not in made:
            if kind in FACES:
                made[kind, crop] = FaceEncoder(kind, "random", sequences=True)
            else:
                folder = Path(tempfile.mkdtemp(dir=root)) / kind
                model_folder(folder, kind)
                made[kind, crop] = (
                    VideoModel(str(folder), sequences=True)
                    if kind in VIDEOS
                    else ImageModel(str(folder), sequences=True, crop=crop)
                )
                folders[kind] = folder
        return made[kind, crop]

    folders: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as root:
        get.folders = folders
        yield get


def series(encoder, counts, seed: int = 0) -> list[FrameSeries]:
    side = encoder.expected.side
    shape = (side, side) if encoder.expected.grey else (side, side, 3)
    rng = np.random.default_rng(seed)
    return [FrameSeries(rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) / 5) for n in counts]


@pytest.mark.parametrize("kind", [*FACES, *IMAGES, *VIDEOS])
def test_together_is_as_alone(built, kind, record_property):
    """An utterance's vector does not depend on which others share its batches."""
    encoder = built(kind)
    utterances = series(encoder, (1, 7, 13, 2, 5, 31) if kind not in FACES else (1, 3, 5))
    encoder._batches.most = 5  # batches begin and end within utterances
    together = list(encoder.extract(utterances, lambda n: None))
    alone = [next(iter(encoder.extract([one], lambda n: None))) for one in utterances]
    encoder._batches.most = 1
    single = list(encoder.extract(utterances, lambda n: None))
    most = 0.0
    for a, b, c in zip(together, alone, single, strict=True):
        most = max(most, np.abs(a.values - b.values).max(), np.abs(a.values - c.values).max())
        most = max(most, np.abs(a.frames - b.frames).max(), np.abs(a.frames - c.frames).max())
        assert len(a.frames) == len(a.times) and a.frames.shape[1] == encoder.dim == encoder.frame_width
        np.testing.assert_allclose(a.values, a.frames.mean(0), rtol=1e-4, atol=1e-6)
    record_property("difference", float(most))
    print(f"{kind}: {most:.1e}")
    assert most < 1e-5


@pytest.mark.parametrize("kind", IMAGES)
def test_image_models_are_transformers_own(built, kind):
    encoder = built(kind)
    (one,) = series(encoder, [3])
    folder = built.folders[kind]
    prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = prepare(list(one.images), do_resize=False, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    model = model.vision_model if kind in ("clip", "siglip") else model
    with torch.no_grad():
        found = model(**inputs)
    own = found.last_hidden_state
    own = {"convnext": lambda: own.mean((2, 3)), "siglip": lambda: own.mean(1)}.get(kind, lambda: own[:, 0])().numpy()
    np.testing.assert_allclose(encoder(one.images), own, rtol=1e-3, atol=2e-5)
    if kind == "clip":  # the documentation says which of CLIP's vectors it is
        later = model.post_layernorm(torch.from_numpy(own)).detach()
        np.testing.assert_allclose(found.pooler_output, later, rtol=1e-3, atol=2e-5)
        assert np.abs(later.numpy() - own).max() > 0.1
    assert encoder.wants == Crops(48) and "frames" not in encoder.provenance()["parameters"]


@pytest.mark.parametrize("kind", FACES)
def test_densenets_are_torchvisions_own(built, kind):
    encoder = built(kind)
    (one,) = series(encoder, [2])
    torch.manual_seed(0)  # the seed that "random" stands for
    net = ARCHITECTURES[kind].build().eval()
    grey = encoder.expected.grey
    x = torch.from_numpy(one.images).float() / 255
    if grey:
        x = ((x - 129 / 255) / (63.58 / 255)).unsqueeze(1)
    else:
        x = ((x - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])).permute(0, 3, 1, 2)
    pooled: list[torch.Tensor] = []
    net.classifier.register_forward_hook(lambda module, inputs, output: pooled.append(inputs[0]))
    with torch.no_grad():
        net(x)
    np.testing.assert_allclose(encoder(one.images), pooled[0].numpy(), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", VIDEOS)
def test_video_models_are_transformers_own(built, kind):
    """Six crops are two clips of four: by hand, the second and the fifth crop are in both neighbours' places."""
    encoder = built(kind)
    (one,) = series(encoder, [6])
    chosen = [[0, 1, 1, 2], [3, 4, 4, 5]]
    folder = built.folders[kind]
    prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    own = []
    for indices in chosen:
        inputs = prepare([one.images[i] for i in indices], do_resize=False, return_tensors="pt")
        assert inputs["pixel_values"].shape == (1, 4, 3, 48, 48)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        own.append((hidden.mean(0) if kind == "videomae" else hidden[0]).numpy())
    (found,) = encoder.extract([one], lambda n: None)
    np.testing.assert_allclose(found.frames, own, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found.values, np.mean(own, 0), rtol=1e-3, atol=2e-5)
    assert found.times.tolist() == pytest.approx([0.2, 0.8]) and found.values.dtype == np.float32
    assert encoder.wants == Crops(48) and encoder.name == kind
    parameters = json.loads(json.dumps(encoder.provenance()))["parameters"]
    assert parameters["frames_per_clip"] == 4 and parameters["pooling"] == "mean over clips"
    assert parameters["clip_vector"] == ("mean over patches" if kind == "videomae" else "class token")


@pytest.mark.parametrize("head", ["ForPreTraining", "ForVideoClassification"])
def test_checkpoints_with_heads_give_the_same_encoder(tmp_path, head):
    """As on the hub: with a decoder or a classifier, and the preprocessor's old or new file."""
    folder = model_folder(tmp_path / "m", "videomae", head)
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    if head == "ForPreTraining":
        del settings["image_processor_type"]
        file.write_text(json.dumps({**settings, "feature_extractor_type": "VideoMAEFeatureExtractor"}))
    else:
        file.unlink()
        transformers.VideoMAEVideoProcessor(**{**EDGE, **MEAN}).save_pretrained(folder)
    encoder = VideoModel(str(folder))
    whole = getattr(transformers, f"VideoMAE{head}").from_pretrained(folder)
    x = torch.randn(1, 4, 3, 48, 48)
    with torch.no_grad():
        own = whole.videomae.eval()(x).last_hidden_state.mean(1)
        torch.testing.assert_close(encoder.forward(x), own)
    assert encoder.expected.normalisation.mean == (0.4, 0.5, 0.6) and encoder.dim == 32


def test_clips_share_the_images_equally():
    assert clip_frames(8, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert clip_frames(1, 4).tolist() == [[0] * 4] and clip_frames(2, 4).tolist() == [[0, 0, 1, 1]]
    assert clip_frames(5, 4).tolist() == [[0, 1, 3, 4]] and len(clip_frames(6, 4)) == 2
    for frames in (4, 8, 16):
        for images in range(1, 100):
            found = clip_frames(images, frames)
            count = max(1, int(images / frames + 0.5))
            assert found.shape == (count, frames) and (np.diff(found.ravel()) >= 0).all()
            for number, one in enumerate(found):  # within its share
                assert number * images / count - 1 < one.min() and one.max() < (number + 1) * images / count
            assert set(np.unique(np.diff(found.ravel()))) <= ({0, 1} if images <= found.size else {1, 2})


# -- whole frames


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("shape", [(90, 160), (161, 97), (120, 120), (30, 40)])
def test_whole_frames_show_what_the_preprocessor_shows(built, kind, shape):
    """On ramps, where the filters hardly differ: a pixel's place is its grey level."""
    encoder = built(kind, "frame")
    prepare = transformers.AutoImageProcessor.from_pretrained(built.folders[kind])
    height, width = shape
    x, y = np.meshgrid(np.linspace(20, 230, width), np.linspace(20, 230, height))
    image = np.stack([x, y, (x + y) / 2], -1).round().astype(np.uint8)
    inputs = prepare([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    (kept,) = FrameKeeper([encoder.wants], 10).look(image).pixels
    assert kept.shape == (48, 48, 3) and kept.dtype == np.uint8
    difference = np.abs(kept.astype(float).transpose(2, 0, 1) - inputs)
    # A pixel aside would be 3 grey levels or more on one ramp, and half as much on the other. Enlarged, the filters
    # differ in single pixels.
    assert difference.mean() < 0.8 and (min(shape) < 60 or difference.max() < 2.5)


@pytest.mark.parametrize("kind, fit, border", [("vit", "stretch", 0), ("clip", "crop", 0), ("dinov2", "crop", 8)])
def test_vectors_of_whole_frames(built, kind, fit, border):
    """OpenCV's resized frame, then transformers' preprocessor without its resizing and transformers' model."""
    encoder = built(kind, "frame")
    assert encoder.wants == Frames(48, 48, fit, border)
    image = np.random.default_rng(0).integers(0, 256, (90, 161, 3), dtype=np.uint8)
    edge = 48 + border
    size = (48, 48) if fit == "stretch" else (int(161 * edge / 90), edge)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    folder = built.folders[kind]
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)([resized], do_resize=False, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        own = getattr(model, "vision_model", model)(**inputs).last_hidden_state[:, 0].numpy()
    keeper = FrameKeeper([encoder.wants], 10)
    keeper.add(0.0, image)
    np.testing.assert_allclose(encoder(np.stack(keeper.kept[0][2])), own, rtol=1e-3, atol=2e-5)
    made = encoder.provenance()
    assert "whole frames" in made["extractor"] and made["parameters"]["sequences"] == "a vector for each frame"
    assert f"{edge} x 48" in made["parameters"]["frames"] or f"{edge} pixels" in made["parameters"]["frames"]


def test_fitted_keeps_proportions_unless_stretched():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 255
    assert (fitted(image, Frames(30, 30, "crop")) == 255).all()
    assert fitted(image, Frames(30, 30)).min() == 0
    assert fitted(image.transpose(1, 0, 2), Frames(30, 30, "crop")).min() == 255
    assert fitted(image, Frames(50, 30, "crop")).shape == (30, 50, 3)
    np.testing.assert_array_equal(fitted(image, Frames(7, 5)), cv2.resize(image, (7, 5), interpolation=cv2.INTER_AREA))
    for wrong in ((8, 8, "cover"), (0, 8), (8, 8, "crop", -1)):
        with pytest.raises(ValueError, match="Frames: "):
            Frames(*wrong)


# -- mistakes


def test_models_that_are_refused(tmp_path):
    with pytest.raises(UserError, match="video model 'nobody/nothing'.*--feature video:DIR"):
        VideoModel("nobody/nothing")
    vit, video = model_folder(tmp_path / "vit", "vit"), model_folder(tmp_path / "video", "videomae")
    with pytest.raises(UserError, match=f"vit does not take clips.*--feature image:{vit}$"):
        VideoModel(str(vit))
    with pytest.raises(UserError, match=f"takes clips and not images; write --feature video:{video}$"):
        ImageModel(str(video))


@pytest.mark.parametrize(
    "processor, fact",
    [
        (transformers.MobileViTImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}), ""),
        (transformers.ViTImageProcessor(size={"height": 48, "width": 32}), "not square"),
        (transformers.ViTImageProcessor(size={"height": 32, "width": 32}), "crops 48 pixels; use crop=face"),
        # Resizes to more than the edge that it names.
        (transformers.LevitImageProcessor(**EDGE), "LevitImageProcessor. shows another part.*crop=face"),
    ],
)
def test_preprocessors_that_are_refused(tmp_path, processor, fact):
    """One that swaps colours is found by what it does; a size that does not fit, by its settings."""
    folder = model_folder(tmp_path / "m", "vit")
    if fact.startswith("crops"):
        processor.do_center_crop, processor.crop_size = True, {"height": 48, "width": 48}
    processor.save_pretrained(folder)
    with pytest.raises(UserError, match=fact or "MobileViT.*does more than") as error:
        ImageModel(str(folder), crop="frame")
    assert "\n" not in error.value.message


def test_a_preprocessors_own_scale_is_kept(tmp_path):
    folder = model_folder(tmp_path / "m", "vit")
    transformers.ViTImageProcessor(**SQUARE, do_normalize=False, rescale_factor=1 / 127.5).save_pretrained(folder)
    encoder = ImageModel(str(folder))
    (one,) = series(encoder, [2])
    prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        model = transformers.AutoModel.from_pretrained(folder).eval()
        own = model(**prepare(list(one.images), return_tensors="pt")).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder(one.images), own, rtol=1e-3, atol=2e-5)


# -- a whole run


@pytest.mark.parametrize("kind, crop", [("clip", "frame"), ("videomae", "face")])
def test_extraction(clip, tmp_path, kind, crop):  # noqa: F811
    folder = model_folder(tmp_path / "m", kind)
    from erc_toolkit.extract.encoders.selection import Options

    options = Options(
        modalities=("visual",),
        visual_model=str(folder),
        visual_kind="video" if kind in VIDEOS else "image",
        crop=crop,
        face_detector="haar",
        sequences=True,
        fps=8.0,
        workers=1,
    )
    extract(corpus(clip), tmp_path / "s.h5", options, notify=lambda line: None)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        store.verify()
        feature = store.feature("visual/m")
        assert feature.dim == 32 and feature.present().all()
        frames, times = feature.sequence(0)
        np.testing.assert_allclose(frames.mean(0), feature.values()[0], rtol=1e-4, atol=1e-5)
        assert len(times) == (2 if kind in VIDEOS else 8) and (np.diff(times) > 0).all()
        parameters = unpacked(feature.attrs["parameters"])
        if crop == "frame":
            assert parameters["frames"].startswith("shortest edge") and "face_detector" not in parameters
        else:
            assert parameters["face_detector"] == "haar" and parameters["frames_per_clip"] == 4
