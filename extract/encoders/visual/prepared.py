"""What a preprocessor of transformers does to pictures, read from its settings and checked against its own result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....toolkit.base.errors import UserError, one_line
from ..base import Frames
from .face_network import ImageInput, Normalisation
from .fitting import fitted

# Models whose input is a clip and not a single picture; `video.VideoModel` knows where their vector is.
CLIP_MODELS = ("videomae", "timesformer", "vivit")
# Below this size, ConvNeXT's preprocessor crops, and from it on it stretches.
_CONVNEXT_STRETCHED = 384


def expected_input(what: str, prepare: Any, given: Normalisation | None, frames: int = 0) -> ImageInput:
    """The input of a model, by its preprocessor.

    Args:
        what: the option and the model, for messages.
        prepare: an image or video processor of transformers.
        given: a normalisation instead of its own.
        frames: number of frames in a clip; 0 for a model of single pictures.

    Raises:
        UserError: it names no size, a size that is not square, or does more to a picture than it is read for here.
    """
    size = _crop_size(prepare) or _mapping(getattr(prepare, "size", None))
    side = int(size.get("height") or size.get("shortest_edge") or 0)
    if side < 1:
        raise UserError(f"{what}: its preprocessor does not specify an image size")
    if size.get("height") != size.get("width"):
        raise UserError(f"{what}: its images are not square ({size['width']} x {size['height']}); use another model")
    own = ImageInput(side, False, _own_normalisation(prepare), frames)
    _check(what, prepare, own)
    return own if given is None else ImageInput(side, False, given, frames)


def whole_frames(what: str, prepare: Any, side: int) -> tuple[Frames, str]:
    """How the preprocessor of an image model resizes a picture that is not square.

    Args:
        what: the option and the model, for messages.
        prepare: an image processor of transformers.
        side: of the model's input, in pixels.

    Returns:
        The frames that are as it would make them, and the same in words.

    Raises:
        UserError: it crops more than it resizes to, or makes something else of a picture.
    """
    size = _mapping(getattr(prepare, "size", None))
    edge, stretched = int(size.get("shortest_edge") or 0), bool(size.get("height"))
    between = int(size.get("height") or edge)
    if edge and getattr(prepare, "crop_pct", None):
        stretched = edge >= _CONVNEXT_STRETCHED
        between = edge if stretched else int(edge / prepare.crop_pct)
    if between < side:
        raise UserError(f"{what}: its preprocessor resizes to {between} and crops {side} pixels; use crop=face")
    wants = Frames(side, side, "stretch" if stretched else "crop", between - side)
    _check_place(what, prepare, wants, between)
    resized = f"resized to {between} x {between} pixels" if stretched else f"shortest edge resized to {between} pixels"
    cut = "" if stretched and between == side else f", centre of {side} x {side}"
    # The one difference from the preprocessor, whose filter is another.
    return wants, f"{resized}{cut}; by area (INTER_AREA)"


def _mapping(size: Any) -> dict[str, Any]:
    return {} if size is None else {key: value for key, value in dict(size).items() if value is not None}


def _crop_size(prepare: Any) -> dict[str, Any]:
    return _mapping(getattr(prepare, "crop_size", None)) if getattr(prepare, "do_center_crop", False) else {}


def _own_normalisation(prepare: Any) -> Normalisation:
    """Mean and standard deviation on the scale 0 to 1, with the preprocessor's own scale taken into them."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if getattr(prepare, "do_normalize", True):
        mean, std = tuple(prepare.image_mean), tuple(prepare.image_std)
    factor = (getattr(prepare, "rescale_factor", None) or 1 / 255) if getattr(prepare, "do_rescale", True) else 1.0
    scale = 255 * float(factor)
    offset = 1.0 if getattr(prepare, "offset", False) else 0.0  # ViViT's goes from -1 to 1 before the mean
    if scale != 1 or offset:
        mean, std = tuple((m + offset) / scale for m in mean), tuple(s / scale for s in std)
    return Normalisation(mean, std, "the model's preprocessor")


def _check(what: str, prepare: Any, own: ImageInput) -> None:
    """Compares the normalisation that was read with what the preprocessor does, such as to swap colours or to pad."""
    shape = (own.frames or 1, own.side, own.side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given = [list(images)] if own.frames else list(images)
    try:
        made: Mapping[str, Any] = prepare(given, do_resize=False, do_center_crop=False, return_tensors="np")
        found = np.asarray(made["pixel_values" if "pixel_values" in made else "pixel_values_videos"], np.float32)
    except Exception as error:  # another library's code may raise anything
        raise UserError(f"{what}: its preprocessor cannot be used ({one_line(error)})") from error
    normalisation = own.normalisation
    expected = np.moveaxis((images / 255 - normalisation.mean) / normalisation.std, -1, 1).astype(np.float32)
    found = found[0] if own.frames and found.ndim == 5 else found
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"{what}: its preprocessor ({type(prepare).__name__}) does more than to resize, crop and normalise; "
            "use another model"
        )


def _check_place(what: str, prepare: Any, wants: Frames, between: int) -> None:
    """Compares the frames that were read with what the preprocessor makes of a picture, twice as high and three times
    as wide as it resizes to, whose grey levels are ramps: they say which part of it is seen.
    """
    x, y = np.meshgrid(np.linspace(0, 255, 3 * between), np.linspace(0, 255, 2 * between))
    picture = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)
    try:
        made = prepare([picture], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    except Exception as error:  # another library's code may raise anything
        raise UserError(f"{what}: its preprocessor cannot be used ({one_line(error)})") from error
    found, expected = np.asarray(made, np.float32)[0], np.moveaxis(fitted(picture, wants), -1, 0)
    # In grey levels; the filters alone differ by less.
    if found.shape != expected.shape or np.abs(found - expected).mean() > 1:
        raise UserError(
            f"{what}: its preprocessor ({type(prepare).__name__}) shows another part of a frame; use crop=face"
        )
