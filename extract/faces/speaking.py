"""Which face speaks: of the faces that were followed through an utterance (`tracks.py`) one is chosen by a stated rule.

The track that speaks is the one with the highest score

    score = 0.25 seen + 0.25 size + 0.5 speech            (without audio: 0.5 seen + 0.5 size)

where `seen` is the number of frames that show the track, `size` the median width of its box, and `speech` the motion of
its mouth, averaged over time with the loudness of the audio as weight (motion measured n times counts
n / (n + 3)); each is divided by the greatest of the utterance's tracks. The confidence is
(best score - second score) / best score, 1 where there is one track alone. Where the manifest gives the speaker's
region of the image (IEMOCAP's half of the split screen), faces outside it are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tracks import Track

RULE = "0.25 frames seen + 0.25 median width + 0.5 mouth motion weighted by loudness, each relative to the utterance's greatest"
# Mouths of few frames are measured badly: their motion is shrunk as if this many still frames had been seen as well.
_STILL = 3


def choose_speaker(followed: Sequence[Track], samples: np.ndarray | None, rate: int) -> tuple[Track | None, float]:
    """The track that speaks, and the confidence in that, from 0 to 1.

    Args:
        followed: of `FaceTracks`.
        samples: float32 (n,), the utterance's audio from the time at which the frames' times begin; None without.
        rate: samples a second.
    """
    tracks = [track for track in followed if track.crops]
    if not tracks:
        return None, 0.0
    seen = np.array([len(track.widths) for track in tracks], float)
    size = np.array([np.median(track.widths) for track in tracks])
    speech = np.array([_speech(track, samples, rate) for track in tracks])
    audible = samples is not None and bool(np.any(samples)) and speech.max() > 0
    score = 0.5 * seen / seen.max() + 0.5 * size / size.max()
    if audible:
        score = 0.5 * score + 0.5 * speech / speech.max()
    order = np.argsort(-score, kind="stable")
    rest = score[order[1]] if len(tracks) > 1 else 0.0
    return tracks[order[0]], float((score[order[0]] - rest) / score[order[0]])


def _speech(track: Track, samples: np.ndarray | None, rate: int) -> float:
    """Mean motion of the mouth, weighted by the audio's root mean square over the time since the frame before."""
    if samples is None or not track.motion:
        return 0.0
    times, motion = np.array(track.motion).T
    step = np.median(np.diff(times)) if len(times) > 1 else 0.2
    loud = np.array([_loudness(samples[max(0, round((time - step) * rate)) : round(time * rate)]) for time in times])
    shrunk = len(motion) / (len(motion) + _STILL)
    return float((loud * motion).sum() / loud.sum()) * shrunk if loud.sum() > 0 else 0.0


def _loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
