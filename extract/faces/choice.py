"""Which of an utterance's faces is the speaker's: by the lips where they can be scored, otherwise by motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...toolkit.media import SAMPLE_RATE
from .given import GivenFace
from .lips.closeups import CloseUp
from .lips.speech import Speech, confidences
from .speaking import Signal, choose_speaker
from .tracks import Track

# Greatest number of tracks whose lips are scored, those seen longest; the others are taken for passers-by.
_MOST_SCORED = 6
# Above this mean score a face speaks; the value that the network was trained to decide by.
SPEAKS = 0.0

OFF_SCREEN = "speaker not in the picture"
UNSURE = "unsure which face speaks"
LOST = "no face where the manifest says"


@dataclass(frozen=True)
class Choosing:
    """How the speaker is chosen among the faces.

    Attributes:
        model: file of LR-ASD's weights, or None to choose by the motion of the mouth.
        off_screen: what becomes of an utterance in which no face's score is above `SPEAKS`: "mask", "keep", or
            "mask-single", which masks it also if only one face is seen, and so scores single faces too.
        when_unsure: "keep" or "mask" a choice whose confidence is below `least_confidence`.
        least_confidence: from 0 to 1.
    """

    model: Path | None = None
    off_screen: str = "mask"
    when_unsure: str = "keep"
    least_confidence: float = 0.6

    @property
    def least_faces(self) -> int:
        """How many faces an utterance must show to be scored."""
        return 1 if self.off_screen == "mask-single" else 2

    def closeups(
        self, tracks: Sequence[Track], samples: Signal, start: float | None, end: float | None
    ) -> list[CloseUp]:
        """What has to be read at 25 frames per second of an utterance's tracks; empty if nothing is to be scored.

        Args:
            tracks: of the utterance.
            samples: the audio from the beginning of the file, at 16 kHz.
            start, end: the utterance's span in seconds; None for the whole file.
        """
        there = _scored(tracks)
        if self.model is None or len(there) < self.least_faces:
            return []
        if not np.any(samples[round((start or 0.0) * SAMPLE_RATE) : None if end is None else round(end * SAMPLE_RATE)]):
            return []
        start, end = start or 0.0, np.inf if end is None else end
        return [CloseUp.of(track, start, end) for track in there]

    def score(self, closeups: Sequence[CloseUp], samples: Signal) -> list[Speech]:
        """How much each of these faces speaks, in the same order.

        Args:
            closeups: of one utterance, with their frames.
            samples: the audio from the beginning of the file, at 16 kHz.
        """
        from .lips.scoring import scorer  # most runs have no need of it, nor of torch in their workers

        assert self.model is not None
        return scorer(self.model)(closeups, samples)

    def choose(
        self, tracks: Sequence[Track], samples: Signal | None, rate: int, speeches: Sequence[Speech] = ()
    ) -> Chosen:
        """The speaker's track.

        Args:
            tracks: of the utterance.
            samples: the audio from the beginning of the file; None if there is none.
            rate: samples per second.
            speeches: of `score`; empty to choose by motion.
        """
        chosen = _by_lips(_scored(tracks), speeches)
        if chosen is None:
            chosen = Chosen(*choose_speaker(tracks, samples, rate))
        elif self.off_screen != "keep" and chosen.score <= SPEAKS:
            return replace(chosen, track=None, reason=f"{OFF_SCREEN}: greatest score {chosen.score:.2f}")
        return self._if_sure(chosen)

    def follows(self, face: GivenFace | None) -> bool:
        """Whether a given face decides, and not `choose`: `off_screen` "keep" ignores that a speaker is not seen."""
        return face is not None and not (face.off_screen and self.off_screen == "keep")

    def follow(self, tracks: Sequence[Track], face: GivenFace) -> Chosen:
        """The track of a given face, the one that shares most of its boxes.

        Args:
            tracks: of the utterance.
            face: of the manifest.
        """
        if face.off_screen:
            return Chosen(None, face.confidence, face.score, reason=f"{OFF_SCREEN}: {face.off_screen}")
        there = [track for track in tracks if track.crops]
        shared = [face.shared(track) for track in there]
        if not any(shared):
            return Chosen(None, face.confidence, face.score, reason=LOST if there else "")
        return self._if_sure(Chosen(there[int(np.argmax(shared))], face.confidence, face.score))

    def _if_sure(self, chosen: Chosen) -> Chosen:
        if chosen.track is not None and self.when_unsure == "mask" and chosen.confidence < self.least_confidence:
            return replace(chosen, track=None, reason=f"{UNSURE}: confidence {chosen.confidence:.2f}")
        return chosen


@dataclass(frozen=True)
class Chosen:
    """The choice for one utterance.

    Attributes:
        track: the speaker's, or None with the `reason`; the reason is empty if there is no face at all.
        confidence: from 0 to 1.
        score, second: the mean scores of its lips and of the runner-up's.
        frames: how many frames of faces were scored, at 25 per second; 0 if the choice is by motion or was given.
        reason: why an utterance that shows faces is masked, or "".
    """

    track: Track | None
    confidence: float
    score: float = 0.0
    second: float = 0.0
    frames: int = 0
    reason: str = ""


def _by_lips(tracks: Sequence[Track], speeches: Sequence[Speech]) -> Chosen | None:
    """None if nothing was heard while a face was there."""
    there = [i for i, one in enumerate(speeches) if one.frames]
    if not there:
        return None
    sure = confidences([speeches[i] for i in there])
    order = np.argsort(-sure, kind="stable")
    best = there[order[0]]
    second = speeches[there[order[1]]].score if len(there) > 1 else 0.0
    return Chosen(tracks[best], float(sure[order[0]]), speeches[best].score, second, sum(s.frames for s in speeches))


def _scored(tracks: Sequence[Track]) -> list[Track]:
    there = [track for track in tracks if track.crops]
    longest = sorted(range(len(there)), key=lambda i: -len(there[i].boxes))[:_MOST_SCORED]
    return [there[i] for i in sorted(longest)]
