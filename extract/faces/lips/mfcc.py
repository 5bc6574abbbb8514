"""MFCCs as LR-ASD was trained on: those of python_speech_features 0.6 with its defaults."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torchaudio.functional import create_dct

RATE = 16_000
_WINDOW, _STEP, _SPECTRUM = 400, 160, 512  # samples
_FILTERS, _COEFFICIENTS, _LIFTER, _EMPHASIS = 26, 13, 22, 0.97
_LEAST = float(np.finfo(float).eps)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """MFCCs, float32 (steps, 13) at 100 Hz; the last window is filled up with zeros.

    Args:
        samples: float32 (n,) at 16 kHz, from -1 to 1; they are taken as 16-bit numbers, as in the training.
    """
    x = torch.from_numpy(np.asarray(samples, np.float64)) * 32768
    x = torch.cat((x[:1], x[1:] - _EMPHASIS * x[:-1]))
    steps = 1 + max(0, -(-(len(x) - _WINDOW) // _STEP))
    x = torch.nn.functional.pad(x, (0, max(0, (steps - 1) * _STEP + _WINDOW - len(x))))
    power = torch.fft.rfft(x.unfold(0, _WINDOW, _STEP), _SPECTRUM).abs().square() / _SPECTRUM
    energy = power.sum(1).clamp_min(_LEAST)
    filtered = (power @ _filters()).clamp_min(_LEAST).log()
    found = filtered @ create_dct(_COEFFICIENTS, _FILTERS, norm="ortho").double()
    n = torch.arange(_COEFFICIENTS, dtype=torch.float64)
    found = found * (1 + _LIFTER / 2 * torch.sin(torch.pi * n / _LIFTER))
    found[:, 0] = energy.log()
    return found.float().numpy()


@functools.cache
def _filters() -> torch.Tensor:
    """Triangular filters (257, 26) from 0 to 8 kHz on the mel scale, with corners at whole bins of the spectrum."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), _FILTERS + 2)
    corners = np.floor((_SPECTRUM + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(_SPECTRUM // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    falls = np.where((bins >= middle) & (bins < high), falling, 0.0)
    filters = np.where((bins >= low) & (bins < middle), rising, falls)
    return torch.from_numpy(filters)
