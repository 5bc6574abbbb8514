"""The faces of tracks at 25 frames per second, as LR-ASD reads them, from a second pass over the video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np

from ..tracks import Track

FACES_PER_S = 25
SIDE = 112  # of a crop, in pixels
# A crop's side by half of the box's greater side: the whole box, as AVA's were in the training. Of 56 choices between
# two real talking heads 54 were right so, 41 with the crop of the authors' demo, 1.4 and lower, which fits their other
# weights.
_SIDE = 2.0
# The boxes are smoothed by a median over about half a second, as the authors do.
_SMOOTHED = 13
# A track begins or ends at most so long before its first or after its last detection.
_EDGE_S = 0.2
_FILL = 110  # grey beyond the edge of the image
# Longer utterances are judged by their first part, so that memory stays bounded: 18 MB for each face.
MOST_S = 60.0


class Grey(Protocol):
    """A grey frame, uint8 (height, width): an array, or the parts that are kept of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: tuple[slice, slice], /) -> np.ndarray: ...


@dataclass
class CloseUp:
    """One track's face in the frames at k / 25 s.

    Attributes:
        first: the first k.
        centres: float (n, 2), fractions of the image's width and height.
        halves: float (n,), half of the box's greater side, as fractions of the image's width.
        crops: uint8 (112, 112) by the number of the frame within the track.
    """

    first: int
    centres: np.ndarray
    halves: np.ndarray
    crops: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, track: Track, start: float, end: float) -> CloseUp:
        """Plans the crops of a track within a span; `start` and `end` in seconds."""
        times, boxes = np.array([time for time, _ in track.boxes]), np.array([box for _, box in track.boxes])
        end = min(end, start + MOST_S)
        first = int(np.ceil(max(start, times[0] - _EDGE_S) * FACES_PER_S - 1e-6))
        last = int(np.floor(min(end, times[-1] + _EDGE_S) * FACES_PER_S + 1e-6))
        grid = np.arange(first, last + 1) / FACES_PER_S
        left, top, width, height, aspect = (np.interp(grid, times, column) for column in boxes.T)
        half = np.maximum(width, height / aspect) / 2
        smooth = [_median(column) for column in (left + width / 2, top + height / 2, half)]
        return cls(first, np.stack(smooth[:2], 1), smooth[2])

    def __len__(self) -> int:
        return len(self.halves)

    @property
    def end(self) -> int:
        """The k after the last."""
        return self.first + len(self)

    def wants(self, k: int) -> bool:
        """Whether the face is there at k / 25 s."""
        return 0 <= k - self.first < len(self)

    def take(self, k: int, grey: Grey) -> None:
        """Takes the frame at k / 25 s."""
        at = k - self.first
        height, width = grey.shape
        half = float(self.halves[at] * width)
        x, y = self.centres[at] * (width, height)
        self.crops[at] = _square(grey, float(x), float(y), _SIDE * half)

    def faces(self) -> tuple[np.ndarray, np.ndarray]:
        """The crops taken, uint8 (m, 112, 112), and their k, int (m,)."""
        taken = sorted(self.crops)
        crops = [self.crops[at] for at in taken]
        return (np.stack(crops) if crops else np.zeros((0, SIDE, SIDE), np.uint8)), self.first + np.array(taken, int)


def take(closeups: Sequence[CloseUp], k: int, image: np.ndarray) -> None:
    """Gives the frame at k / 25 s, uint8 (height, width, 3) RGB, to the tracks that are there."""
    there = [one for one in closeups if one.wants(k)]
    if there:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        for one in there:
            one.take(k, grey)


def frame_at(time: float) -> int:
    """The number of the frame at `time` seconds, at 25 per second."""
    return round(time * FACES_PER_S)


def frames_of(closeups: Iterable[CloseUp]) -> set[int]:
    """The numbers of all frames that tracks are there in."""
    return {one.first + i for one in closeups for i in range(len(one))}


def _square(grey: Grey, x: float, y: float, side: float) -> np.ndarray:
    """The square of that centre and side, as 112×112 pixels."""
    scale = SIDE / max(side, 1.0)
    # Only the part of the image that is needed: blurring whole frames for each face would take longer than the network.
    reach = _reach(side)
    height, width = grey.shape
    left, top = int(np.clip(x - reach, 0, width - 1)), int(np.clip(y - reach, 0, height - 1))
    right, bottom = int(np.clip(x + reach + 1, left + 1, width)), int(np.clip(y + reach + 1, top + 1, height))
    part = grey[top:bottom, left:right]
    if scale < 0.5:  # bilinear sampling skips pixels when it shrinks by more than half
        part = cv2.GaussianBlur(part, (0, 0), 0.25 / scale)
    matrix = np.array([[scale, 0, SIDE / 2 - scale * (x - left)], [0, scale, SIDE / 2 - scale * (y - top)]])
    return cv2.warpAffine(
        part, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=_FILL
    )


def reach_of(half: float) -> float:
    """How far from its centre a crop needs the image, in pixels, for half of a box's greater side in pixels."""
    return _reach(_SIDE * half) + 1


def _reach(side: float) -> float:
    return side / 2 + 4 / min(SIDE / max(side, 1.0), 1.0)


def _median(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return values
    padded = np.pad(values, _SMOOTHED // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED), axis=1)
