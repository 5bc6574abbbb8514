"""The work on one media file in a worker process: decode it once, compute functionals, track and crop faces."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ...toolkit.base.words import counted
from ...toolkit.media import SAMPLE_RATE, MediaError, MediaReader, Sound
from ..encoders.audio.opensmile_sets import silence_reason
from ..encoders.base import AudioSpan, Crops, Extracted, Frames, FrameSeries, Samples
from ..encoders.visual.fitting import fitted
from ..faces.choice import Choosing
from ..faces.detection import make_detector
from ..faces.lips.speech import Speech
from ..faces.speaking import Signal
from ..faces.thinning import BLACK, Look, ThinnedFrames
from ..faces.tracks import Box, FaceTracks
from .origins import FileFacts, Reading
from .requests import MediaRequest, Span, Task
from .second_pass import in_region, score_lips

# Rounding of time stamps must not lose the last frame or sample of an utterance.
_SLACK_S = 0.05


@dataclass
class UtteranceMedia:
    """The media of one utterance. For each modality there is either a result or a reason why there is none.

    Attributes:
        row: row of the utterance.
        audio: the features, if the extractor runs in the workers; otherwise `span` is the audio itself.
        audio_seconds: duration of the audio.
        series: face crops or frames.
        file: the file as it was when it was decoded.
        frames, faces, tracks, speaker_confidence: number of frames examined, frames with the speaker's face, faces
            tracked, and the confidence in the choice of the speaker.
        speaker_score, second_score, scored_frames: LR-ASD's scores of the best face and of the runner-up, and how many
            frames of faces it scored.
        boxes: where the speaker's face is.
    """

    row: int
    audio: Extracted | None = None
    span: AudioSpan | None = None
    audio_reason: str = ""
    audio_seconds: float = 0.0
    series: FrameSeries | None = None
    visual_reason: str = ""
    frames: int = 0
    faces: int = 0
    tracks: int = 0
    speaker_confidence: float = 0.0
    speaker_score: float = 0.0
    second_score: float = 0.0
    scored_frames: int = 0
    boxes: list[Box] = field(default_factory=list)
    file: FileFacts | None = None


def set_up() -> None:
    """Runs once in each worker process: OpenCV gets one thread, since there is one worker per core."""
    cv2.setNumThreads(1)


def process(job: tuple[int, Task | None, MediaRequest]) -> list[UtteranceMedia]:
    """Decodes a file in one pass and returns the media of each of its utterances.

    Args:
        job: index of the part (unused here), the file with its utterances (None: nothing to do), what to compute.
    """
    _, task, request = job
    if task is None:
        return []
    reading = Reading(task.path)
    found = _decoded(task, request)
    facts = reading.facts()
    for one in found:
        one.file = facts
    return found


def _decoded(task: Task, request: MediaRequest) -> list[UtteranceMedia]:
    found = [UtteranceMedia(span.row) for span in task.spans]
    audio = request.audio if any(span.audio for span in task.spans) else None
    visual = request.visual if any(span.visual for span in task.spans) else None
    try:
        # The audio helps to choose the speaker, even if no audio features are requested.
        with MediaReader(
            task.path,
            audio=audio is not None or isinstance(visual, Crops),
            fps=request.fps if visual is not None else None,
            own_rate=audio is not None and audio.rate != SAMPLE_RATE,
            time_limit=request.time_limit,
            track=request.audio_track,
            threads=request.decoding_threads,
            channels=tuple(dict.fromkeys(span.channel for span in task.spans)),
        ) as media:
            collectors = {
                i: collector_for(visual, request) for i, span in enumerate(task.spans) if visual and span.visual
            }
            if visual is not None:
                for time, image in media.frames():
                    for i, collector in collectors.items():
                        if task.spans[i].covers(time):
                            collector.add(time, in_region(image, task.spans[i].region))
            media.finish()
    except MediaError as error:
        for span, one in zip(task.spans, found, strict=True):
            one.audio_reason = str(error) if span.audio else ""
            one.visual_reason = str(error) if span.visual else ""
        return found
    tracks = {i: one.tracks for i, one in collectors.items() if isinstance(one, FaceTracks)}
    try:
        speeches = score_lips(task, request, tracks, media) if tracks else {}
    except MediaError as error:
        for i in tracks:
            found[i].visual_reason = str(error)
        speeches = {}
    for i, (span, one) in enumerate(zip(task.spans, found, strict=True)):
        if span.audio and audio is not None:
            sound = media.sound.get(span.channel)
            length = 0.0 if sound is None else len(sound.samples) / SAMPLE_RATE
            one.audio_reason = _missing_span(span, length, media, "no audio track" if sound is None else sound.missing)
            if sound is not None and not one.audio_reason:
                _take_audio(one, span, sound, audio)
        if i in collectors:
            length = media.frame_end + 1 / request.fps  # the video may last until just before the next frame
            missing = _missing_span(span, length, media, "" if media.has_video else "no video track")
            one.visual_reason = missing or one.visual_reason
            if not one.visual_reason:
                sound = media.sound.get(span.channel)
                heard = None if sound is None or sound.missing else sound.samples
                take_video(one, span, collectors[i], heard, request.choosing or Choosing(), speeches.get(i, ()))
    return found


def _missing_span(span: Span, length: float, media: MediaReader, no_track: str) -> str:
    """The reason why a track of `length` seconds does not contain the span, or ""."""
    if no_track:
        return no_track
    if span.start is None and span.end is None:
        if not media.truncated and span.lasts is not None and length < span.lasts - max(0.25, 0.05 * span.lasts):
            return f"truncated: {length:.2f} of {span.lasts:.2f} s could be decoded"
        return media.truncated
    return beyond_end(span.end, length)


def beyond_end(end: float | None, length: float) -> str:
    """The reason why a track of `length` seconds does not contain a span that ends at `end`, or ""."""
    if end is not None and end > length + _SLACK_S:
        return f"beyond the end of the file: ends at {end:.2f} of {length:.2f} s"
    return ""


def samples_of(start: float | None, end: float | None, total: int, rate: int) -> tuple[int, int]:
    """The first sample of a span in seconds, and the one after its last, in a track of `total` samples."""
    return 0 if start is None else max(0, round(start * rate)), total if end is None else round(end * rate)


def _cut(span: Span, samples: np.ndarray, rate: int) -> np.ndarray:
    start, end = samples_of(span.start, span.end, len(samples), rate)
    return samples[start:end]


def _take_audio(one: UtteranceMedia, span: Span, sound: Sound, wants: Samples) -> None:
    samples = _cut(span, sound.samples, SAMPLE_RATE)
    one.audio_seconds = len(samples) / SAMPLE_RATE
    one.audio_reason = silence_reason(samples)
    if one.audio_reason:
        return
    if wants.rate == SAMPLE_RATE or sound.own_samples is None:
        taken = AudioSpan(samples, SAMPLE_RATE)
    else:
        taken = AudioSpan(_cut(span, sound.own_samples, sound.rate), sound.rate)
    if wants.in_workers is None:
        one.span = taken
    else:
        one.audio = wants.in_workers(taken)


def take_video(
    one: UtteranceMedia,
    span: Span,
    collected: FaceTracks | FrameKeeper,
    heard: Signal | None,
    choosing: Choosing,
    speeches: Sequence[Speech],
) -> None:
    """Takes the speaker's face, or the frames, of an utterance.

    Args:
        one: gets them, or the reason why there are none.
        span: the utterance.
        collected: its frames.
        heard: the audio from the beginning of the file, since that is where frames' times begin; None without.
        choosing: how the speaker is chosen.
        speeches: of the faces, from the second pass.
    """
    one.frames = collected.examined
    start = span.start or 0.0
    if isinstance(collected, FrameKeeper):
        kept = [(time - start, image) for _, time, image in collected.kept]
    else:
        one.tracks = len(collected.tracks)
        if span.face is not None and choosing.follows(span.face):
            chosen = choosing.follow(collected.tracks, span.face)
        else:
            chosen = choosing.choose(collected.tracks, heard, SAMPLE_RATE, speeches)
        one.speaker_confidence = chosen.confidence
        one.speaker_score, one.second_score, one.scored_frames = chosen.score, chosen.second, chosen.frames
        kept = [] if chosen.track is None else [(time - start, image) for _, time, image in chosen.track.crops]
        if chosen.track is not None:
            one.faces = len(chosen.track.widths)
            one.boxes = chosen.track.path()
        elif chosen.reason:
            one.visual_reason = chosen.reason
            return
    if kept:
        one.series = FrameSeries(np.stack([image for _, image in kept]), np.array([time for time, _ in kept]))
    elif collected.examined == 0:
        one.visual_reason = "no frame in this span"
    elif collected.brightest < BLACK:
        one.visual_reason = "black frames"
    else:
        one.visual_reason = f"no face found: {counted(collected.examined, 'frame')}"


@dataclass(frozen=True)
class FrameLook(Look):
    """A frame in the size that is wanted."""

    pixels: np.ndarray


class FrameKeeper(ThinnedFrames[FrameLook]):
    """Keeps an utterance's frames, resized. When there are twice `most`, every second one is dropped, and from then on
    only half as many are kept.

    Args:
        wants: the frames' size.
        most: half the greatest number of frames kept.
    """

    def __init__(self, wants: Frames, most: int):
        super().__init__(most)
        self._wants = wants
        self.kept: list[tuple[int, float, np.ndarray]] = []

    def look(self, image: np.ndarray) -> FrameLook:
        return FrameLook(float(image.mean()), fitted(image, self._wants))

    def examine(self, number: int, time: float, look: FrameLook) -> int:
        self.kept.append((number, time, look.pixels))
        return len(self.kept)

    def thin(self, stride: int) -> None:
        self.kept = [one for one in self.kept if one[0] % stride == 0]


@functools.cache
def _detector(kind: str, model: Path):
    return make_detector(kind, model)


def collector_for(wants: Crops | Frames, request: MediaRequest) -> FaceTracks | FrameKeeper:
    """What collects the frames of one utterance."""
    if isinstance(wants, Frames):
        return FrameKeeper(wants, request.most_frames)
    assert request.detector_model is not None
    detect = _detector(request.detector, request.detector_model)
    return FaceTracks(detect, wants.side, request.margin, wants.grey, request.most_frames)
