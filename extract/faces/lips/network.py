"""LR-ASD, a network that scores in each frame whether a face speaks the audio.

Source: Liao et al., LR-ASD: Lightweight and Robust Network for Active Speaker Detection, IJCV 2025, and the released
code and weights (Junhua-Liao/LR-ASD). Grey crops and MFCCs pass through convolutions split into a spatial and a
temporal part, are weighted by a gate, read by two GRUs in opposite directions, gated again, and mapped to two logits
per frame.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....toolkit.base.errors import UserError, first_line
from ...encoders.weights import load_state

# Mean and standard deviation of the grey levels, from 0 to 1, that the weights were trained with.
_MEAN, _DEVIATION = 0.4161, 0.1688
_CHANNELS, _SIZES = (32, 64, 128), (5, 3)
# A unit of the released blocks, and its place in ours; "s" and "m" are along image and spectrum, "t" along time.
_PLACES = {"s_1": 0, "s_2": 1, "m_1": 0, "m_2": 1, "t_1": 2, "t_2": 3}
_PARTS = {
    "model.visualEncoder": "faces",
    "model.audioEncoder": "audio",
    "model.fusion": "join",
    "model.detector.gru_forward": "later",
    "model.detector.gru_backward": "earlier",
    "model.detector.attention": "weigh",
    "lossAV.FC": "out",
}


class _Unit(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, into: int, out: int, kernel: tuple[int, ...], stride: tuple[int, ...] | int = 1):
        super().__init__()
        wide = len(kernel) == 3
        padding = tuple(k // 2 for k in kernel)
        conv: Any = nn.Conv3d if wide else nn.Conv2d
        self.conv = conv(into, out, kernel, stride, padding, bias=False)
        self.norm = (nn.BatchNorm3d if wide else nn.BatchNorm2d)(out, momentum=0.01, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class _Faces(nn.Module):
    """Grey crops (batch, frames, side, side) to (batch, frames, 128)."""

    def __init__(self) -> None:
        super().__init__()
        blocks, into = [], 1
        for i, out in enumerate(_CHANNELS):
            stride = (1, 2, 2) if i == 0 else 1
            wide, narrow = _SIZES
            blocks.append(
                nn.Sequential(
                    _Unit(into, out // 2, (1, wide, wide), stride),
                    _Unit(out // 2, out, (1, narrow, narrow)),
                    _Unit(out, out, (wide, 1, 1)),
                    _Unit(out, out, (narrow, 1, 1)),
                )
            )
            into = out
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = ((x / 255 - _MEAN) / _DEVIATION)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.pool(x))
        return x.amax((3, 4)).transpose(1, 2)


class _Audio(nn.Module):
    """MFCCs (batch, 4 frames, 13) to (batch, frames, 128)."""

    def __init__(self) -> None:
        super().__init__()
        blocks, into = [], 1
        wide, narrow = _SIZES
        for out in _CHANNELS:
            blocks.append(
                nn.Sequential(
                    _Unit(into, out // 2, (wide, 1)),
                    _Unit(out // 2, out, (narrow, 1)),
                    _Unit(out, out, (1, wide)),
                    _Unit(out, out, (1, narrow)),
                )
            )
            into = out
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.pool(x))
        return x.mean(2).transpose(1, 2)


class _Gate(nn.Module):
    """Each channel times a sigmoid of all channels of the frame; (batch, frames, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Conv1d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels, momentum=0.01, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return (x * torch.sigmoid(self.norm(self.attention(x)))).transpose(1, 2)


class ActiveSpeakerNet(nn.Module):
    """Scores per frame: positive where the face speaks what is heard."""

    def __init__(self) -> None:
        super().__init__()
        width = 2 * _CHANNELS[-1]
        self.faces, self.audio = _Faces(), _Audio()
        self.join = _Gate(width)
        self.later = nn.GRU(width, width // 4, batch_first=True)
        self.earlier = nn.GRU(width, width // 4, batch_first=True)
        self.weigh = _Gate(width // 2)
        self.out = nn.Linear(width // 2, 2)

    def forward(self, mfcc: Tensor, faces: Tensor) -> Tensor:
        """The logit of "speaks", (batch, frames).

        Args:
            mfcc: float (batch, 4 frames, 13), of `mfcc.mfcc`.
            faces: float (batch, frames, 112, 112), grey levels from 0 to 255.
        """
        return self.head(self.audio(mfcc), self.faces(faces))

    def head(self, audio: Tensor, faces: Tensor) -> Tensor:
        """The same from what the two encoders return, (batch, frames, 128) each."""
        x = self.join(torch.cat((audio, faces), 2))
        forwards, backwards = self.later(x)[0], self.earlier(x.flip(1))[0].flip(1)
        return self.out(self.weigh(torch.cat((forwards, backwards), 2)))[..., 1]


def load_network(path: Path) -> ActiveSpeakerNet:
    """The network with the released weights, for inference.

    Raises:
        UserError: the file is no state dict of LR-ASD.
    """
    state = {ours: tensor for name, tensor in load_state(path).items() if (ours := _renamed(name)) is not None}
    network = ActiveSpeakerNet()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path}: these are not the weights of LR-ASD ({first_line(error)})") from None
    return network.eval()


def _renamed(name: str) -> str | None:
    """Our name for one of the released weights; None for those of the loss on the faces alone, of training only."""
    name = name.removeprefix("module.")
    if name.startswith("lossV."):
        return None
    for theirs, ours in _PARTS.items():
        if name.startswith(theirs + "."):
            rest = name.removeprefix(theirs + ".").replace("bn.", "norm.")
            if found := re.fullmatch(r"block(\d)\.([smt])_(norm_)?(\d)\.(\w+)", rest):
                block, kind, norm, number, what = found.groups()
                place = _PLACES[f"{kind}_{number}"]
                rest = f"blocks.{int(block) - 1}.{place}.{'norm' if norm else 'conv'}.{what}"
            return f"{ours}.{rest}"
    return name
