"""Which face speaks: one of the faces tracked through an utterance (`tracks.py`) is chosen by a fixed rule.

The speaking track is the one with the highest score

    score = 0.25 seen + 0.25 size + 0.5 speech            (without audio: 0.5 seen + 0.5 size)

where `seen` is the number of frames that show the track, `size` the median width of its box, and `speech` the motion of
its mouth, averaged over time with the loudness of the audio as weight (n measurements are weighted by n / (n + 3));
each is divided by the maximum over the utterance's tracks. The confidence is (best score - second score) / best score,
or 1 if there is only one track. If the manifest gives the speaker's region of the image (IEMOCAP's half of the split
screen), faces outside it are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .tracks import Track

# Part of the stored provenance, and so of the features' fingerprint.
RULE = (
    "0.25 frames seen + 0.25 median width + 0.5 mouth motion weighted by loudness, each relative to the utterance's "
    "greatest"
)
# Mouth motion measured in few frames is unreliable: it is shrunk as if there had been this many motionless frames too.
_STILL = 3


class Signal(Protocol):
    """Audio from the beginning of a file or stream, float32: an array, or what is kept of a longer one."""

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """The samples from one number to before another, as far as they are there."""
        ...


def choose_speaker(tracks: Sequence[Track], samples: Signal | None, rate: int) -> tuple[Track | None, float]:
    """The speaking track, and the confidence in the choice, from 0 to 1.

    Args:
        tracks: the tracks of `FaceTracks`.
        samples: audio that begins at time 0 of the frames' times; None if there is none.
        rate: samples per second.
    """
    tracks = [track for track in tracks if track.crops]
    if not tracks:
        return None, 0.0
    seen = np.array([len(track.widths) for track in tracks], float)
    size = np.array([np.median(track.widths) for track in tracks])
    speech = np.array([_speech(track, samples, rate) for track in tracks])
    score = 0.5 * seen / seen.max() + 0.5 * size / size.max()
    if speech.max() > 0:
        score = 0.5 * score + 0.5 * speech / speech.max()
    order = np.argsort(-score, kind="stable")
    rest = score[order[1]] if len(tracks) > 1 else 0.0
    return tracks[order[0]], float((score[order[0]] - rest) / score[order[0]])


def _speech(track: Track, samples: Signal | None, rate: int) -> float:
    """Mean motion of the mouth, weighted by the root mean square of the audio since the previous frame."""
    if samples is None or not track.motion:
        return 0.0
    times, motion = np.array(track.motion).T
    step = np.median(np.diff(times)) if len(times) > 1 else 0.2
    loud = np.array([_loudness(samples[max(0, round((time - step) * rate)) : round(time * rate)]) for time in times])
    shrunk = len(motion) / (len(motion) + _STILL)
    return float((loud * motion).sum() / loud.sum()) * shrunk if loud.sum() > 0 else 0.0


def _loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
