"""Tracks faces through the frames of an utterance by the overlap of their boxes, so that a track is one person.

A cut in the video, or a face that looks different from the previous one in the same place, starts a new track. The six
largest faces of a frame are tracked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np

from .detection import Face, crop, overlap
from .thinning import Look, ThinnedFrames

# A face that has not been detected for longer than this starts a new track when it comes back.
GAP_S = 1.0
LEAST_OVERLAP = 0.2
# How many of a frame's largest faces are tracked, so that a crowd does not fill the memory.
_MOST_FACES = 6
# Correlation of a small grey frame with the previous one: below the first value the video was certainly cut, below the
# second possibly.
_CUT, _MAYBE_CUT = 0.25, 0.5
# Correlation of aligned faces from frame to frame that continues a track: normally, and after a possible cut.
_LEAST_LIKENESS, _LEAST_LIKENESS_AFTER_CUT = 0.1, 0.3
# Side of the aligned face on which motion is measured; its rows and columns of the mouth, and of eyes and forehead.
_SIDE = 64
_MOUTH = np.s_[40:62, 16:48]
_UPPER = np.s_[10:34, 12:52]


# Boxes of a path are at least this far apart, except for the last one.
_STEP_S = 0.4
# Time in seconds; left, top, width and height as fractions of the image.
Box = tuple[float, float, float, float, float]


@dataclass
class Track:
    """One face through an utterance.

    Attributes:
        widths: width of its box in each frame that shows it, in pixels.
        boxes: for each of these frames (time in seconds, (left, top, width, height as fractions of the image's width
            and height, and the image's width by its height)).
        motion: for each of these frames after the first, (time in seconds, motion of the mouth since the previous one
            beyond that of the upper face, in grey levels relative to the face's own contrast).
        crops: (number of the frame, time in seconds, an image in each of the forms) of the frames that are kept.
        last, last_time, aligned: the face in the last frame that shows it, that frame's time, and the aligned face.
    """

    widths: list[float] = field(default_factory=list)
    boxes: list[tuple[float, tuple[float, float, float, float, float]]] = field(default_factory=list)
    motion: list[tuple[float, float]] = field(default_factory=list)
    crops: list[tuple[int, float, tuple[np.ndarray, ...]]] = field(default_factory=list)
    last: Face | None = None
    last_time: float = 0.0
    aligned: np.ndarray | None = None

    def add(self, time: float, seen: SeenFace, frame: tuple[int, int]) -> None:
        """Adds a frame of width and height `frame`."""
        face, aligned = seen.face, seen.aligned
        if self.aligned is not None:
            change = np.abs(aligned - self.aligned)
            self.motion.append((time, max(0.0, float(change[_MOUTH].mean() - change[_UPPER].mean()))))
        self.widths.append(face.box[2])
        self.boxes.append((time, seen.relative(frame)))
        self.last, self.last_time, self.aligned = face, time, aligned

    def path(self) -> list[Box]:
        """Where the face is: its first box, its last one, and at most one for each 0.4 s between them."""
        kept: list[Box] = []
        for k, (time, (left, top, wide, high, _)) in enumerate(self.boxes):
            if not kept or k == len(self.boxes) - 1 or time - kept[-1][0] >= _STEP_S - 1e-6:
                kept.append((round(time, 3), round(left, 4), round(top, 4), round(wide, 4), round(high, 4)))
        return kept


@dataclass(frozen=True)
class SeenFace:
    """A face in a frame: what was detected, aligned in grey for comparison, and the crops that are kept."""

    face: Face
    aligned: np.ndarray
    crops: tuple[np.ndarray, ...]

    def relative(self, size: tuple[int, int]) -> tuple[float, float, float, float, float]:
        """Left, top, width, height as fractions of a frame of width and height `size`, and its width by its height."""
        (left, top, wide, high), (width, height) = self.face.box, size
        return left / width, top / height, wide / width, high / height, width / height


@dataclass(frozen=True)
class FacesLook(Look):
    """The faces of a frame.

    Attributes:
        thumbnail: small, grey and normalised, to recognise cuts.
        size: width and height of the frame.
        faces: the largest.
    """

    thumbnail: np.ndarray
    size: tuple[int, int]
    faces: list[SeenFace]


class CropForm(NamedTuple):
    """A form of crops: their side in pixels, and whether they are grey."""

    side: int
    grey: bool = False


class FaceTracks(ThinnedFrames[FacesLook]):
    """Tracks all faces through the frames of one utterance.

    Args:
        detect: a detector of `erc_toolkit.extract.faces.detection`.
        forms: of the crops that are kept of each face.
        margin: around a face, as a fraction of its side.
        most: number of crops kept per track. When there are twice as many, every second one is dropped and frames are
            examined half as often, so that memory stays bounded.
    """

    def __init__(self, detect, forms: Sequence[CropForm], margin: float, most: int):
        super().__init__(most)
        self._detect, self._forms, self._margin = detect, tuple(forms), margin
        self.tracks: list[Track] = []
        self._last_thumbnail: np.ndarray | None = None
        self._last_time = math.inf
        self._frame: tuple[int, int] | None = None  # width and height of the last frame

    def look(self, image: np.ndarray) -> FacesLook:
        thumbnail = _normed(cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 18), interpolation=cv2.INTER_AREA))
        faces = []
        for face in sorted(self._detect(image), key=lambda face: -face.area)[:_MOST_FACES]:
            faces.append(SeenFace(face, _aligned(image, face), self._crops(image, face)))
        return FacesLook(float(image.mean()), thumbnail, (image.shape[1], image.shape[0]), faces)

    def _crops(self, image: np.ndarray, face: Face) -> tuple[np.ndarray, ...]:
        """The face in each of the forms; one that is grey is made from the coloured one of the same side."""
        coloured = {side: crop(image, face, side, self._margin) for side in {form.side for form in self._forms}}
        return tuple(
            cv2.cvtColor(coloured[side], cv2.COLOR_RGB2GRAY) if grey else coloured[side] for side, grey in self._forms
        )

    def examine(self, number: int, time: float, look: FacesLook) -> int:
        last = self._last_thumbnail
        likeness = 1.0 if last is None else float((look.thumbnail * last).mean())
        self._last_thumbnail = look.thumbnail
        # If frames are examined less often, the gap is twice the time since the last one.
        gap, self._last_time = max(GAP_S, 2 * (time - self._last_time)), time
        self._resize(*look.size)
        current = [track for track in self.tracks if time - track.last_time <= gap] if likeness >= _CUT else []
        faces = [(one.face, one.aligned) for one in look.faces]
        continued = _match(faces, current, _LEAST_LIKENESS if likeness >= _MAYBE_CUT else _LEAST_LIKENESS_AFTER_CUT)
        for i, one in enumerate(look.faces):
            track = continued.get(i)
            if track is None:
                track = Track()
                self.tracks.append(track)
            track.add(time, one, look.size)
            track.crops.append((number, time, one.crops))
        return max((len(track.crops) for track in self.tracks), default=0)

    def _resize(self, width: int, height: int) -> None:
        """A call may change its resolution in the middle: boxes are then converted to that of the new frame."""
        if self._frame is not None and self._frame != (width, height):
            x, y = width / self._frame[0], height / self._frame[1]
            for track in self.tracks:
                track.widths = [one * x for one in track.widths]
                if track.last is not None:
                    left, top, wide, high = track.last.box
                    track.last = replace(track.last, box=(left * x, top * y, wide * x, high * y), landmarks=None)
        self._frame = (width, height)

    def thin(self, stride: int) -> None:
        for track in self.tracks:
            track.crops = [kept for kept in track.crops if kept[0] % stride == 0]


def _match(faces: list[tuple[Face, np.ndarray]], tracks: list[Track], least: float) -> dict[int, Track]:
    """The track that each face continues, by the face's index: greatest overlap first, each face and each track once.

    A face continues a track only if its correlation with the track's last aligned face is at least `least`.
    """
    pairs = [
        (overlap(face.box, track.last.box), i, j)
        for i, (face, _) in enumerate(faces)
        for j, track in enumerate(tracks)
        if track.last is not None
    ]
    continued: dict[int, Track] = {}
    taken: set[int] = set()
    for shared, i, j in sorted(pairs, reverse=True):
        if shared < LEAST_OVERLAP or i in continued or j in taken:
            continue
        if float((faces[i][1] * tracks[j].aligned).mean()) >= least:
            continued[i] = tracks[j]
            taken.add(j)
    return continued


def _aligned(image: np.ndarray, face: Face) -> np.ndarray:
    """The aligned face in grey, (_SIDE, _SIDE), normalised to mean 0 and standard deviation 1."""
    return _normed(cv2.cvtColor(crop(image, face, _SIDE, 0.0), cv2.COLOR_RGB2GRAY))


def _normed(grey: np.ndarray) -> np.ndarray:
    grey = grey.astype(np.float32)
    return (grey - grey.mean()) / max(float(grey.std()), 1e-3)
