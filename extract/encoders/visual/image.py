"""Visual features: a transformers image encoder (ViT, CLIP, DINOv2, ConvNeXT, …) on face crops or whole frames."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from ....toolkit.base.errors import UserError
from ..base import Provenance, Setup
from ..hub import load_transformer, model_type, short_name
from ..selection import Options
from .face_network import CropEncoder, Normalisation, given_normalisation
from .prepared import CLIP_MODELS, expected_input, whole_frames

# Short names that papers use for certain models.
NAMES = {"vit": "google/vit-base-patch16-224-in21k"}


class ImageModel(CropEncoder):
    """Any image encoder that transformers' `AutoModel` loads.

    The vector of an image is taken from the model's `last_hidden_state`: that of the first token if the model has a
    class token, and otherwise the mean over the tokens or over the positions of the feature map. Whether it went
    through a last layer norm is the model's: of ViT, DINOv2 and SigLIP it did, of CLIP it did not. CLIP's is thus the
    class token before `post_layernorm` and before the projection to what it shares with text, and not the result of
    `get_image_features`; of SigLIP it is the mean of the patches, without its attention head.

    Face crops have the size that the model's preprocessor names. Whole frames are resized and cropped as it would
    do it: to height and width whatever a frame's proportions (ViT), or by the shortest edge and then to the centre
    (CLIP). Only the filter differs, since pixels are averaged by area instead of by PIL's or torchvision's bilinear or
    bicubic one. Both are normalised with its mean and standard deviation.

    Args:
        name_or_dir: hub name, a short name of `NAMES`, or a folder with model and preprocessor.
        device, precision, sequences: as for `CropEncoder`.
        normalisation: replaces the preprocessor's.
        crop: "face", or "frame" for whole frames (or the manifest's region).

    Raises:
        UserError: the model cannot be loaded, does not take images, or has a preprocessor that does other things too.
    """

    def __init__(
        self,
        name_or_dir: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        sequences: bool = False,
        normalisation: Normalisation | None = None,
        crop: str = "face",
    ):
        from transformers import AutoImageProcessor, AutoModel

        name_or_dir = NAMES.get(name_or_dir, name_or_dir) if not Path(name_or_dir).is_dir() else name_or_dir
        what = f"--visual-model {name_or_dir}"
        if (kind := model_type(name_or_dir)) in CLIP_MODELS:
            raise UserError(f"{what}: {kind} takes clips and not images; write --feature video:{name_or_dir}")
        model, prepare, sha256 = load_transformer(
            "image model", "--visual-model", name_or_dir, AutoModel, AutoImageProcessor
        )
        model = getattr(model, "vision_model", model)  # CLIP and similar models contain a text model as well
        if getattr(model, "main_input_name", "") != "pixel_values":
            raise UserError(f"{what}: {model.config.model_type} does not take images")
        self._kind = model.config.model_type
        expected = expected_input(what, prepare, normalisation)
        wants, self._frames = whole_frames(what, prepare, expected.side) if crop == "frame" else (None, "")
        super().__init__(short_name(name_or_dir), model, sha256, expected, device, precision, sequences, wants)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> ImageModel:
        """The model that --visual-model names, on what crop says."""
        normalisation = given_normalisation(options, grey=False)
        return cls(
            options.visual_model, setup.device, setup.precision, setup.sequences, normalisation, crop=options.crop
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side), normalised, to (n, dim)."""
        hidden = self.net(pixel_values=images).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden[:, 0] if has_class_token(self.net) else hidden.mean(1)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        seen, item = ("whole frames", "frame") if self._frames else ("face crops", "face crop")
        described = self.described(
            f"transformers image encoder on {seen}, mean over frames",
            f"{self.name} ({self._kind})",
            {"transformers": version("transformers")},
            item,
        )
        if self._frames:
            parameters = {**described.get("parameters", {}), "frames": self._frames}
            return {**described, "parameters": parameters}
        return described


def has_class_token(model: torch.nn.Module) -> bool:
    """Whether the first token of a model's last layer is not of a patch."""
    embeddings = getattr(model, "embeddings", None)
    return any(getattr(embeddings, name, None) is not None for name in ("cls_token", "class_embedding"))
