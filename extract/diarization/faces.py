"""Voices and faces become people: which face tracks speak with a voice, over the whole recording.

What finds the faces is not part of this package: it is passed as a function of type `FaceFinder`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...toolkit.base.errors import UserError
from .turns import VoiceTurn, with_marks

NO_FACE = "no face"
NO_FACE_OF_VOICE = "voice without a face"
OTHER_PERSON = "face of another person"
UNSURE_FACE = "unsure face"
_LEAST_CONFIDENCE = 0.6
OFF_SCREEN = "speaker not in the picture"  # the extraction's own reason
FACE_MARKS = (NO_FACE, NO_FACE_OF_VOICE, OTHER_PERSON, UNSURE_FACE, OFF_SCREEN)


@dataclass(frozen=True)
class FaceLink:
    """The face that speaks in a turn.

    Attributes:
        track: number of the face track in the recording; None if no face speaks.
        score: of the network that chose it, in its own unit.
        confidence: 0 to 1.
        reason: why there is none or it is unsure, for example "no face" or "speaker not in the picture"; else "".
    """

    track: int | None
    score: float
    confidence: float
    reason: str = ""


class FaceFinder(Protocol):
    """Finds the face that speaks in each turn.

    It may have a method `tracks(path) -> Sequence[int]`, all face tracks of the recording, so that faces without a
    voice can be listed.
    """

    def __call__(self, path: Path, spans: Sequence[tuple[float, float]], /) -> Sequence[FaceLink]:
        """One link per span (seconds of the recording), in their order."""
        ...

    def provenance(self) -> dict[str, object]:
        """How it finds them, as JSON; faces are looked for again if it differs from what the turns record."""
        ...


class KnownFaces:
    """Finds faces for new spans only; those of the turns of before are known.

    Args:
        faces: finds the others, with the same numbers of tracks.
        before: turns with their faces.
        tracks: the tracks of the recording, as far as they are known.
    """

    def __init__(self, faces: FaceFinder, before: Sequence[VoiceTurn], tracks: Sequence[int]) -> None:
        self._faces, self._tracks = faces, list(tracks)
        self._links = {(turn.start, turn.end): _known(turn) for turn in before if turn.face_confidence is not None}

    def __call__(self, path: Path, spans: Sequence[tuple[float, float]], /) -> Sequence[FaceLink]:
        new = [span for span in spans if span not in self._links]
        found = dict(zip(new, self._faces(path, new), strict=True)) if new else {}
        return [found[span] if span in found else self._links[span] for span in spans]

    def provenance(self) -> dict[str, object]:
        return self._faces.provenance()

    def tracks(self, path: Path) -> Sequence[int]:
        """Those of before: corrections of turns change no frame."""
        return self._tracks


def _known(turn: VoiceTurn) -> FaceLink:
    reasons = [mark for mark in turn.marks if mark in (NO_FACE, OFF_SCREEN, UNSURE_FACE)]
    return FaceLink(turn.face, 0.0, turn.face_confidence or 0.0, reasons[-1] if reasons else "")


@dataclass(frozen=True)
class FacesOfPeople:
    """What the faces say.

    Attributes:
        turns: with `face`, `face_confidence` and marks.
        tracks: the face tracks of each person by name, the one with most turns first.
        without_voice: face tracks that speak in no turn; empty if the finder does not list them.
    """

    turns: list[VoiceTurn]
    tracks: dict[str, list[int]]
    without_voice: list[int]


def join_faces(path: Path, turns: Sequence[VoiceTurn], faces: FaceFinder) -> FacesOfPeople:
    """Links turns with faces, and people with the face tracks that mostly speak with them.

    A track belongs to the person with whom it speaks for most seconds, weighted by confidence.

    Args:
        path: the recording.
        turns: with speakers.
        faces: finds the faces.

    Raises:
        UserError: the finder returns another number of links.
    """
    links = list(faces(path, [(turn.start, turn.end) for turn in turns]))
    if len(links) != len(turns):
        raise UserError(
            f"{path}: {len(links)} links of faces for {len(turns)} turns; the face finder must return one each"
        )
    seconds: dict[int, Counter[str]] = {}
    for turn, link in zip(turns, links, strict=True):
        if link.track is not None:
            weight = (turn.end - turn.start) * max(link.confidence, 1e-3)
            seconds.setdefault(link.track, Counter())[turn.speaker] += weight  # pyright: ignore[reportArgumentType]
    owners = {track: counts.most_common(1)[0][0] for track, counts in seconds.items()}
    tracks: dict[str, list[int]] = {}
    for track, name in sorted(owners.items(), key=lambda one: (-seconds[one[0]][one[1]], one[0])):
        tracks.setdefault(name, []).append(track)
    found = []
    for turn, link in zip(turns, links, strict=True):
        marks = []
        if link.track is None:
            # Somebody whose face is never seen speaking is a voice off screen; otherwise it is this turn's.
            marks.append(NO_FACE if turn.speaker in tracks else NO_FACE_OF_VOICE)
            if link.reason and link.reason not in marks:
                marks.append(link.reason)
        else:
            if owners[link.track] != turn.speaker:
                marks.append(OTHER_PERSON)
            if link.confidence < _LEAST_CONFIDENCE:
                marks.append(link.reason or UNSURE_FACE)
        turn = with_marks(turn, marks, drop=FACE_MARKS)
        found.append(replace(turn, face=link.track, face_confidence=round(float(link.confidence), 3)))
    listed = getattr(faces, "tracks", None)
    every = [] if listed is None else list(listed(path))
    return FacesOfPeople(found, tracks, sorted(track for track in every if track not in owners))
