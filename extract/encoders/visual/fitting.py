"""Whole frames in the size that an extractor wants. Worker processes import this file, so it imports no torch."""

from __future__ import annotations

import cv2
import numpy as np

from ..base import Frames


def fitted(image: np.ndarray, wants: Frames) -> np.ndarray:
    """A frame in the wanted size, by the average of the pixels that each new one covers (OpenCV's INTER_AREA).

    Sizes and the place of the centre are those of transformers' preprocessors: the longer edge is rounded down, and
    so is half of what is left over.

    Args:
        image: uint8 (height, width, 3).
        wants: size, fit and border.

    Returns:
        uint8 (wants.height, wants.width, 3).
    """
    width, height = wants.width + wants.border, wants.height + wants.border
    if wants.fit == "crop":
        own_height, own_width = image.shape[:2]
        # In whole numbers, since the edge that fits exactly must not lose a pixel to rounding.
        if own_width * height >= own_height * width:
            width = own_width * height // own_height
        else:
            height = own_height * width // own_width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - wants.height) // 2, (width - wants.width) // 2
    return resized[top : top + wants.height, left : left + wants.width]
