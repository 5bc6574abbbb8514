"""The work on one media file in a worker process: decode it once, compute functionals, track and crop faces."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from ....toolkit.media import SAMPLE_RATE, MediaError, MediaReader, Sound
from ...encoders.audio.opensmile_sets import silence_reason
from ...encoders.base import AudioSpan, Crops, Extracted, FrameSeries, Samples
from ...faces.choice import Choosing
from ...faces.tracks import FaceTracks
from ..rows.origins import FileFacts, Reading
from .pictures import Collector, Looks, Watched, collectors_for
from .requests import MediaRequest, Span, Task
from .second_pass import score_lips

# Rounding of time stamps must not lose the last frame or sample of an utterance.
_SLACK_S = 0.05
# Names of what takes time in a worker, as the closing table shows them; in-worker extractors have their own.
DECODING, DETECTION, LIPS = "decoding", "faces and frames", "moving lips"


@dataclass(frozen=True)
class Taken:
    """What was taken of an utterance for one feature: a result, an extractor's input, or the reason why there is none.

    Attributes:
        result: the features, if the extractor runs in the workers.
        given: otherwise its input.
        reason: "" if there is either.
        details: that the store keeps beside the feature.
    """

    result: Extracted | None = None
    given: AudioSpan | FrameSeries | None = None
    reason: str = ""
    details: dict[str, float] = field(default_factory=dict)


@dataclass
class UtteranceMedia:
    """The media of one utterance.

    Attributes:
        row: row of the utterance.
        taken: for each feature.
        watched: what was seen of it, by the kind of input: `Crops` and `Frames`.
    """

    row: int
    taken: dict[str, Taken] = field(default_factory=dict)
    watched: dict[type, Watched] = field(default_factory=dict)


@dataclass
class FileMedia:
    """The media of the utterances of one file.

    Attributes:
        utterances: in the order of the task's spans.
        file: the file as it was when it was decoded; None if there was none to decode.
        seconds: what the worker did, and how long that took.
    """

    utterances: list[UtteranceMedia] = field(default_factory=list)
    file: FileFacts | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last call."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


def set_up() -> None:
    """Runs once in each worker process: OpenCV gets one thread, since there is one worker per core."""
    cv2.setNumThreads(1)


def process(job: tuple[int, Task | None, MediaRequest]) -> FileMedia:
    """Decodes a file in one pass and returns the media of each of its utterances.

    Args:
        job: index of the part (unused here), the file with its utterances (None: nothing to do), what to compute.
    """
    _, task, request = job
    if task is None:
        return FileMedia()
    clock, reading = _Clock(), Reading(task.path)
    utterances = _decoded(task, request, clock)
    found = FileMedia(utterances, reading.facts())
    clock.lap(DECODING)
    found.seconds = dict(clock.seconds)
    return found


def decoded(task: Task, request: MediaRequest) -> list[UtteranceMedia]:
    """The same of a file of which nobody asks later whether it has changed, in the order of the task's spans."""
    return _decoded(task, request, _Clock())


def failed(span: Span, reason: str) -> UtteranceMedia:
    """An utterance of which nothing can be taken."""
    return UtteranceMedia(span.row, {name: Taken(reason=reason) for name in span.features})


def _decoded(task: Task, request: MediaRequest, clock: _Clock) -> list[UtteranceMedia]:
    wants = {name: request.wants[name] for span in task.spans for name in span.features}
    audio = [one for one in wants.values() if isinstance(one, Samples)]
    visual = len(audio) < len(wants)
    crops = any(isinstance(one, Crops) for one in wants.values())
    collectors: dict[int, dict[type, Collector]] = {}
    try:
        # The audio helps to choose the speaker, even if no audio features are requested.
        with MediaReader(
            task.path,
            audio=bool(audio) or crops,
            fps=request.fps if visual else None,
            own_rate=any(one.rate != SAMPLE_RATE for one in audio),
            time_limit=request.time_limit,
            track=request.audio_track,
            threads=request.decoding_threads,
            channels=tuple(dict.fromkeys(span.channel for span in task.spans)),
        ) as media:
            for i, span in enumerate(task.spans):
                collectors[i] = collectors_for({name: wants[name] for name in span.features}, request)
            if visual:
                _collect(task, media, collectors, clock)
            media.finish()
            clock.lap(DECODING)
    except MediaError as error:
        clock.lap(DECODING)
        return [failed(span, str(error)) for span in task.spans]
    tracks = {i: faces.tracks for i, own in collectors.items() if isinstance(faces := _faces(own), FaceTracks)}
    second = ""
    try:
        speeches = score_lips(task, request, tracks, media) if tracks else {}
    except MediaError as error:
        speeches, second = {}, str(error)
    clock.lap(LIPS)
    found = []
    for i, span in enumerate(task.spans):
        one = UtteranceMedia(span.row)
        own = {name: wants[name] for name in span.features}
        sound = media.sound.get(span.channel)
        one.taken |= _take_audio(
            span, media, sound, {name: want for name, want in own.items() if isinstance(want, Samples)}, clock
        )
        if collectors[i]:
            length = media.frame_end + 1 / request.fps  # the video may last until just before the next frame
            missing = _missing_span(span, length, media, "" if media.has_video else "no video track")
            heard = None if sound is None or sound.missing else sound.samples
            for kind, collector in collectors[i].items():
                reason = missing or (second if kind is Crops else "")
                watched = (
                    Watched(reason=reason)
                    if reason
                    else collector.take(span, heard, request.choosing or Choosing(), speeches.get(i, ()))
                )
                one.watched[kind] = watched
                for name, want in own.items():
                    if isinstance(want, kind) and not isinstance(want, Samples):
                        one.taken[name] = Taken(
                            given=watched.series.get(want), reason=watched.reason, details=watched.details(want)
                        )
            clock.lap(DETECTION)
        found.append(one)
    return found


def _faces(collectors: dict[type, Collector]) -> object:
    return collectors[Crops].frames if Crops in collectors else None


def _collect(task: Task, media: MediaReader, collectors: dict[int, dict[type, Collector]], clock: _Clock) -> None:
    """Shows each frame to the utterances that it belongs to."""
    for at, image in media.frames():
        clock.lap(DECODING)
        looks = Looks(image)
        for i, own in collectors.items():
            region = task.spans[i].region
            if own and task.spans[i].covers(at):
                for one in own.values():
                    one.frames.offer(at, functools.partial(looks.at, one, region))
        clock.lap(DETECTION)


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


def _take_audio(
    span: Span, media: MediaReader, sound: Sound | None, wants: dict[str, Samples], clock: _Clock
) -> Iterator[tuple[str, Taken]]:
    """The audio of an utterance for each feature that wants it."""
    if not wants:
        return
    length = 0.0 if sound is None else len(sound.samples) / SAMPLE_RATE
    reason = _missing_span(span, length, media, "no audio track" if sound is None else sound.missing)
    if sound is None or reason:
        yield from ((name, Taken(reason=reason)) for name in wants)
        return
    samples = _cut(span, sound.samples, SAMPLE_RATE)
    details = {"seconds": len(samples) / SAMPLE_RATE}
    if reason := silence_reason(samples):
        yield from ((name, Taken(reason=reason, details=details)) for name in wants)
        return
    plain = AudioSpan(samples, SAMPLE_RATE)
    own = plain if sound.own_samples is None else AudioSpan(_cut(span, sound.own_samples, sound.rate), sound.rate)
    clock.lap(DECODING)
    for name, want in wants.items():
        taken = plain if want.rate == SAMPLE_RATE else own
        if want.in_workers is None:
            yield name, Taken(given=taken, details=details)
        else:
            yield name, Taken(want.in_workers(taken), details=details)
            clock.lap(name)
