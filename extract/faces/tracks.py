"""Faces through the frames of an utterance: each is followed by the overlap of its boxes, so that a track is one
person.

A cut in the film, or a face that looks unlike the last one in its place, begins a new track. The six largest faces of a
frame are followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from .detection import Face, crop, overlap

# A face that is not seen for longer than this is a new track when it comes back.
_GAP_S = 1.0
_LEAST_OVERLAP = 0.2
# The largest faces of a frame that are followed, so that a crowd does not fill the memory.
_MOST_FACES = 6
# Correlation of a small grey picture with the last one: below the first the film was cut for certain, below the second
# perhaps. Correlation of aligned faces: what one person's reach from frame to frame, and what they reach for certain.
_CUT, _MAYBE_CUT = 0.25, 0.5
_LIKE, _ALIKE = 0.1, 0.3
# Side of the aligned face on which motion is measured; rows and columns of its mouth, and of eyes and forehead.
_SIDE = 64
_MOUTH = np.s_[40:62, 16:48]
_UPPER = np.s_[10:34, 12:52]


@dataclass
class Track:
    """One face through an utterance.

    Attributes:
        widths: of its box in each frame that shows it, in pixels.
        motion: for each of those frames after the first, (time in seconds, how much the mouth moved since the last one
            beyond what the upper face did, in grey levels relative to the face's own contrast).
        crops: (frame's number, time in seconds, picture) of the frames that are kept.
    """

    widths: list[float] = field(default_factory=list)
    motion: list[tuple[float, float]] = field(default_factory=list)
    crops: list[tuple[int, float, np.ndarray]] = field(default_factory=list)
    last: Face | None = None
    last_time: float = 0.0
    look: np.ndarray | None = None

    def add(self, time: float, face: Face, look: np.ndarray) -> None:
        if self.look is not None:
            change = np.abs(look - self.look)
            self.motion.append((time, max(0.0, float(change[_MOUTH].mean() - change[_UPPER].mean()))))
        self.widths.append(face.box[2])
        self.last, self.last_time, self.look = face, time, look


class FaceTracks:
    """Follows all faces through the frames of one utterance.

    Args:
        detect: a detector of `erc_toolkit.extract.faces.detection`.
        size, margin, grey: of the crops that are kept.
        most: crops kept of a track: beyond twice as many, every second one is forgotten and frames are looked at half
            as often, so that memory stays bounded.
    """

    def __init__(self, detect, size: int, margin: float, grey: bool, most: int):
        self._detect, self._size, self._margin, self._grey, self._most = detect, size, margin, grey, most
        self.tracks: list[Track] = []
        self.looked_at = 0
        self.brightest = 0.0
        self._seen = 0
        self._stride = 1
        self._last_view: np.ndarray | None = None
        self._last_time = math.inf

    def look(self, time: float, picture: np.ndarray) -> None:
        """Looks at the next frame, uint8 (height, width, 3), at `time` seconds."""
        number, self._seen = self._seen, self._seen + 1
        if number % self._stride:
            return
        self.looked_at += 1
        self.brightest = max(self.brightest, float(picture.mean()))
        view = _normed(cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (32, 18), interpolation=cv2.INTER_AREA))
        likeness = 1.0 if self._last_view is None else float((view * self._last_view).mean())
        self._last_view = view
        # Where frames are looked at more seldom, the last two looks count instead.
        gap, self._last_time = max(_GAP_S, 2 * (time - self._last_time)), time
        before = [track for track in self.tracks if time - track.last_time <= gap] if likeness >= _CUT else []
        largest = sorted(self._detect(picture), key=lambda face: -face.area)[:_MOST_FACES]
        faces = [(face, _look(picture, face)) for face in largest]
        followed = _follow(faces, before, _LIKE if likeness >= _MAYBE_CUT else _ALIKE)
        for i, (face, look) in enumerate(faces):
            track = followed.get(i)
            if track is None:
                track = Track()
                self.tracks.append(track)
            track.add(time, face, look)
            kept = crop(picture, face, self._size, self._margin)
            track.crops.append((number, time, cv2.cvtColor(kept, cv2.COLOR_RGB2GRAY) if self._grey else kept))
        if any(len(track.crops) >= 2 * self._most for track in self.tracks):
            self._stride *= 2
            for track in self.tracks:
                track.crops = [kept for kept in track.crops if kept[0] % self._stride == 0]


def _follow(faces: list[tuple[Face, np.ndarray]], before: list[Track], least: float) -> dict[int, Track]:
    """Which track each face goes on, by its index: greatest overlap first, each face and each track once.

    Faces that correlate with the track's last one by less than `least` do not go on it.
    """
    pairs = [
        (overlap(face.box, track.last.box), i, j)
        for i, (face, _) in enumerate(faces)
        for j, track in enumerate(before)
        if track.last is not None
    ]
    followed: dict[int, Track] = {}
    taken: set[int] = set()
    for shared, i, j in sorted(pairs, reverse=True):
        if shared < _LEAST_OVERLAP or i in followed or j in taken:
            continue
        if float((faces[i][1] * before[j].look).mean()) >= least:
            followed[i] = before[j]
            taken.add(j)
    return followed


def _look(picture: np.ndarray, face: Face) -> np.ndarray:
    """The aligned face in grey, (_SIDE, _SIDE), without its mean and in units of its deviation."""
    return _normed(cv2.cvtColor(crop(picture, face, _SIDE, 0.0), cv2.COLOR_RGB2GRAY))


def _normed(grey: np.ndarray) -> np.ndarray:
    grey = grey.astype(np.float32)
    return (grey - grey.mean()) / max(float(grey.std()), 1e-3)
