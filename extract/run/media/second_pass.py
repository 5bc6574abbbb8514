"""The second pass over a file with several faces: their lips at 25 frames per second, scored utterance by utterance.

Which faces there are, and where, is known only after the first pass, at the extractor's own rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....toolkit.media import MediaReader
from ...faces.choice import Choosing
from ...faces.lips.closeups import FACES_PER_S, CloseUp, frame_at, frames_of, take
from ...faces.lips.speech import Speech
from ...faces.tracks import Track
from .requests import MediaRequest, Task

Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """The faces of one utterance.

    Attributes:
        closeups: its tracks.
        samples: float32 (n,) at 16 kHz, the audio from the beginning of the file.
        region: the part of the image that the tracks lie in.
    """

    closeups: list[CloseUp]
    samples: np.ndarray
    region: Region | None = None


def score_lips(
    task: Task, request: MediaRequest, tracks: Mapping[int, Sequence[Track]], media: MediaReader
) -> dict[int, list[Speech]]:
    """How much the faces of each utterance speak; only for the utterances whose speaker has to be chosen by the lips.

    Args:
        task: the file.
        request: how to choose.
        tracks: by the number of the span, its tracks.
        media: the finished first pass, for the audio.

    Raises:
        MediaError: the file cannot be decoded again, or takes longer than the time limit.
    """
    shown: dict[int, Shown] = {}
    if request.choosing is None:
        return {}
    for i, several in tracks.items():
        span, audio = task.spans[i], media.sound.get(task.spans[i].channel)
        if request.choosing.follows(span.face):
            continue
        if audio is not None and not audio.missing:
            closeups = request.choosing.closeups(several, audio.samples, span.start, span.end)
            shown[i] = Shown(closeups, audio.samples, span.region)
    return score_shown(
        task.path, shown, request.choosing, time_limit=request.time_limit, threads=request.decoding_threads
    )


def score_shown(
    path: Path,
    shown: Mapping[int, Shown],
    choosing: Choosing,
    *,
    time_limit: float,
    threads: int = 1,
    advance: Callable[[float], None] = lambda seconds: None,
) -> dict[int, list[Speech]]:
    """How much the faces of each utterance speak.

    Args:
        path: the file.
        shown: by the number of the utterance; those without faces are left out of the result.
        choosing: has the network.
        time_limit: seconds allowed for decoding.
        threads: for decoding.
        advance: called with the time in the file that was reached.

    Raises:
        MediaError: the file cannot be decoded again, or takes longer than the time limit.
    """
    waiting = {i: one for i, one in shown.items() if one.closeups}
    frames = frames_of(face for one in waiting.values() for face in one.closeups)
    found: dict[int, list[Speech]] = {}
    if not frames:
        return found

    def score(before: float) -> None:
        """Scores the utterances whose faces were all read, so that only those in progress are in memory."""
        for i in [i for i, one in waiting.items() if all(face.end <= before for face in one.closeups)]:
            one = waiting.pop(i)
            found[i] = choosing.score(one.closeups, one.samples)
            for face in one.closeups:
                face.crops.clear()

    options = {"time_limit": time_limit, "threads": threads}
    with MediaReader(path, audio=False, fps=FACES_PER_S, wanted=frames, **options) as media:
        last = max(frames)
        for time, image in media.frames():
            k = frame_at(time)
            score(k)
            for one in waiting.values():
                take(one.closeups, k, in_region(image, one.region))
            advance(time)
            if k >= last:
                break
    score(np.inf)
    return found


def in_region(image: np.ndarray, region: Region | None) -> np.ndarray:
    """The region of the image; `region` is (left, top, right, bottom) as fractions of its width and height."""
    if region is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = region
    return image[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
