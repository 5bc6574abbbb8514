"""What a worker process does with one media file: decode it once, compute functionals, find and crop faces."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from extract.audio import functionals
from extract.faces import choose, crop, make_detector
from toolkit.media import SAMPLE_RATE, MediaError, MediaReader

# Rounding in time stamps must not cost the last frame or sample of an utterance.
_SLACK_S = 0.05
# Mean of 8-bit grey below which a picture is black; video's own black is 16 before it is expanded to 0.
_BLACK = 8.0


@dataclass(frozen=True)
class Wanted:
    """What to compute, the same for every file. None leaves a modality out."""

    audio_set: str | None
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


@dataclass
class Found:
    """What one file gave for one utterance. A modality is there, or its reason says why not."""

    row: int
    audio: np.ndarray | None = None
    audio_reason: str = ""
    audio_seconds: float = 0.0
    crops: np.ndarray | None = None
    visual_reason: str = ""
    frames: int = 0
    faces: int = 0


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
    audio = any(span.audio for span in task.spans) and wanted.audio_set is not None
    visual = any(span.visual for span in task.spans) and wanted.detector is not None
    try:
        with MediaReader(task.path, audio=audio, fps=wanted.fps if visual else None, time_limit=wanted.time_limit) as media:
            if visual:
                trackers = {i: _Tracker(wanted, span.region) for i, span in enumerate(task.spans) if span.visual}
                for time, picture in media.frames():
                    for i, tracker in trackers.items():
                        if task.spans[i].covers(time):
                            tracker.look(picture)
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
                _hear(one, span, media.samples, wanted.audio_set)
        if span.visual and visual:
            length = (media.frame_count + 1) / wanted.fps  # the picture may go on until just before the next sample
            one.visual_reason = _unfit(span, length, media, "" if media.has_video else "no video track")
            if not one.visual_reason:
                trackers[i].give(one)
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


def _hear(one: Found, span: Span, samples: np.ndarray, audio_set: str) -> None:
    start = 0 if span.start is None else max(0, round(span.start * SAMPLE_RATE))
    end = len(samples) if span.end is None else round(span.end * SAMPLE_RATE)
    part = samples[start:end]
    one.audio_seconds = len(part) / SAMPLE_RATE
    one.audio, one.audio_reason = functionals(audio_set)(part)


@functools.cache
def _detector(kind: str, model: Path):
    return make_detector(kind, model)


class _Tracker:
    """Follows one face through the frames of one utterance and keeps evenly spaced crops of it."""

    def __init__(self, wanted: Wanted, region: tuple[float, float, float, float] | None):
        self._wanted, self._region = wanted, region
        self._last = None
        self._crops: list[np.ndarray] = []
        self._stride = 1
        self._seen = self._frames = self._faces = 0
        self._brightest = 0.0

    def look(self, picture: np.ndarray) -> None:
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        self._frames += 1
        if self._region is not None:
            height, width = picture.shape[:2]
            left, top, right, bottom = self._region
            picture = picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
        self._brightest = max(self._brightest, float(picture.mean()))
        face = choose(_detector(self._wanted.detector, self._wanted.detector_model)(picture), self._last)
        if face is None:
            return
        self._last = face
        self._faces += 1
        cut = crop(picture, face, self._wanted.crop_size, self._wanted.margin)
        self._crops.append(cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY) if self._wanted.grey else cut)
        if len(self._crops) >= 2 * self._wanted.most_frames:  # halve the rate, so that long clips stay bounded
            self._crops = self._crops[::2]
            self._stride *= 2

    def give(self, one: Found) -> None:
        one.frames, one.faces = self._frames, self._faces
        if self._crops:
            one.crops = np.stack(self._crops)
        elif self._frames == 0:
            one.visual_reason = "no frame in this span"
        elif self._brightest < _BLACK:
            one.visual_reason = "black picture"
        else:
            one.visual_reason = f"no face found: {self._frames} frames"
