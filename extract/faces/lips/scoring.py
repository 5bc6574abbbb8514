"""How much the tracked faces of an utterance speak its audio, and which of them is the speaker.

LR-ASD's score of a face depends on the face as much as on the audio: lively lips score high with anybody's voice. So
the score of a face is also taken with the audio shifted against the frames, where it cannot be the speaker of what is
heard, and half of that is subtracted:

    evidence = (score - 0.5 mean score with shifted audio) * seconds / (seconds + 0.5)

A score is the mean over the track's frames and over windows of several lengths, as in the authors' evaluation. The
speaker is the face of the greatest evidence, and the confidence is a softmax of the evidences (`speech.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..speaking import Signal
from .closeups import FACES_PER_S, CloseUp
from .mfcc import RATE, mfcc
from .network import ActiveSpeakerNet, load_network
from .speech import Speech

# Lengths in seconds of the windows that the scores are averaged over, and how often each counts; the authors' list.
_WINDOWS = {1: 3, 2: 3, 3: 2, 4: 1, 5: 1, 6: 1}
_SUBTRACTED = 0.5
# The least shift in frames, beyond what lip and voice may be apart, and how many shifts are tried at most.
_LEAST_SHIFT, _MOST_SHIFTS = 9, 12
_SHRUNK_S = 0.5
_STEPS = 4  # MFCCs for each frame
_CHUNK = 250  # frames that are encoded together

RULE = (
    "LR-ASD's score, averaged over windows of 1 to 6 s, minus half of its mean with shifted audio, times s / (s + 0.5) "
    "for a face seen for s seconds"
)


class LipScorer:
    """LR-ASD with its weights.

    Args:
        path: file of the weights.

    Raises:
        UserError: the file holds other weights.
    """

    def __init__(self, path: Path):
        self._net: ActiveSpeakerNet = load_network(path)

    @torch.inference_mode()
    def __call__(self, closeups: Sequence[CloseUp], samples: Signal) -> list[Speech]:
        """The speech of each track.

        Args:
            closeups: the tracks of one utterance, whose frames were taken.
            samples: the audio of the recording from its beginning, at 16 kHz.
        """
        there = [one for one in closeups if len(one)]
        if not there:
            return [Speech(0.0, 0.0, 0) for _ in closeups]
        first, last = min(one.first for one in there), max(one.first + len(one) for one in there)
        per_frame = RATE // FACES_PER_S
        heard = samples[first * per_frame : last * per_frame]
        frames = len(heard) // per_frame
        if frames == 0:
            return [Speech(0.0, 0.0, 0) for _ in closeups]
        steps = mfcc(heard)[: _STEPS * frames]
        steps = np.pad(steps, ((0, _STEPS * frames - len(steps)), (0, 0)), mode="edge")
        audio = self._net.audio(torch.from_numpy(steps)[None])[0]
        return [self._speech(one, audio, first) for one in closeups]

    def _speech(self, closeup: CloseUp, audio: torch.Tensor, first: int) -> Speech:
        crops, k = closeup.faces()
        kept = (k - first >= 0) & (k - first < len(audio))
        crops, k = crops[kept], k[kept]
        if len(k) == 0:
            return Speech(0.0, 0.0, 0)
        faces = self._faces(crops)
        shifts = _shifts(len(audio))
        rows = torch.from_numpy((k - first)[None] - np.array([0, *shifts])[:, None]) % len(audio)
        scores = self._windows(audio[rows], faces).mean(1).double().numpy()
        score = float(scores[0])
        beside = float(scores[1:].mean()) if shifts else score
        seconds = len(k) / FACES_PER_S
        return Speech(score, (score - _SUBTRACTED * beside) * seconds / (seconds + _SHRUNK_S), len(k))

    def _faces(self, crops: np.ndarray) -> torch.Tensor:
        """Encodes crops (n, 112, 112) to (n, 128), in chunks with what the temporal convolutions see beside them."""
        found, beside = [], 9  # three blocks, each with a kernel of 5 and one of 3
        for at in range(0, len(crops), _CHUNK):
            low = max(0, at - beside)
            part = torch.from_numpy(crops[low : at + _CHUNK + beside]).float()
            found.append(self._net.faces(part[None])[0][at - low :][:_CHUNK])
        return torch.cat(found)

    def _windows(self, audio: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Scores (shifts, frames) of audio (shifts, frames, 128) and faces (frames, 128), averaged over windows."""
        weights: dict[int, int] = {}
        for length, weight in _WINDOWS.items():
            window = min(length * FACES_PER_S, len(faces))
            weights[window] = weights.get(window, 0) + weight
        total = torch.zeros(audio.shape[:2])
        for window, weight in weights.items():
            parts = [
                self._net.head(a, v.expand(len(a), -1, -1))
                for a, v in zip(audio.split(window, 1), faces[None].split(window, 1), strict=True)
            ]
            total += weight * torch.cat(parts, 1)
        return total / sum(weights.values())


@functools.cache
def scorer(path: Path) -> LipScorer:
    """The scorer with the weights of a file, loaded once in each process."""
    return LipScorer(path)


def _shifts(frames: int) -> list[int]:
    """By how many of an utterance's frames its audio is shifted, evenly; empty if it is too short for any."""
    least, most = _LEAST_SHIFT, frames - _LEAST_SHIFT
    if most < least:
        return []
    count = min(_MOST_SHIFTS, 1 + (most - least) // 4)
    return sorted({round(shift) for shift in np.linspace(least, most, count)})
