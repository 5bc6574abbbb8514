"""What tells voices apart: the interface of voice encoders, and their registry.

`--speaker-model` takes a hub name or folder of a `WavLMForXVector` of transformers, or the name of a voice encoder of
another package: an entry point `my-voices = my_package.module:build` in the group `erc_toolkit.voice_encoders`, where
`build(device)` returns a `VoiceEncoder`. A folder of the same name as an encoder is written `./my-voices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.plugins import PluginRegistry

if TYPE_CHECKING:
    import torch

_REGISTRY = PluginRegistry("voice encoder", "erc_toolkit.voice_encoders", {}, "--speaker-model")


class VoiceEncoder(Protocol):
    """A model whose vectors point in similar directions for the voice of the same person.

    Attributes:
        distance: two groups of windows are different people if their mean cosine distance is above this; None where
            nobody has measured it, then the recording itself gives it (`clustering.people_distance`).
    """

    distance: float | None

    def embed(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """One vector per window.

        Args:
            windows: float32 (samples,) each, mono at 16 kHz, 0.4 to 1.5 s.

        Returns:
            float32 (len(windows), dimensions).
        """
        ...

    def provenance(self) -> dict[str, object]:
        """Plain JSON: `model`, `weights_sha256`, `versions`."""
        ...


def load_voice_encoder(name: str, device: torch.device) -> VoiceEncoder:
    """The voice encoder that `--speaker-model` names.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    if name not in _REGISTRY.names():
        from .xvectors import XVectors

        return XVectors(name, device)
    build = _REGISTRY.load(name)
    try:
        encoder = build(device)
    except UserError:
        raise
    except Exception as error:  # another package's code may raise anything
        raise _REGISTRY.error(name, f"cannot be built: {one_line(error)}") from error
    if missing := [member for member in ("distance", "embed", "provenance") if not hasattr(encoder, member)]:
        raise _REGISTRY.error(name, f"has no {missing[0]}")
    return encoder


def checked_vectors(encoder: VoiceEncoder, windows: Sequence[np.ndarray]) -> np.ndarray:
    """The vectors of windows with length 1: float32 (len(windows), dimensions); zero where there is none.

    Raises:
        UserError: the encoder's result has another shape.
    """
    if not windows:
        return np.zeros((0, 0), np.float32)
    found = np.asarray(encoder.embed(windows), np.float32)
    if found.ndim != 2 or len(found) != len(windows):
        raise UserError(
            f"--speaker-model: {encoder.provenance().get('model')} returned an array of shape {found.shape} for "
            f"{len(windows)} windows; it must return one vector per window"
        )
    found = np.where(np.isfinite(found), found, 0)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)
