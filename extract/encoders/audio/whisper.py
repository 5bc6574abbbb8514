"""Whisper's encoder: windows of 30 seconds, of which only the frames that cover audio count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ....toolkit.base.errors import UserError
from .waves import Piece, states_of

# The second convolution halves the frames of the spectrogram.
_STRIDE = 2


class WhisperWindows:
    """A `waves.Front` of Whisper's encoder.

    The encoder takes 30 s of sound and nothing else. An utterance is cut into consecutive windows of 30 s from its
    start, without overlap; the last one is padded with zeros, as Whisper's preprocessor does. Of each window the first
    ceil(samples / 320) frames of 20 ms are kept, which cover its audio; the others are of padding.

    Args:
        model: a WhisperModel on the host; only its encoder is used, in the type and on the device of the arguments.
        prepare: its preprocessor.
        name: name of the model, for messages.
        device, dtype: of the encoder.

    Raises:
        UserError: the preprocessor's windows are not what the encoder takes.
    """

    shares_batches = True

    def __init__(self, model: Any, prepare: Any, name: str, device: torch.device, dtype: torch.dtype):
        self._encoder, self._prepare = model.get_encoder().to(device, dtype), prepare
        config = model.config
        self.rate, self._window = int(prepare.sampling_rate), int(prepare.n_samples)
        self._hop = int(prepare.hop_length) * _STRIDE
        takes = int(config.max_source_positions) * self._hop
        if self._window != takes or prepare.feature_size != config.num_mel_bins:
            raise UserError(
                f"--audio-model {name}: its preprocessor gives {self._window} samples in {prepare.feature_size} mel "
                f"bands, its encoder takes {takes} in {config.num_mel_bins}; use the model's own preprocessor"
            )
        self.width, self.total = int(config.d_model), int(config.encoder_layers)
        self.hop_s = self._hop / self.rate
        self.notes: Mapping[str, str] = {
            "windows": f"{self._window / self.rate:g} s, consecutive; frames of padding left out"
        }

    def cut(self, samples: int) -> list[Piece]:
        starts = range(0, samples, self._window)
        stops = [min(start + self._window, samples) for start in starts]
        return [Piece(start, stop, -(-(stop - start) // self._hop)) for start, stop in zip(starts, stops, strict=True)]

    def size(self, piece: Piece) -> int:
        return self._window

    def inputs(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        return {
            "input_features": self._prepare(list(waves), sampling_rate=self.rate, return_tensors="pt")["input_features"]
        }

    def states(self, inputs: Mapping[str, torch.Tensor], every: bool) -> Sequence[torch.Tensor]:
        features = inputs["input_features"].to(self._encoder.dtype)
        return states_of(self._encoder(features, output_hidden_states=every), every)
