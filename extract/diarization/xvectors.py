"""Voice encoder: `WavLMForXVector` of transformers, as microsoft/wavlm-base-plus-sv."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...toolkit.base.device import inference, to_device
from ...toolkit.base.errors import UserError
from ..encoders.hub import load_transformer, short_name
from .requirements import installed_versions
from .voice_activity import RATE

_BATCH = 16  # windows of 1.5 s
# No weight of the vectors: the classifier of the training speakers, and the vector that replaces masked frames.
_UNUSED = ("classifier.", "objective.", "wavlm.masked_spec_embed")


class XVectors:
    """The x-vectors of a speaker verification model.

    Windows of the same length are computed together; there is no padding, so a window's vector does not depend on the
    others.

    Args:
        name_or_dir: hub name, or a folder with the model and its preprocessor.
        device: device of the model.

    Raises:
        UserError: the model is neither here nor on the hub, is another kind of model, or does not take 16 kHz.
    """

    # Nobody has measured it here: the weights are on the hub only. The recording gives it.
    distance: float | None = None

    def __init__(self, name_or_dir: str, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, WavLMForXVector

        self._device = device
        model, self._prepare, self._sha256 = load_transformer(
            "speaker model", "--speaker-model", name_or_dir, WavLMForXVector, AutoFeatureExtractor, _UNUSED
        )
        if model.config.model_type != "wavlm":
            raise UserError(
                f"--speaker-model {name_or_dir}: is a {model.config.model_type} model; use a WavLM with an x-vector "
                "head, such as microsoft/wavlm-base-plus-sv"
            )
        if int(getattr(self._prepare, "sampling_rate", 0)) != RATE:
            raise UserError(f"--speaker-model {name_or_dir}: its preprocessor does not take {RATE} Hz")
        self._model, self._name = model.to(device), short_name(name_or_dir)

    def embed(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (len(windows), dimensions); see `VoiceEncoder`."""
        found: list[np.ndarray | None] = [None] * len(windows)
        by_length: dict[int, list[int]] = {}
        for i, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(i)
        with inference("float32", self._device):
            for numbers in by_length.values():
                for first in range(0, len(numbers), _BATCH):
                    part = numbers[first : first + _BATCH]
                    inputs = self._prepare([windows[i] for i in part], sampling_rate=RATE, return_tensors="pt")
                    vectors = (
                        self._model(to_device(inputs["input_values"], self._device)).embeddings.float().cpu().numpy()
                    )
                    for i, vector in zip(part, vectors, strict=True):
                        found[i] = vector
        return np.stack([vector for vector in found if vector is not None]).astype(np.float32)

    def provenance(self) -> dict[str, object]:
        return {
            "model": f"{self._name} (x-vectors)",
            "weights_sha256": self._sha256,
            "versions": installed_versions("transformers", "torch"),
        }
