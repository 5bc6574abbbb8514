"""Visual features: a network on face crops, averaged over the utterance's frames; the DenseNets used in the field."""

from __future__ import annotations

import itertools
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import DenseNet, DenseNet121_Weights, densenet121

from ....toolkit.base.errors import UserError
from ....toolkit.base.reading.plain_yaml import load_yaml
from ..base import Crops, Extracted, Extractor, Frames, FrameSeries, Provenance, Setup
from ..batching import Batches
from ..runtimes.choice import Runtime, choose_runtime
from ..runtimes.densenet import OPENVINO_BATCH, OpenVinoDenseNet
from ..selection import TORCH, Options
from ..weights import DTYPES, checksum, load_state

RANDOM_SEED = 0
# The files that `erc-toolkit train-face` writes.
FACE_WEIGHTS, FACE_SETTINGS = "model.safetensors", "face.yaml"
# Pixels and images in a batch. On a CPU a batch should fit in the caches: densenet121 takes 21 ms per image in batches
# of 8 and 53 ms in batches of 64 (benchmarks/README.md). A GPU needs large batches.
_CPU_BATCH, _GPU_BATCH = (8 * 224 * 224, 32), (256 * 224 * 224, 1024)
# Pixels in a batch of clips: two of VideoMAE, whose 1568 tokens each attend to all others, and 32.
_CPU_CLIPS, _GPU_CLIPS = 2 * 16 * 224 * 224, 32 * 16 * 224 * 224


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel on the scale 0 to 1, and where they come from."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    @classmethod
    def parse(cls, text: str, grey: bool) -> Normalisation:
        """Parses "MEAN,STD" on the scale 0 to 255, or one of the names in `GREY_STATISTICS`.

        Raises:
            UserError: neither, or a standard deviation that is not positive.
        """
        if text in GREY_STATISTICS:
            if not grey:
                raise UserError(f"--normalisation {text}: applies to grey faces only; give MEAN,STD for this network")
            mean, std = GREY_STATISTICS[text]
        else:
            try:
                mean, std = (float(part) for part in text.split(","))
            except ValueError:
                raise UserError(
                    f"--normalisation {text!r}: write MEAN,STD on the scale 0 to 255, or one of "
                    f"{', '.join(GREY_STATISTICS)}"
                ) from None
        if not (std > 0 and np.isfinite([mean, std]).all()):
            raise UserError(f"--normalisation {text!r}: the standard deviation must be a positive number")
        channels = 1 if grey else 3
        return cls((mean / 255,) * channels, (std / 255,) * channels, f"given as {text}")


# Mean and standard deviation of grey levels of face crops, 0 to 255, that normalised the field's 342-dimensional
# features.
GREY_STATISTICS = {"ferplus": (129.0, 63.58), "iemocap": (131.0754, 47.858177), "meld": (67.61417, 37.89171)}


@dataclass(frozen=True)
class ImageInput:
    """The input that a network expects: side in pixels, grey or RGB, normalisation, and the number of frames in a clip,
    which is 0 for networks of single images.
    """

    side: int
    grey: bool
    normalisation: Normalisation
    frames: int = 0


@dataclass(frozen=True)
class Architecture:
    """A network that is part of the project: how to build it, the input it expects, and its description."""

    build: Callable[[], nn.Module]
    input: ImageInput
    source: str


def _denseface() -> DenseNet:
    """The field's 342-dimensional face network: DenseNet-BC, depth 100, growth 12, three blocks of 16, grey 64x64.

    The stem is a single 3x3 convolution of stride 2 without normalisation or pooling; channels go 24, 216, 108, 300,
    150, 342. The classifier has FER+'s eight classes.
    """
    blocks: Any = (16, 16, 16)  # torchvision annotates a tuple of four
    net = DenseNet(growth_rate=12, block_config=blocks, num_init_features=24, bn_size=4, num_classes=8)
    net.features.conv0 = nn.Conv2d(1, 24, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(net.features.conv0.weight)
    for name in ("norm0", "relu0", "pool0"):
        delattr(net.features, name)
    return net


_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet")
_FERPLUS = Normalisation((129 / 255,), (63.58 / 255,), "FER+ (mean 129, deviation 63.58 of 255)")
# A new network needs one line here.
ARCHITECTURES = {
    "densenet121": Architecture(
        lambda: densenet121(weights=None), ImageInput(224, False, _IMAGENET), "torchvision densenet121"
    ),
    "denseface": Architecture(_denseface, ImageInput(64, True, _FERPLUS), "DenseNet-BC-100-12 on 64x64 grey faces"),
}


class CropEncoder(Extractor):
    """Base class of encoders of an utterance's images: normalisation, batches across utterances, and the mean.

    A network takes single images, or clips of several; `pieces` says which images make an item of its input.

    Args:
        name: name in the store.
        net: the network.
        sha256: of its weights.
        expected: the input that it expects.
        device: device of the network.
        precision: "float32", "tf32", "bfloat16" or "float16".
        sequences: keep each item's vector as well.
        wants: what the run is to cut out of the video, in the size expected; None for the speaker's face.
    """

    modality = "visual"
    Options = Options
    gives_sequences = True

    def __init__(
        self,
        name: str,
        net: nn.Module,
        sha256: str,
        expected: ImageInput,
        device: torch.device | str,
        precision: str,
        sequences: bool,
        wants: Crops | Frames | None = None,
    ):
        self.name, self.expected, self.device, self.precision = name, expected, torch.device(device), precision
        self._sha256 = sha256
        pixels, images = _CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH
        if expected.frames:
            pixels = (_CPU_CLIPS if self.device.type == "cpu" else _GPU_CLIPS) // expected.frames
        most = max(1, min(images, pixels // expected.side**2))
        what, identity = f"visual model {name}", f"visual, {expected.side} pixels, weights {sha256}"
        self._batches = Batches(what, "clips" if expected.frames else "images", most, self.device, precision, identity)
        self.net = net.eval().to(self.device, DTYPES[precision])
        if not expected.frames:  # the layout is one of images; weights over time have an axis more
            self.net = self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._layout = torch.contiguous_format if expected.frames else torch.channels_last
        self.wants = wants or Crops(expected.side, expected.grey)
        self._mean, self._std = (
            torch.tensor(numbers, device=self.device).view(-1, 1, 1)
            for numbers in (expected.normalisation.mean, expected.normalisation.std)
        )
        shape = (1, *([expected.frames] if expected.frames else []), expected.side, expected.side)
        self.dim = self(np.zeros(shape if expected.grey else (*shape, 3), np.uint8)).shape[1]
        self.frame_width = self.dim if sequences else 0

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, channels, side, side), or (n, frames, channels, side, side) of clips, normalised, to (n, dim)."""

    def pieces(self, images: int) -> np.ndarray:
        """For an utterance with so many images, at least one, the images that make each item of the network's input:
        int64 (items,), or (items, frames) for clips. Without clips, each image is an item.
        """
        return np.arange(images)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """uint8 (n, side, side, 3) RGB, or (n, side, side) grey, or (n, frames, side, side, 3) of clips, to float32
        (n, dim), as one batch.
        """
        return self._batches.one({"crops": torch.from_numpy(crops)}, self._vectors)

    def _vectors(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """ "crops" on the device, as above, to (n, dim)."""
        crops = tensors["crops"]
        images = crops.unsqueeze(1) if self.expected.grey else crops.movedim(-1, -3)
        images = (images.float() / 255 - self._mean) / self._std
        return self.forward(images.to(DTYPES[self.precision]).contiguous(memory_format=self._layout))

    def utterances(self, crops: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each utterance's crops (n, …), n > 0: the mean float32 (dim,) and the items' vectors (items, dim)."""
        pieces = [self.pieces(len(one)) for one in crops]
        counts = np.cumsum([0, *map(len, pieces)])
        features = np.empty((counts[-1], self.dim), np.float32)

        def batch_of(batch: range) -> dict[str, torch.Tensor]:
            # Only what this batch covers is copied, not the whole part.
            first, last = np.searchsorted(counts, [batch.start, batch.stop - 1], "right") - 1
            own = [
                crops[i][pieces[i][max(0, batch.start - counts[i]) : batch.stop - counts[i]]]
                for i in range(first, last + 1)
            ]
            return {"crops": torch.from_numpy(np.concatenate(own))}

        for batch, vectors in self._batches.run([1] * int(counts[-1]), batch_of, self._vectors):
            features[batch.start : batch.stop] = vectors
        for start, end in itertools.pairwise(counts):
            yield features[start:end].mean(0, dtype=np.float64).astype(np.float32), features[start:end]

    def extract(self, utterances: Sequence[FrameSeries], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Like `utterances`, with the time of each image, or of the middle of each clip."""
        for series, (mean, frames) in zip(utterances, self.utterances([u.images for u in utterances]), strict=True):
            times = series.times[self.pieces(len(series.images))]
            middles = times if times.ndim == 1 else (times[:, 0] + times[:, -1]) / 2
            yield Extracted(mean, "", frames, middles) if self.frame_width else Extracted(mean)

    def described(
        self, extractor: str, model: str, versions: dict[str, str], item: str = "face crop", over: str = "frames"
    ) -> Provenance:
        """How the features are computed, for the store; the run adds how the crops are taken.

        Args:
            extractor, model: in words.
            versions: of the libraries besides torch.
            item: what there is a vector of, if sequences are kept.
            over: what the mean is taken over.
        """
        normalisation = self.expected.normalisation
        return {
            "extractor": extractor,
            "model": model,
            "weights_sha256": self._sha256,
            "versions": {"torch": torch.__version__, **versions},
            "parameters": {
                "normalised_by": normalisation.source,
                "mean": normalisation.mean,
                "std": normalisation.std,
                "dtype": self.precision,
                "pooling": f"mean over {over}",
                **({"sequences": f"a vector for each {item}"} if self.frame_width else {}),
            },
            "device": self.device.type,
        }


class FaceEncoder(CropEncoder):
    """A DenseNet without its classifier: the last feature map after ReLU and global average pooling.

    Args:
        name: "densenet121" (1024) or "denseface" (342).
        weights: "imagenet", "random" (initialised with a fixed seed), a file with a state dict, or a folder written by
            `erc-toolkit train-face`, which includes the normalisation.
        device, precision, sequences: as for `CropEncoder`.
        normalisation: replaces the network's own.
        runtime: what computes the network, one of `selection.RUNTIMES`.

    Attributes:
        runtime: what was chosen.

    Raises:
        UserError: weights that do not exist, cannot be downloaded, or do not fit the network; or a runtime that cannot
            be used.
    """

    def __init__(
        self,
        name: str,
        weights: str = "imagenet",
        device: torch.device | str = "cpu",
        precision: str = "float32",
        sequences: bool = False,
        normalisation: Normalisation | None = None,
        runtime: str = TORCH,
    ):
        self.runtime = Runtime()
        self._architecture = ARCHITECTURES[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            net = self._architecture.build()
        self.weights = weights
        if weights == "imagenet":
            if name != "densenet121":
                raise UserError(
                    f"--visual-weights imagenet: {name} has no ImageNet weights; give a FILE, or random for untrained "
                    "ones"
                )
            _fill(name, net, _imagenet())
        elif weights == "random":
            self.weights = f"random, seed {RANDOM_SEED}"
        elif Path(weights).is_dir():
            _fill(name, net, load_state(Path(weights) / FACE_WEIGHTS))
            self.weights = f"folder {Path(weights).resolve().name}"
            normalisation = normalisation or _trained_normalisation(Path(weights), name)
        else:
            _fill(name, net, load_state(Path(weights)))
            self.weights = f"file {Path(weights).name}"
        self._features: Any = net.features
        sha256 = checksum(self._features.state_dict())
        expected = self._architecture.input
        if normalisation is not None:
            expected = replace(expected, normalisation=normalisation)
        super().__init__(name, net, sha256, expected, device, precision, sequences)
        if runtime != TORCH:
            self._use(runtime)

    def _use(self, runtime: str) -> None:
        """Has the network computed by another runtime, if it may be."""
        channels, side = (1 if self.expected.grey else 3), self.expected.side

        def build() -> OpenVinoDenseNet:
            return OpenVinoDenseNet(self._features, channels, side)

        self.runtime = choose_runtime(runtime, self.device, self.precision, (channels, side, side), self.forward, build)
        if self.runtime.compute is not None:
            self._layout = torch.contiguous_format
            self._batches.most = min(self._batches.most, OPENVINO_BATCH)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> FaceEncoder:
        """The network that --visual-model names, with --visual-weights."""
        name = options.visual_model
        normalisation = given_normalisation(options, grey=ARCHITECTURES[name].input.grey)
        weights, runtime = options.visual_weights, options.runtime
        return cls(name, weights, setup.device, setup.precision, setup.sequences, normalisation, runtime)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, channels, side, side), normalised, to (n, dim)."""
        if self.runtime.compute is not None:
            return self.runtime.compute(images)
        return torch.relu(self._features(images)).mean((2, 3))

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        described = self.described(
            "DenseNet on face crops, mean over frames",
            f"{self.name}: {self._architecture.source}",
            {"torchvision": version("torchvision"), **self.runtime.versions},
        )
        parameters = {**described.get("parameters", {}), **self.runtime.parameters}
        return {**described, "parameters": parameters, "weights": self.weights}


def given_normalisation(options: Options, grey: bool) -> Normalisation | None:
    """The value of --normalisation, or None if it is not given."""
    return None if options.normalisation is None else Normalisation.parse(options.normalisation, grey)


def _trained_normalisation(folder: Path, name: str) -> Normalisation:
    try:
        settings = load_yaml((folder / FACE_SETTINGS).read_text(encoding="utf-8"))
        if settings["network"] != name:
            raise UserError(f"--visual-weights {folder}: has weights of {settings['network']}, not of {name}")
        return Normalisation(
            (float(settings["mean"]) / 255,), (float(settings["std"]) / 255,), "the pictures it was trained on"
        )
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"--visual-weights {folder}: {FACE_SETTINGS} cannot be read ({type(error).__name__})") from None


def _fill(name: str, net: nn.Module, state: dict[str, torch.Tensor]) -> None:
    # The first DenseNet checkpoints call norm1 "norm.1"; torchvision still publishes them like that.
    pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
    state = {pattern.sub(r"\1", key.removeprefix("module.")): value for key, value in state.items()}
    own = net.state_dict()
    for key in [k for k in state if k.startswith("classifier.")]:
        del state[key]  # a classifier with other classes does not affect the features
    wanted = {k for k in own if not k.startswith(("classifier.",)) and not k.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(state))
    unexpected = sorted(k for k in state if k not in own or state[k].shape != own[k].shape)
    if missing or unexpected:
        key, problem = (missing[0], "is missing") if missing else (unexpected[0], "is unknown or has another shape")
        raise UserError(f"--visual-weights: do not fit {name}: {key!r} {problem}")
    net.load_state_dict(state, strict=False)


def _imagenet() -> dict[str, torch.Tensor]:
    weights = DenseNet121_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # offline, refused, full disk: the remedy is the same
        raise UserError(
            f"densenet121's ImageNet weights are not on this machine: connect to the network so that torchvision can "
            f"fetch {weights.url.rsplit('/')[-1]}, or pass the file with --visual-weights FILE ({type(error).__name__})"
        ) from None
