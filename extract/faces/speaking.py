"""Which face speaks: every face of an utterance is followed through its frames, and one is chosen by a stated rule.

Each face is followed by the overlap of its boxes; a cut in the film, or a face that looks unlike the last one in its
place, begins a new track, so that a track is one person. The track that speaks is the one with the highest score

    score = 0.25 seen + 0.25 size + 0.5 speech            (without sound: 0.5 seen + 0.5 size)

where `seen` is the number of frames that show the track, `size` the median width of its box, and `speech` the motion of
its mouth, averaged over time with the loudness of the sound as weight (motion measured n times counts n / (n + 3)); each
is divided by the greatest of the utterance's tracks. The confidence is (best score - second score) / best score, 1 where
there is one track alone. The six largest faces of a frame are followed. Where the manifest gives the speaker's region of the picture (IEMOCAP's half of the split
screen), faces outside it are not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from .detection import Face, crop, overlap

RULE = "0.25 frames seen + 0.25 median width + 0.5 mouth motion weighted by loudness, each relative to the utterance's greatest"
# A face that is not seen for longer than this is a new track when it comes back.
_GAP_S = 1.0
_LEAST_OVERLAP = 0.2
# The largest faces of a frame that are followed, so that a crowd does not fill the memory.
_MOST_FACES = 6
# Correlation of a small grey picture with the last one: below the first the film was cut for certain, below the second
# perhaps. Correlation of aligned faces: what one person's reach from frame to frame, and what they reach for certain.
_CUT, _MAYBE_CUT = 0.25, 0.5
_LIKE, _ALIKE = 0.1, 0.3
# Mouths of few frames are measured badly: their motion is shrunk as if this many still frames had been seen as well.
_STILL = 3
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

    def speaker(self, samples: np.ndarray | None, rate: int) -> tuple[Track | None, float]:
        """The track that speaks, and the confidence in that, from 0 to 1.

        Args:
            samples: float32 (n,), the utterance's sound from the time at which the frames' times begin; None without.
            rate: samples a second.
        """
        tracks = [track for track in self.tracks if track.crops]
        if not tracks:
            return None, 0.0
        seen = np.array([len(track.widths) for track in tracks], float)
        size = np.array([np.median(track.widths) for track in tracks])
        speech = np.array([_speech(track, samples, rate) for track in tracks])
        heard = samples is not None and bool(np.any(samples)) and speech.max() > 0
        score = 0.5 * seen / seen.max() + 0.5 * size / size.max()
        if heard:
            score = 0.5 * score + 0.5 * speech / speech.max()
        order = np.argsort(-score, kind="stable")
        rest = score[order[1]] if len(tracks) > 1 else 0.0
        return tracks[order[0]], float((score[order[0]] - rest) / score[order[0]])


def _follow(faces: list[tuple[Face, np.ndarray]], before: list[Track], least: float) -> dict[int, Track]:
    """Which track each face goes on, by its index: greatest overlap first, each face and each track once.

    Faces that correlate with the track's last one by less than `least` do not go on it.
    """
    pairs = [
        (overlap(face.box, track.last.box), i, j) for i, (face, _) in enumerate(faces) for j, track in enumerate(before)
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


def _speech(track: Track, samples: np.ndarray | None, rate: int) -> float:
    """Mean motion of the mouth, weighted by the sound's root mean square over the time since the frame before."""
    if samples is None or not track.motion:
        return 0.0
    times, motion = np.array(track.motion).T
    step = np.median(np.diff(times)) if len(times) > 1 else 0.2
    loud = np.array([_loudness(samples[max(0, round((time - step) * rate)) : round(time * rate)]) for time in times])
    shrunk = len(motion) / (len(motion) + _STILL)
    return float((loud * motion).sum() / loud.sum()) * shrunk if loud.sum() > 0 else 0.0


def _loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def _look(picture: np.ndarray, face: Face) -> np.ndarray:
    """The aligned face in grey, (_SIDE, _SIDE), without its mean and in units of its deviation."""
    return _normed(cv2.cvtColor(crop(picture, face, _SIDE, 0.0), cv2.COLOR_RGB2GRAY))


def _normed(grey: np.ndarray) -> np.ndarray:
    grey = grey.astype(np.float32)
    return (grey - grey.mean()) / max(float(grey.std()), 1e-3)
