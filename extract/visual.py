"""Visual features: a DenseNet over face crops, averaged over the utterance's frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import DenseNet, DenseNet121_Weights, densenet121

from extract.weights import checksum, load_state
from toolkit.errors import UserError

RANDOM_SEED = 0
_BATCH = 64


@dataclass(frozen=True)
class Architecture:
    """A network and the pictures it expects: side in pixels, grey or RGB, mean and standard deviation on 0..1."""

    build: object
    size: int
    grey: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


def _denseface() -> DenseNet:
    """The field's 342-dimensional face network: DenseNet-BC, depth 100, growth 12, three blocks of 16, grey 64x64.

    The stem is a single 3x3 convolution of stride 2 without normalisation or pooling; channels go 24, 216, 108, 300,
    150, 342. The classifier has FER+'s eight classes.
    """
    net = DenseNet(growth_rate=12, block_config=(16, 16, 16), num_init_features=24, bn_size=4, num_classes=8)
    net.features.conv0 = nn.Conv2d(1, 24, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(net.features.conv0.weight)
    for name in ("norm0", "relu0", "pool0"):
        delattr(net.features, name)
    return net


# A new network is one line here.
ARCHITECTURES = {
    "densenet121": Architecture(
        lambda: densenet121(weights=None), 224, False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
        "torchvision densenet121, normalised as ImageNet",
    ),
    "denseface": Architecture(
        _denseface, 64, True, (129 / 255,), (63.58 / 255,),
        "DenseNet-BC-100-12 on 64x64 grey faces, normalised as FER+ (mean 129, deviation 63.58 of 255)",
    ),
}  # fmt: skip


class FaceEncoder:
    """A DenseNet without its classifier: the last map, rectified and averaged over its places.

    Args:
        name: "densenet121" (1024) or "denseface" (342).
        weights: "imagenet", "random" (initialised from a fixed seed) or a file with a state dict.
        device: where it runs, in float32.

    Raises:
        UserError: weights that do not exist, cannot be had, or do not fit the network.
    """

    modality = "visual"

    def __init__(self, name: str, weights: str = "imagenet", device: torch.device | str = "cpu"):
        self.name, self.device = name, torch.device(device)
        self.architecture = ARCHITECTURES[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            self._net = self.architecture.build()
        self.weights = weights
        self.faces: dict[str, object] = {}  # how the crops were made, which is for the caller to say
        if weights == "imagenet":
            if name != "densenet121":
                raise UserError(f"--visual-weights imagenet: {name} has none; give a FILE, or say random and mean it")
            self._fill(_imagenet())
        elif weights == "random":
            self.weights = f"random, seed {RANDOM_SEED}"
        else:
            self._fill(load_state(Path(weights)))
            self.weights = f"file {Path(weights).name}"
        self._sha256 = checksum(self._net.features.state_dict())
        self._net.eval().to(self.device, memory_format=torch.channels_last)
        self._mean = torch.tensor(self.architecture.mean, device=self.device).view(1, -1, 1, 1)
        self._std = torch.tensor(self.architecture.std, device=self.device).view(1, -1, 1, 1)

    @property
    def dim(self) -> int:
        return self._net.classifier.in_features

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """uint8 (n, size, size, 3) RGB, or (n, size, size) grey, to float32 (n, dim)."""
        pictures = torch.from_numpy(crops).to(self.device)
        pictures = pictures.unsqueeze(1) if self.architecture.grey else pictures.permute(0, 3, 1, 2)
        pictures = (pictures.float() / 255 - self._mean) / self._std
        maps = torch.relu(self._net.features(pictures.contiguous(memory_format=torch.channels_last)))
        return maps.mean((2, 3)).cpu().numpy()

    def utterances(self, crops: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """One float32 (dim,) for each utterance's crops (n, …), n > 0; batches are filled across utterances."""
        counts = np.cumsum([0, *map(len, crops)])
        features = np.empty((counts[-1], self.dim), np.float32)
        for start in range(0, counts[-1], _BATCH):
            # Which utterances this batch touches: only those are put together, not the whole part.
            first, last = np.searchsorted(counts, [start, start + _BATCH], "right") - 1
            batch = np.concatenate(crops[first : last + 1])[start - counts[first] :][:_BATCH]
            features[start : start + len(batch)] = self(batch)
        for start, end in zip(counts[:-1], counts[1:]):
            yield features[start:end].mean(0, dtype=np.float64).astype(np.float32)

    def _fill(self, state: dict[str, torch.Tensor]) -> None:
        # The first DenseNet checkpoints name norm1 "norm.1"; torchvision still publishes them so.
        pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
        state = {pattern.sub(r"\1", key.removeprefix("module.")): value for key, value in state.items()}
        own = self._net.state_dict()
        for key in [k for k in state if k.startswith("classifier.")]:
            del state[key]  # a classifier of other classes is no part of the features
        wanted = {k for k in own if not k.startswith(("classifier.",)) and not k.endswith("num_batches_tracked")}
        lacking = sorted(wanted - set(state))
        odd = sorted(k for k in state if k not in own or state[k].shape != own[k].shape)
        if lacking or odd:
            raise UserError(f"--visual-weights: do not fit {self.name}: {(lacking or odd)[0]!r} is missing or of another shape")
        self._net.load_state_dict(state, strict=False)

    def provenance(self) -> dict[str, object]:
        """What made the features, for the store."""
        made = {
            "extractor": "DenseNet on face crops, mean over frames",
            "model": f"{self.name}: {self.architecture.source}",
            "weights": self.weights,
            "weights_sha256": self._sha256,
            "versions": {"torchvision": version("torchvision"), "torch": torch.__version__},
            "device": self.device.type,
        }
        return {**made, **self.faces, "versions": {**made["versions"], **self.faces.get("versions", {})}}


def _imagenet() -> dict[str, torch.Tensor]:
    weights = DenseNet121_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # offline, refused, full disk: the remedy is the same
        raise UserError(
            f"densenet121's ImageNet weights are not on this machine: connect to the network so that torchvision can "
            f"fetch {weights.url.rsplit('/')[-1]}, or give the file with --visual-weights FILE ({type(error).__name__})"
        ) from None

