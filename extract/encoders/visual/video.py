"""Visual features: a transformers video encoder (VideoMAE, TimeSformer, ViViT) on clips of the speaker's face."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch

from ....toolkit.base.errors import UserError
from ..base import Provenance, Setup
from ..hub import load_transformer, model_type, short_name
from ..selection import Options
from .face_network import CropEncoder, Normalisation, given_normalisation
from .image import has_class_token
from .prepared import CLIP_MODELS, expected_input


class VideoModel(CropEncoder):
    """A video encoder of transformers: VideoMAE, TimeSformer or ViViT, which look at several frames at once.

    An utterance's crops are cut into clips of the length that the model was trained with (`clip_frames`). The vector
    of a clip is taken from the model's `last_hidden_state`: the class token of TimeSformer and ViViT; the mean over
    all patches of VideoMAE, which has none. That of the utterance is the mean over its clips. How much time a clip
    covers follows from the run's frame rate: at 5 frames per second, 16 frames are 3.2 seconds.

    Args:
        name_or_dir: hub name, or a folder with model and preprocessor.
        device, precision, sequences: as for `CropEncoder`.
        normalisation: replaces the preprocessor's.

    Raises:
        UserError: the model cannot be loaded, or does not take clips.
    """

    def __init__(
        self,
        name_or_dir: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        sequences: bool = False,
        normalisation: Normalisation | None = None,
    ):
        from transformers import AutoModel, AutoVideoProcessor

        what = f"--feature video:{name_or_dir}"
        if (kind := model_type(name_or_dir)) and kind not in CLIP_MODELS:
            raise UserError(
                f"{what}: {kind} does not take clips, as {', '.join(CLIP_MODELS)} do; "
                f"for an image encoder write --feature image:{name_or_dir}"
            )
        model, prepare, sha256 = load_transformer(
            "video model", "--feature video:", name_or_dir, AutoModel, AutoVideoProcessor
        )
        self._kind = model.config.model_type
        expected = expected_input(what, prepare, normalisation, int(model.config.num_frames))
        embeddings = model.embeddings
        if not isinstance(embeddings.position_embeddings, torch.nn.Parameter):
            # VideoMAE's table of sines is no buffer, does not move with the model, and would be copied for each batch.
            embeddings.position_embeddings = embeddings.position_embeddings.to(device)
        super().__init__(short_name(name_or_dir), model, sha256, expected, device, precision, sequences)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> VideoModel:
        """The model that a feature of kind video names."""
        normalisation = given_normalisation(options, grey=False)
        return cls(options.visual_model, setup.device, setup.precision, setup.sequences, normalisation)

    def pieces(self, images: int) -> np.ndarray:
        """The images of each clip, int64 (clips, frames)."""
        return clip_frames(images, self.expected.frames)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, frames, 3, side, side), normalised, to (n, dim)."""
        hidden = self.net(pixel_values=images).last_hidden_state
        return hidden[:, 0] if has_class_token(self.net) else hidden.mean(1)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        described = self.described(
            "transformers video encoder on clips of face crops, mean over clips",
            f"{self.name} ({self._kind})",
            {"transformers": version("transformers")},
            "clip, at the time of its middle",
            "clips",
        )
        parameters = {
            **described.get("parameters", {}),
            "frames_per_clip": self.expected.frames,
            "clips": "as many as the crops fill, to the nearest, at least one; equal shares, sampled uniformly",
            "clip_vector": "class token" if has_class_token(self.net) else "mean over patches",
        }
        return {**described, "parameters": parameters}


def clip_frames(images: int, frames: int) -> np.ndarray:
    """Cuts images into consecutive clips.

    There are as many clips as the images fill, to the nearest whole number (half a clip counts as one) and at least
    one. Each has an equal share of the images and takes its frames from the middles of equal parts of that share, so
    that an image is repeated where there are too few and left out where there are too many.

    Args:
        images: number of images, at least 1.
        frames: number of frames in a clip.

    Returns:
        int64 (clips, frames), the indices of the images, which do not decrease.
    """
    clips = max(1, (2 * images + frames) // (2 * frames))
    places = clips * frames
    return ((2 * np.arange(places) + 1) * images // (2 * places)).reshape(clips, frames)
