"""What a worker process does with one media file: decode it once, compute functionals, follow and crop faces."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...toolkit.media import SAMPLE_RATE, MediaError, MediaReader
from ..encoders.opensmile_sets import descriptors, functionals, no_sound
from ..faces.detection import make_detector
from ..faces.speaking import FaceTracks

# Rounding in time stamps must not cost the last frame or sample of an utterance.
_SLACK_S = 0.05
# Mean of 8-bit grey below which a picture is black; video's own black is 16 before it is expanded to 0.
_BLACK = 8.0


# An encoder's name for the sound itself.
SAMPLES = "samples"


@dataclass(frozen=True)
class Wanted:
    """What to compute, the same for every file. None leaves a modality out.

    Attributes:
        audio: an openSMILE set, whose functionals are computed here, or `SAMPLES`: an encoder elsewhere wants the sound
            itself, at the track's own rate.
        sequences: low-level descriptors as well.
    """

    audio: str | None
    sequences: bool
    detector: str | None
    detector_model: Path | None
    fps: float
    crop_size: int
    grey: bool
    margin: float
    most_frames: int
    time_limit: float


@dataclass(frozen=True)
class Span:
    """One utterance's share of a media file: its row, time in seconds (None: all), and the speaker's region."""

    row: int
    start: float | None
    end: float | None
    region: tuple[float, float, float, float] | None
    audio: bool
    visual: bool

    def covers(self, time: float) -> bool:
        return (self.start is None or time >= self.start - 1e-6) and (self.end is None or time <= self.end + 1e-6)


@dataclass(frozen=True)
class Task:
    """One media file with the utterances that lie in it."""

    path: Path
    spans: list[Span]


@dataclass(frozen=True)
class Sound:
    """An utterance's samples, float32 (n,), mono, within [-1, 1 - 2**-15], and how many make a second."""

    samples: np.ndarray
    rate: int


@dataclass
class Found:
    """What one file gave for one utterance. A modality is there, or its reason says why not."""

    row: int
    audio: np.ndarray | None = None
    audio_frames: tuple[np.ndarray, np.ndarray] | None = None
    sound: Sound | None = None
    audio_reason: str = ""
    audio_seconds: float = 0.0
    crops: np.ndarray | None = None
    crop_times: np.ndarray | None = None
    visual_reason: str = ""
    frames: int = 0
    faces: int = 0
    tracks: int = 0
    speaker_confidence: float = 0.0


def set_up() -> None:
    """Runs once in each worker process: one thread each, so that workers share the cores by being several."""
    cv2.setNumThreads(1)


def process(job: tuple[int, Task | None, Wanted]) -> list[Found]:
    """Decodes a file in one pass and gives each of its utterances what it holds for them.

    Args:
        job: index of the part (not used here), the file with its utterances (None: nothing to do), what to compute.
    """
    _, task, wanted = job
    if task is None:
        return []
    found = [Found(span.row) for span in task.spans]
    audio = any(span.audio for span in task.spans) and wanted.audio is not None
    visual = any(span.visual for span in task.spans) and wanted.detector is not None
    try:
        # The sound helps to choose who speaks, also where no audio features are asked for.
        with MediaReader(
            task.path,
            audio=audio or visual,
            fps=wanted.fps if visual else None,
            own_rate=audio and wanted.audio == SAMPLES,
            time_limit=wanted.time_limit,
        ) as media:
            if visual:
                faces = {i: _tracks(wanted) for i, span in enumerate(task.spans) if span.visual}
                for time, picture in media.frames():
                    for i, tracks in faces.items():
                        if task.spans[i].covers(time):
                            tracks.look(time, _part(picture, task.spans[i].region))
            media.finish()
    except MediaError as error:
        for span, one in zip(task.spans, found):
            one.audio_reason = str(error) if span.audio else ""
            one.visual_reason = str(error) if span.visual else ""
        return found
    for i, (span, one) in enumerate(zip(task.spans, found)):
        if span.audio and audio:
            length = 0.0 if media.samples is None else len(media.samples) / SAMPLE_RATE
            one.audio_reason = _unfit(span, length, media, "no audio track" if media.samples is None else "")
            if not one.audio_reason:
                _hear(one, span, media, wanted)
        if span.visual and visual:
            length = (media.frame_count + 1) / wanted.fps  # the picture may go on until just before the next sample
            one.visual_reason = _unfit(span, length, media, "" if media.has_video else "no video track")
            if not one.visual_reason:
                _see(one, span, faces[i], media)
    return found


def _unfit(span: Span, length: float, media: MediaReader, lack: str) -> str:
    """Why a track of that many seconds cannot give the span, or nothing."""
    if lack:
        return lack
    if span.start is None and span.end is None:
        return media.truncated
    if span.end is not None and span.end > length + _SLACK_S:
        return f"beyond the end of the file: ends at {span.end:.2f} of {length:.2f} s"
    return ""


def _cut(span: Span, samples: np.ndarray, rate: int) -> np.ndarray:
    start = 0 if span.start is None else max(0, round(span.start * rate))
    end = len(samples) if span.end is None else round(span.end * rate)
    return samples[start:end]


def _hear(one: Found, span: Span, media: MediaReader, wanted: Wanted) -> None:
    samples = _cut(span, media.samples, SAMPLE_RATE)
    one.audio_seconds = len(samples) / SAMPLE_RATE
    if wanted.audio == SAMPLES:
        one.audio_reason = no_sound(samples)
        if not one.audio_reason:
            one.sound = Sound(_cut(span, media.own_samples, media.rate), media.rate)
        return
    one.audio, one.audio_reason = functionals(wanted.audio)(samples)
    if wanted.sequences and one.audio is not None:
        one.audio_frames = descriptors(wanted.audio)(samples)


def _see(one: Found, span: Span, tracks: FaceTracks, media: MediaReader) -> None:
    one.frames, one.tracks = tracks.looked_at, len(tracks.tracks)
    start = span.start or 0.0
    # Frames' times count from the file's start, and so must the sound by which the speaker is chosen.
    chosen, confidence = tracks.speaker(media.samples, SAMPLE_RATE)
    if chosen is not None:
        one.faces, one.speaker_confidence = len(chosen.widths), confidence
        one.crops = np.stack([picture for _, _, picture in chosen.crops])
        one.crop_times = np.array([time - start for _, time, _ in chosen.crops])
    elif tracks.looked_at == 0:
        one.visual_reason = "no frame in this span"
    elif tracks.brightest < _BLACK:
        one.visual_reason = "black picture"
    else:
        one.visual_reason = f"no face found: {tracks.looked_at} frames"


@functools.cache
def _detector(kind: str, model: Path):
    return make_detector(kind, model)


def _tracks(wanted: Wanted) -> FaceTracks:
    detect = _detector(wanted.detector, wanted.detector_model)
    return FaceTracks(detect, wanted.crop_size, wanted.margin, wanted.grey, wanted.most_frames)


def _part(picture: np.ndarray, region: tuple[float, float, float, float] | None) -> np.ndarray:
    """The region of the picture, given as fractions of its sides (left, top, right, bottom)."""
    if region is None:
        return picture
    height, width = picture.shape[:2]
    left, top, right, bottom = region
    return picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
