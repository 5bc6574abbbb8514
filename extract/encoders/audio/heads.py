"""Waveforms as the input of a speech model with a classification head, in fine-tuning and for its probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ....toolkit.base.errors import UserError
from ..hub import check_complete, not_here, quiet_and_offline
from .waves import masks_padding

HEADS = ("projector", "classifier", "layer_weights")


class Waves:
    """The preprocessor of a speech model.

    Args:
        prepare: the feature extractor of transformers.
        config: of the model.

    Attributes:
        rate: sampling rate in Hz.
        together: whether clips of different lengths may be in one batch; see `masks_padding`.
    """

    def __init__(self, prepare: Any, config: Any) -> None:
        self.prepare, self.rate = prepare, int(prepare.sampling_rate)
        # Whisper pads every clip to 30 s itself.
        self.together = config.model_type == "whisper" or masks_padding(prepare, config)

    def inputs(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The model's inputs for waveforms, float32 (n,), at the model's rate."""
        padding = {} if self.prepare.model_input_names[0] == "input_features" else {"padding": True}
        found = self.prepare(list(waves), sampling_rate=self.rate, return_tensors="pt", **padding)
        return {name: found[name] for name in self.prepare.model_input_names if name in found}


def load_classifier(
    name_or_dir: str,
    dtype: torch.dtype,
    whole: bool,
    present: Mapping[str, object] | None = None,
    **config: object,
) -> tuple[Any, Any]:
    """A speech model with a classification head, and its preprocessor.

    Args:
        name_or_dir: hub name or folder.
        dtype: of the weights.
        whole: whether the head must be among the weights; otherwise it may be new, and is drawn from PyTorch's global
            generator.
        present: entries of the model's configuration to change where it has them.
        config: entries to set.

    Raises:
        UserError: they cannot be loaded, have no such head in transformers, or lack weights.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

    offline = quiet_and_offline(name_or_dir)
    try:
        settings = AutoConfig.from_pretrained(name_or_dir, local_files_only=offline, **config)
        if type(settings) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
            raise UserError(
                f"--audio-model {name_or_dir}: transformers has no classifier of {settings.model_type}; use a model "
                "such as wav2vec2, hubert, wavlm, data2vec-audio or whisper"
            )
        for name, value in (present or {}).items():
            if hasattr(settings, name):
                setattr(settings, name, value)
        prepare = AutoFeatureExtractor.from_pretrained(name_or_dir, local_files_only=offline)
        model, loading = AutoModelForAudioClassification.from_pretrained(
            name_or_dir, config=settings, dtype=dtype, local_files_only=offline, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_here("audio model", "--audio-model", name_or_dir, offline, error) from None
    free = () if whole else HEADS  # and the vector that stands for masked frames in training
    missing = (key for key in loading["missing_keys"] if not key.startswith(free) and "masked_spec_embed" not in key)
    check_complete("audio model", name_or_dir, missing)
    return model, prepare
