"""Audio at another rate, as every speech model gets it."""

from __future__ import annotations

import torch
import torchaudio

from ..base import AudioSpan


def resample(span: AudioSpan, rate: int) -> AudioSpan:
    """Resamples audio to another rate by `torchaudio.functional.resample`."""
    if span.rate == rate:
        return span
    wave = torchaudio.functional.resample(torch.from_numpy(span.samples), span.rate, rate)
    return AudioSpan(wave.numpy(), rate)
