"""What a run asks of its worker processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...encoders.base import Crops, Frames, Samples
from ...faces.choice import Choosing
from ...faces.given import GivenFace


@dataclass(frozen=True)
class Span:
    """One utterance's part of a file.

    Attributes:
        row: row of the utterance.
        start, end: times in seconds; None for the whole file.
        region: the speaker's part of the picture, as fractions.
        features: names of the features whose input is to be taken from this file.
        channel: number of the speaker's audio channel, from 1; None for the mix of all.
        lasts: seconds that the file must last if it is whole, or None.
        face: the speaker's face, if the manifest gives it.
    """

    row: int
    start: float | None
    end: float | None
    region: tuple[float, float, float, float] | None
    features: Collection[str]
    channel: int | None = None
    lasts: float | None = None
    face: GivenFace | None = None

    def covers(self, time: float) -> bool:
        return (self.start is None or time >= self.start - 1e-6) and (self.end is None or time <= self.end + 1e-6)


@dataclass(frozen=True)
class Task:
    """One media file with its utterances."""

    path: Path
    spans: list[Span]


@dataclass(frozen=True)
class MediaRequest:
    """What to compute from every media file.

    Attributes:
        wants: the input that each feature's extractor declares, by the feature's name.
        detector, detector_model: kind and file of the face detector, for `Crops`.
        smallest_face: that it has to find, as a fraction of the image's height; None for as small as it can.
        fps: frames sampled per second of video, for all features: each is detected once.
        margin: margin around a face, as a fraction of its side.
        most_frames: up to twice as many frames are kept per utterance.
        choosing: how the speaker is chosen among the faces, for `Crops`.
        time_limit: seconds allowed for decoding one file.
        audio_track: number of the audio track, from 1; None for the default one.
        decoding_threads: threads that decode one video.
    """

    wants: Mapping[str, Samples | Crops | Frames]
    detector: str
    detector_model: Path | None
    fps: float
    margin: float
    most_frames: int
    time_limit: float
    audio_track: int | None = None
    smallest_face: float | None = None
    choosing: Choosing | None = None
    decoding_threads: int = 1
