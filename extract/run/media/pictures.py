"""What is taken of an utterance's frames for the visual features: the speaker's face, and whole frames."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....toolkit.base.words import counted
from ....toolkit.media import SAMPLE_RATE
from ...encoders.base import Crops, Frames, FrameSeries, Samples
from ...encoders.visual.fitting import fitted
from ...faces.choice import Choosing
from ...faces.detection import make_detector
from ...faces.lips.speech import Speech
from ...faces.speaking import Signal
from ...faces.thinning import BLACK, Look, ThinnedFrames
from ...faces.tracks import Box, CropForm, FaceTracks
from .requests import MediaRequest, Span
from .second_pass import Region, in_region


@dataclass
class Watched:
    """What was taken of an utterance's frames by one collector.

    Attributes:
        series: by the input that extractors declare; empty if there is a reason.
        reason: why there is none, or "".
        frames, faces, tracks, speaker_confidence: number of frames examined, frames with the speaker's face, faces
            tracked, and the confidence in the choice of the speaker.
        speaker_score, second_score, scored_frames: LR-ASD's scores of the best face and of the runner-up, and how many
            frames of faces it scored.
        boxes: where the speaker's face is.
    """

    series: dict[Crops | Frames, FrameSeries] = field(default_factory=dict)
    reason: str = ""
    frames: int = 0
    faces: int = 0
    tracks: int = 0
    speaker_confidence: float = 0.0
    speaker_score: float = 0.0
    second_score: float = 0.0
    scored_frames: int = 0
    boxes: list[Box] = field(default_factory=list)

    def details(self, wants: Crops | Frames) -> dict[str, float]:
        """The details that the store keeps beside a feature with this input."""
        return {name: getattr(self, name) for name in wants.details}


@dataclass(frozen=True)
class FrameLook(Look):
    """A frame in each of the sizes that are wanted."""

    pixels: tuple[np.ndarray, ...]


class FrameKeeper(ThinnedFrames[FrameLook]):
    """Keeps an utterance's frames, resized. When there are twice `most`, every second one is dropped, and from then on
    only half as many are kept.

    Args:
        wants: the frames' sizes.
        most: half the greatest number of frames kept.
    """

    def __init__(self, wants: Sequence[Frames], most: int):
        super().__init__(most)
        self._wants = tuple(wants)
        self.kept: list[tuple[int, float, tuple[np.ndarray, ...]]] = []

    def look(self, image: np.ndarray) -> FrameLook:
        return FrameLook(float(image.mean()), tuple(fitted(image, one) for one in self._wants))

    def examine(self, number: int, time: float, look: FrameLook) -> int:
        self.kept.append((number, time, look.pixels))
        return len(self.kept)

    def thin(self, stride: int) -> None:
        self.kept = [one for one in self.kept if one[0] % stride == 0]


@functools.cache
def _detector(kind: str, model: Path, smallest: float | None):
    return make_detector(kind, model, smallest)


@dataclass(frozen=True)
class Collector:
    """What collects the frames of one utterance, for all features with the same kind of input.

    Attributes:
        frames: takes the frames.
        wants: the different inputs, in the order of the images that it keeps.
    """

    frames: FaceTracks | FrameKeeper
    wants: tuple[Crops | Frames, ...]

    def take(
        self,
        span: Span,
        heard: Signal | None,
        choosing: Choosing,
        speeches: Sequence[Speech],
    ) -> Watched:
        """The speaker's face, or the frames, of an utterance.

        Args:
            span: the utterance.
            heard: the audio from the beginning of the file, since that is where frames' times begin; None without.
            choosing: how the speaker is chosen.
            speeches: of the faces, from the second pass.
        """
        collected, start = self.frames, span.start or 0.0
        one = Watched(frames=collected.examined)
        if isinstance(collected, FrameKeeper):
            kept = collected.kept
        else:
            one.tracks = len(collected.tracks)
            if span.face is not None and choosing.follows(span.face):
                chosen = choosing.follow(collected.tracks, span.face)
            else:
                chosen = choosing.choose(collected.tracks, heard, SAMPLE_RATE, speeches)
            one.speaker_confidence = chosen.confidence
            one.speaker_score, one.second_score, one.scored_frames = chosen.score, chosen.second, chosen.frames
            kept = [] if chosen.track is None else chosen.track.crops
            if chosen.track is not None:
                one.faces = len(chosen.track.widths)
                one.boxes = chosen.track.path()
            elif chosen.reason:
                one.reason = chosen.reason
                return one
        if kept:
            times = np.array([time - start for _, time, _ in kept])
            for i, wants in enumerate(self.wants):
                one.series[wants] = FrameSeries(np.stack([images[i] for _, _, images in kept]), times)
        elif collected.examined == 0:
            one.reason = "no frame in this span"
        elif collected.brightest < BLACK:
            one.reason = "black frames"
        else:
            one.reason = f"no face found: {counted(collected.examined, 'frame')}"
        return one


def collectors_for(wants: Mapping[str, Samples | Crops | Frames], request: MediaRequest) -> dict[type, Collector]:
    """What collects the frames of one utterance: at most one collector of faces and one of frames.

    Args:
        wants: the inputs of the features, by name; audio is left out.
        request: of the run.
    """
    found: dict[type, Collector] = {}
    crops = tuple(dict.fromkeys(one for one in wants.values() if isinstance(one, Crops)))
    frames = tuple(dict.fromkeys(one for one in wants.values() if isinstance(one, Frames)))
    if crops:
        assert request.detector_model is not None
        detect = _detector(request.detector, request.detector_model, request.smallest_face)
        forms = [CropForm(one.side, one.grey) for one in crops]
        found[Crops] = Collector(FaceTracks(detect, forms, request.margin, request.most_frames), crops)
    if frames:
        found[Frames] = Collector(FrameKeeper(frames, request.most_frames), frames)
    return found


class Looks:
    """The looks at one frame, so that utterances that overlap do not detect its faces again.

    Args:
        image: the frame, uint8 (height, width, 3).
    """

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self._known: dict[Any, Any] = {}

    def at(self, collector: Collector, region: Region | None) -> Any:
        """What the collector examines of the frame, or of a region of it."""
        key = type(collector.frames), collector.wants, region
        if key not in self._known:
            self._known[key] = collector.frames.look(in_region(self._image, region))
        return self._known[key]
