"""The face that speaks in each turn of a recording, by the lips: faces are tracked through the whole file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...toolkit.base.words import counted
from ...toolkit.media import SAMPLE_RATE, MediaReader
from ..faces.choice import OFF_SCREEN, Choosing
from ..faces.detection import make_detector
from ..faces.tracks import FaceTracks, Track
from .second_pass import Shown, score_shown

FPS = 5.0
# A face that is seen for less is no person of the recording, but a passer-by or a wrong detection.
_LEAST_S = 1.0
# Reasons why a turn has no face.
NO_FACE = "no face"


@dataclass(frozen=True)
class SpeakingFace:
    """The face that speaks in a turn.

    Attributes:
        track: number of the track in the recording, from 0; None if no face speaks.
        score: LR-ASD's mean score of the best face; 0 if there is none.
        confidence: from 0 to 1 that it is this one of the turn's faces.
        reason: why there is none: `NO_FACE`, `OFF_SCREEN`, "no audio"; otherwise "".
    """

    track: int | None
    score: float
    confidence: float
    reason: str = ""


@dataclass
class SpeakingFaces:
    """Finds the speaking face of each turn of a recording. It is a function of a file and the turns' spans.

    Args:
        detector, face_model: kind and file of the face detector.
        lips_model: file of LR-ASD's weights.
        audio_track: number of the audio track, from 1; None for the default one.
        threads: for decoding.
        time_limit: seconds allowed for each pass.
        advance: called with the time in the file that a pass has reached.
    """

    detector: str
    face_model: Path
    lips_model: Path
    audio_track: int | None = None
    threads: int = 1
    time_limit: float = 6 * 3600
    advance: Callable[[str, float], None] = lambda stage, seconds: None
    _known: dict[Path, tuple[list[Track], np.ndarray | None]] = field(default_factory=dict, init=False)

    def __call__(self, path: Path, spans: Sequence[tuple[float, float]], /) -> list[SpeakingFace]:
        """The speaking face of each span, (start, end) in seconds.

        Raises:
            MediaError: the file cannot be decoded.
        """
        tracks, samples = self._tracked(path)
        if samples is None:
            return [SpeakingFace(None, 0.0, 0.0, "no audio") for _ in spans]
        # A single face is scored too: the voice may be somebody else's, off screen.
        choosing = Choosing(self.lips_model, off_screen="mask-single")
        there = [[i for i, track in enumerate(tracks) if _seen(track, *span)] for span in spans]
        parts = [[_part(tracks[i], *span) for i in own] for own, span in zip(there, spans, strict=True)]
        shown = {
            k: Shown(choosing.closeups(own, samples, *span), samples)
            for k, (own, span) in enumerate(zip(parts, spans, strict=True))
        }
        speeches = score_shown(
            path,
            shown,
            choosing,
            time_limit=self.time_limit,
            threads=self.threads,
            advance=lambda seconds: self.advance("lips", seconds),
        )
        found = []
        for k, (own, numbers) in enumerate(zip(parts, there, strict=True)):
            if not own:
                found.append(SpeakingFace(None, 0.0, 0.0, NO_FACE))
                continue
            chosen = choosing.choose(own, samples, SAMPLE_RATE, speeches.get(k, ()))
            if chosen.track is None or not chosen.frames:
                found.append(SpeakingFace(None, chosen.score, chosen.confidence, OFF_SCREEN))
            else:
                at = next(i for i, part in enumerate(own) if part is chosen.track)
                found.append(SpeakingFace(numbers[at], chosen.score, chosen.confidence))
        return found

    def tracks(self, path: Path) -> list[int]:
        """The numbers of the faces that a recording shows for at least a second."""
        tracks, _ = self._tracked(path)
        return [i for i, track in enumerate(tracks) if track.boxes[-1][0] - track.boxes[0][0] >= _LEAST_S]

    def describe(self, path: Path) -> str:
        """How many faces a recording shows, for the user."""
        return counted(len(self.tracks(path)), "face")

    def _tracked(self, path: Path) -> tuple[list[Track], np.ndarray | None]:
        if path not in self._known:
            detect = make_detector(self.detector, self.face_model)
            # Every frame is examined, however long the recording is; of the crops next to nothing is kept.
            faces = FaceTracks(detect, size=4, margin=0.0, grey=True, most=1 << 40)
            with MediaReader(
                path, fps=FPS, time_limit=self.time_limit, track=self.audio_track, threads=self.threads
            ) as media:
                for time, image in media.frames():
                    faces.add(time, image)
                    self.advance("faces", time)
                media.finish()
                samples = media.samples
            self._known.clear()  # one recording at a time
            self._known[path] = faces.tracks, samples
        return self._known[path]


def _seen(track: Track, start: float, end: float) -> bool:
    return any(start <= time <= end for time, _ in track.boxes)


def _part(track: Track, start: float, end: float) -> Track:
    """The part of a track within a span, with one detection on either side."""
    times = np.array([time for time, _ in track.boxes])
    first, last = np.searchsorted(times, start) - 1, np.searchsorted(times, end, side="right")
    part = Track()
    part.boxes = track.boxes[max(0, first) : last + 1]
    part.widths = track.widths[max(0, first) : last + 1]
    part.crops = [one for one in track.crops if start <= one[1] <= end] or track.crops[:1]
    return part
