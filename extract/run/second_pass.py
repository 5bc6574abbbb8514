"""The second pass over a file with several faces: their lips at 25 frames per second, scored utterance by utterance.

Which faces there are, and where, is known only after the first pass, at the extractor's own rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...toolkit.media import MediaReader
from ..faces.lips.closeups import FACES_PER_S, CloseUp, frame_at, frames_of, take
from ..faces.lips.speech import Speech
from ..faces.tracks import Track
from .requests import MediaRequest, Task


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
    choosing, open_spans, found = request.choosing, {}, {}
    for i, several in tracks.items():
        span, audio = task.spans[i], media.sound.get(task.spans[i].channel)
        if choosing is not None and audio is not None and not audio.missing:
            open_spans[i] = choosing.closeups(several, audio.samples, span.start, span.end)
    frames = frames_of(one for several in open_spans.values() for one in several)
    if choosing is None or not frames:
        return {}

    def score(before: float) -> None:
        """Scores the utterances whose faces were all read, so that only those in progress are in memory."""
        for i in [i for i, several in open_spans.items() if all(one.end <= before for one in several)]:
            closeups: list[CloseUp] = open_spans.pop(i)
            if closeups:
                found[i] = choosing.score(closeups, media.sound[task.spans[i].channel].samples)

    with MediaReader(
        task.path,
        audio=False,
        fps=FACES_PER_S,
        wanted=frames,
        time_limit=request.time_limit,
        threads=request.decoding_threads,
    ) as again:
        last = max(frames)
        for time, image in again.frames():
            k = frame_at(time)
            score(k)
            for i, several in open_spans.items():
                take(several, k, in_region(image, task.spans[i].region))
            if k >= last:
                break
    score(np.inf)
    return found


def in_region(image: np.ndarray, region: tuple[float, float, float, float] | None) -> np.ndarray:
    """The region of the image; `region` is (left, top, right, bottom) as fractions of its width and height."""
    if region is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = region
    return image[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
