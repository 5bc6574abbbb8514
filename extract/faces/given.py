"""The speaker's face that a manifest gives, and the track that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .detection import overlap
from .tracks import Track

# Least overlap (intersection over union) of a track's box with the given one at the same time.
_LEAST_OVERLAP = 0.3
# A track's boxes count up to so long before the first given one and after the last.
_EDGE_S = 0.2


@dataclass(frozen=True)
class GivenFace:
    """Where the speaker's face is.

    Attributes:
        boxes: float (n, 5), ascending times in seconds of the file, and left, top, width and height as fractions of the
            image, or of the utterance's region; (0, 5) if it is not seen.
        confidence: from 0 to 1.
        score: LR-ASD's score of its lips.
        off_screen: why it is not seen, or "".
    """

    boxes: np.ndarray
    confidence: float = 0.0
    score: float = 0.0
    off_screen: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> GivenFace | None:
        """The `speaker_face` of an utterance, which was checked when it was read; None for None."""
        if given is None:
            return None
        boxes = np.array(given.get("boxes", ()), float).reshape(-1, 5)
        return cls(
            boxes, float(given.get("confidence", 0.0)), float(given.get("score", 0.0)), given.get("off_screen", "")
        )

    def shared(self, track: Track) -> int:
        """How many of a track's boxes are where this face is at that time."""
        times = self.boxes[:, 0]
        found = 0
        for time, (left, top, width, height, _) in track.boxes:
            if times[0] - _EDGE_S <= time <= times[-1] + _EDGE_S:
                x, y, wide, high = (float(np.interp(time, times, column)) for column in self.boxes.T[1:])
                found += overlap((left, top, width, height), (x, y, wide, high)) >= _LEAST_OVERLAP
        return found
