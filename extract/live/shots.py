"""What LR-ASD may ask of a stream's frames: the surroundings of faces at 25 frames per second.

Which faces a turn has, and where, is known when it has ended; a file is then read again, but a stream is gone. So grey
frames are kept until it is known where faces can be in them, then these parts of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from ..faces.detection import overlap
from ..faces.lips.closeups import FACES_PER_S, Grey, reach_of
from ..faces.tracks import GAP_S, LEAST_OVERLAP

Box = tuple[float, float, float, float, float]
# A face's place in a frame lies between two detections, and is smoothed over a quarter of a second on either side.
_SMOOTHED_S = 0.3


def reach_of_tracks(fps: float) -> float:
    """Seconds within which lie all detections that a face's place at a time can depend on, of `fps` per second."""
    # Between two detections of a face are at most `GAP_S`, or twice the time between examined frames, of which at most
    # three of four are left out in the minute of a long turn that is scored.
    return _SMOOTHED_S + max(GAP_S, 8 / fps)


class NotKeptError(Exception):
    """A part of a frame was asked for that is not kept."""


class Parts:
    """The parts that are kept of a grey frame.

    Args:
        grey: the frame, uint8 (height, width).
        places: left, top, right and bottom of each part in pixels.
    """

    def __init__(self, grey: np.ndarray, places: Iterable[tuple[int, int, int, int]]) -> None:
        self.shape = grey.shape
        self._parts = [(left, top, grey[top:bottom, left:right].copy()) for left, top, right, bottom in places]

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(part.nbytes for _, _, part in self._parts)

    def __getitem__(self, part: tuple[slice, slice], /) -> np.ndarray:
        rows, columns = part
        for left, top, kept in self._parts:
            if left <= columns.start and top <= rows.start:
                found = kept[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                if found.shape == (rows.stop - rows.start, columns.stop - columns.start):
                    return found
        raise NotKeptError


class Shots:
    """The end of a stream's frames at 25 per second, as far as faces are near.

    Args:
        fps: how often per second faces are detected.
    """

    def __init__(self, fps: float) -> None:
        self._reach_s = reach_of_tracks(fps)
        self._whole: deque[tuple[int, np.ndarray]] = deque()
        self._kept: deque[tuple[int, Parts]] = deque()
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._last_parts: tuple[np.ndarray, list, Parts] | None = None

    def add(self, k: int, pixels: np.ndarray) -> None:
        """Takes the frame at k / 25 s, uint8 (height, width, 3) RGB."""
        if self._last is None or self._last[0] is not pixels:
            self._last = pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        self._whole.append((k, self._last[1]))

    def settle(self, until: float, seen: Iterable[tuple[float, Sequence[Box]]]) -> None:
        """Keeps only the parts of frames around whose time all faces are known.

        Args:
            until: seconds up to which faces were detected.
            seen: time of each frame in which they were, ascending, and the faces' boxes as `Track.boxes` has them.
        """
        last = (until - self._reach_s) * FACES_PER_S
        due = []
        while self._whole and self._whole[0][0] <= last:
            due.append(self._whole.popleft())
        if not due:
            return
        first, end = due[0][0] / FACES_PER_S - self._reach_s, due[-1][0] / FACES_PER_S + self._reach_s
        groups = _together([box for time, boxes in seen if first <= time <= end for box in boxes])
        for k, grey in due:
            if self._last_parts is None or self._last_parts[0] is not grey or self._last_parts[1] != groups:
                height, width = grey.shape
                places = [_place(group, width, height) for group in groups]
                self._last_parts = grey, groups, Parts(grey, places)
            self._kept.append((k, self._last_parts[2]))

    def drop(self, before: float) -> None:
        """Forgets the frames before a time in seconds."""
        for frames in (self._kept, self._whole):
            while frames and frames[0][0] < before * FACES_PER_S:
                frames.popleft()

    def of(self, wanted: set[int]) -> Iterable[tuple[int, Grey]]:
        """(k, frame) of the frames that are wanted, ascending."""
        for frames in (self._kept, self._whole):
            yield from ((k, grey) for k, grey in frames if k in wanted)

    @property
    def bytes(self) -> int:
        """Memory that the frames take."""
        whole = {id(grey): grey.nbytes for _, grey in self._whole}
        return sum(whole.values()) + sum({id(parts): parts.bytes for _, parts in self._kept}.values())


def _together(boxes: list[Box]) -> list[list[Box]]:
    """Groups of boxes of which each overlaps another of its group: a track's boxes are in one, as each overlaps the
    next."""
    groups: list[list[Box]] = []
    for box in boxes:
        near = [any(overlap(box[:4], other[:4]) > 0.9 * LEAST_OVERLAP for other in group) for group in groups]
        joined = [box, *(other for group, one in zip(groups, near, strict=True) if one for other in group)]
        groups = [*(group for group, one in zip(groups, near, strict=True) if not one), joined]
    return groups


def _place(group: list[Box], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a frame that any crop of such a track is taken from: left, top, right, bottom in pixels."""
    left, top, wide, high, aspect = np.array(group).T
    x, y = (left + wide / 2) * width, (top + high / 2) * height
    reach = reach_of(float(np.maximum(wide, high / aspect).max() / 2 * width)) + 2
    return (
        int(max(0, x.min() - reach)),
        int(max(0, y.min() - reach)),
        int(min(width, x.max() + reach + 1)),
        int(min(height, y.max() + reach + 1)),
    )
