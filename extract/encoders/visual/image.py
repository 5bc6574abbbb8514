"""Visual features: a transformers image encoder (ViT, DeiT, BEiT, ConvNeXT, …) on face crops."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from ....toolkit.base.errors import UserError
from ..base import Provenance, Setup
from ..hub import load_transformer, short_name
from ..selection import Options
from .face_network import CropEncoder, ImageInput, Normalisation, given_normalisation

# Short names that papers use for certain models.
NAMES = {"vit": "google/vit-base-patch16-224-in21k"}


class ImageModel(CropEncoder):
    """Any image encoder that transformers' `AutoModel` loads.

    The vector of an image is that of the first token if the model has a class token, and otherwise the mean over the
    tokens or over the positions of the feature map. Crops have the size that the model's preprocessor names, and are
    normalised with its mean and standard deviation.

    Args:
        name_or_dir: hub name, a short name of `NAMES`, or a folder with model and preprocessor.
        device, precision, sequences, normalisation: as for `CropEncoder`.

    Raises:
        UserError: the model cannot be loaded, or does not take images.
    """

    def __init__(
        self,
        name_or_dir: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        sequences: bool = False,
        normalisation: Normalisation | None = None,
    ):
        from transformers import AutoImageProcessor, AutoModel

        name_or_dir = NAMES.get(name_or_dir, name_or_dir) if not Path(name_or_dir).is_dir() else name_or_dir
        model, prepare, sha256 = load_transformer(
            "image model", "--visual-model", name_or_dir, AutoModel, AutoImageProcessor
        )
        model = getattr(model, "vision_model", model)  # CLIP and similar models contain a text model as well
        if getattr(model, "main_input_name", "") != "pixel_values":
            raise UserError(f"--visual-model {name_or_dir}: {model.config.model_type} does not take images")
        self._kind = model.config.model_type
        size = getattr(prepare, "crop_size", None) if getattr(prepare, "do_center_crop", False) else None
        size = dict(size or prepare.size)
        side = int(size.get("height") or size.get("shortest_edge") or 0)
        if side < 1:
            raise UserError(f"--visual-model {name_or_dir}: its preprocessor does not specify an image size")
        own = Normalisation(tuple(prepare.image_mean), tuple(prepare.image_std), "the model's preprocessor")
        expected = ImageInput(side, False, normalisation or own)
        super().__init__(short_name(name_or_dir), model, sha256, expected, device, precision, sequences)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> ImageModel:
        """The model that --visual-model names."""
        normalisation = given_normalisation(options, grey=False)
        return cls(options.visual_model, setup.device, setup.precision, setup.sequences, normalisation)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side), normalised, to (n, dim)."""
        hidden = self.net(pixel_values=images).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        embeddings = getattr(self.net, "embeddings", None)
        return hidden[:, 0] if _has_class_token(embeddings) else hidden.mean(1)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        return self.described(
            "transformers image encoder on face crops, mean over frames",
            f"{self.name} ({self._kind})",
            {"transformers": version("transformers")},
        )


def _has_class_token(embeddings: torch.nn.Module | None) -> bool:
    return any(getattr(embeddings, name, None) is not None for name in ("cls_token", "class_embedding"))
