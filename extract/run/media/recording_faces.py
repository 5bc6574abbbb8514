"""The face that speaks in each turn of a recording, by the lips: faces are tracked through the whole file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....toolkit.base.cores import core_count
from ....toolkit.base.errors import UserError
from ....toolkit.base.progress import progress_bar
from ....toolkit.media import SAMPLE_RATE, MediaError, MediaReader, has_pictures, media_duration
from ...diarization.faces import NO_FACE, FaceLink
from ...faces.choice import OFF_SCREEN, Choosing
from ...faces.detection import face_model, make_detector
from ...faces.lips.scoring import RULE as BY_LIPS
from ...faces.lips.scoring import scorer
from ...faces.lips.weights import lips_model
from ...faces.tracks import CropForm, FaceTracks, Track
from .second_pass import Shown, score_shown

FPS = 5.0
# A face that is seen for less is no person of the recording, but a passer-by or a wrong detection.
_LEAST_S = 1.0


@dataclass
class SpeakingFaces:
    """Finds the speaking face of each turn of a recording. It is a function of a file and the turns' spans.

    Args:
        detector: kind of the face detector.
        face_model, lips_model: files of the detector and of LR-ASD, each with its SHA-256.
        audio_track: number of the audio track, from 1; None for the default one.
        threads: for decoding.
        time_limit: seconds allowed for each pass.
    """

    detector: str
    face_model: tuple[Path, str]
    lips_model: tuple[Path, str]
    audio_track: int | None = None
    threads: int = 1
    time_limit: float = 6 * 3600
    _known: dict[Path, tuple[list[Track], np.ndarray | None]] = field(default_factory=dict, init=False)

    def __call__(self, path: Path, spans: Sequence[tuple[float, float]], /) -> list[FaceLink]:
        """The speaking face of each span, (start, end) in seconds; if a file cannot be decoded, that is the reason."""
        try:
            return self._links(path, spans)
        except MediaError as error:
            return [FaceLink(None, 0.0, 0.0, str(error)) for _ in spans]

    def provenance(self) -> dict[str, object]:
        """How the faces are found, as JSON."""
        return {
            "rule": BY_LIPS,
            "frames_per_second": FPS,
            "face_detector": self.detector,
            "face_model_sha256": self.face_model[1],
            "lips_model_sha256": self.lips_model[1],
        }

    def _links(self, path: Path, spans: Sequence[tuple[float, float]]) -> list[FaceLink]:
        tracks, samples = self._tracked(path)
        if samples is None:
            return [FaceLink(None, 0.0, 0.0, "no audio") for _ in spans]
        # A single face is scored too: the voice may be somebody else's, off screen.
        choosing = Choosing(self.lips_model[0], off_screen="mask-single")
        there = [[i for i, track in enumerate(tracks) if _seen(track, *span)] for span in spans]
        parts = [[_part(tracks[i], *span) for i in own] for own, span in zip(there, spans, strict=True)]
        shown = {
            k: Shown(choosing.closeups(own, samples, *span), samples)
            for k, (own, span) in enumerate(zip(parts, spans, strict=True))
        }
        last = max((end for _, end in spans), default=0.0)
        with progress_bar("seconds searched for moving lips", round(last)) as bar:
            speeches = score_shown(
                path,
                shown,
                choosing,
                time_limit=self.time_limit,
                threads=self.threads,
                advance=lambda seconds: bar.at(round(seconds), bar.total),
            )
            bar.at(round(last), bar.total)
        found = []
        for k, (own, numbers) in enumerate(zip(parts, there, strict=True)):
            if not own:
                found.append(FaceLink(None, 0.0, 0.0, NO_FACE))
                continue
            chosen = choosing.choose(own, samples, SAMPLE_RATE, speeches.get(k, ()))
            if chosen.track is None or not chosen.frames:
                found.append(FaceLink(None, chosen.score, chosen.confidence, OFF_SCREEN))
            else:
                at = next(i for i, part in enumerate(own) if part is chosen.track)
                found.append(FaceLink(numbers[at], chosen.score, chosen.confidence))
        return found

    def tracks(self, path: Path) -> list[int]:
        """The numbers of the faces that a recording shows for at least a second."""
        try:
            tracks, _ = self._tracked(path)
        except MediaError:
            return []
        return [i for i, track in enumerate(tracks) if track.boxes[-1][0] - track.boxes[0][0] >= _LEAST_S]

    def _tracked(self, path: Path) -> tuple[list[Track], np.ndarray | None]:
        if path not in self._known:
            detect = make_detector(self.detector, self.face_model[0])
            # Every frame is examined, however long the recording is; of the crops next to nothing is kept.
            faces = FaceTracks(detect, [CropForm(4, grey=True)], margin=0.0, most=1 << 40)
            options = {"time_limit": self.time_limit, "track": self.audio_track, "threads": self.threads}
            lasts = media_duration(path)
            with (
                MediaReader(path, fps=FPS, **options) as media,
                progress_bar("seconds searched for faces", None if lasts is None else round(lasts)) as bar,
            ):
                for time, image in media.frames():
                    faces.add(time, image)
                    bar.at(round(time), bar.total)
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


def face_finder(
    wanted: str,
    detector: str = "yunet",
    face_file: Path | None = None,
    lips_file: Path | None = None,
    audio_track: int | None = None,
) -> tuple[SpeakingFaces | None, str]:
    """What finds the faces of recordings, and a line about it for the user.

    Args:
        wanted: "yes"; "no"; or "auto", which goes without if the models are not on this machine.
        detector: kind of the face detector.
        face_file, lips_file: files of the models; None for the usual ones.
        audio_track: number of the audio track, from 1; None for the default one.

    Raises:
        UserError: a model is not there that is asked for, or holds something else.
    """
    if wanted == "no":
        return None, ""
    try:
        faces, lips = face_model(detector, face_file), lips_model(lips_file)
    except UserError as error:
        if wanted == "yes" or face_file is not None or lips_file is not None:
            raise
        return None, f"faces: not looked for; {error.message}"
    make_detector(detector, faces[0])
    scorer(lips[0])
    finder = SpeakingFaces(detector, faces, lips, audio_track, threads=core_count())
    return finder, f"faces: {detector} ({faces[0].name}), and LR-ASD on their lips ({lips[0].name})"


def finder_for(finder: SpeakingFaces | None, recording: Path) -> SpeakingFaces | None:
    """The finder if a recording has pictures, otherwise None."""
    return finder if finder is not None and has_pictures(recording) else None
