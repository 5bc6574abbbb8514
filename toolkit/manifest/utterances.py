"""Utterances, and a corpus of them as extraction sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..base.errors import UserError

SCHEMA = 1
SPLITS = ("train", "val", "test")
MODALITIES = ("text", "audio", "visual")


class _Empty(dict):
    """An empty dict that stays so, since many utterances share it."""

    def _refuse(self, *_: object, **__: object) -> None:
        raise TypeError("an utterance is not changed; make another one with dataclasses.replace")

    __setitem__ = setdefault = update = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]


# The mask and extra of utterances that have none: 130 bytes each, if each had its own.
EMPTY: dict = _Empty()


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of one dialogue.

    Attributes:
        id: unique in the corpus.
        dialogue: id of the dialogue it belongs to.
        position: index in the dialogue, counted from 0 over the utterances that are kept.
        speaker: name of the speaker.
        text: transcript; may be empty.
        label: name of the emotion, or None if the annotators did not agree on one.
        split: "train", "val" or "test".
        media: path of the file with the utterance, relative to the manifest's root, or None.
        audio: path of the file with its audio, if that is not `media`.
        start: where the utterance starts in `media`, in seconds; None if the file contains only this utterance.
        end: where it ends in `media`, in seconds.
        audio_start: where it starts in `audio`, in seconds; None if the `audio` file contains only this utterance.
        audio_end: where it ends in `audio`, in seconds.
        audio_channel: number of the speaker's own channel of the audio, from 1; None for the mix of all channels.
        region: (left, top, right, bottom) of the speaker's part of the frame, as fractions of width and height.
        speaker_face: where the speaker's face is, or that it is not seen, as `faces.face_problem` describes it; None if
            that is not known.
        mask: modality name to the reason why it cannot be used, as far as known before any file is opened.
        extra: further columns of the corpus (ratings, votes), kept unchanged.

    Like the utterance itself, its face, mask and extra are not to be changed.
    """

    id: str
    dialogue: str
    position: int
    speaker: str
    text: str
    label: str | None
    split: str
    media: str | None = None
    audio: str | None = None
    start: float | None = None
    end: float | None = None
    audio_start: float | None = None
    audio_end: float | None = None
    audio_channel: int | None = None
    region: tuple[float, float, float, float] | None = None
    speaker_face: dict[str, Any] | None = None
    mask: dict[str, str] = field(default_factory=lambda: EMPTY)
    extra: dict[str, object] = field(default_factory=lambda: EMPTY)


@dataclass(slots=True)
class Manifest:
    """A corpus as extraction sees it.

    Attributes:
        corpus: its name, e.g. "meld".
        labels: names of the emotions in index order.
        root: the folder that every media path is relative to.
        utterances: in dialogue order; those of one dialogue are contiguous and sorted by position.
        notes: irregularities that the parser found and what it did about each, one per line.
    """

    corpus: str
    labels: list[str]
    root: Path
    utterances: list[Utterance]
    notes: list[str] = field(default_factory=list)

    def dialogues(self) -> Iterator[tuple[str, list[Utterance]]]:
        """Yields (dialogue id, its utterances) in order."""
        start = 0
        for i in range(1, len(self.utterances) + 1):
            if i == len(self.utterances) or self.utterances[i].dialogue != self.utterances[start].dialogue:
                yield self.utterances[start].dialogue, self.utterances[start:i]
                start = i

    def path(self, relative: str) -> Path:
        """The location of a media path of this manifest.

        Raises:
            UserError: the path is absolute or leaves the root.
        """
        if problem := path_problem(relative):
            raise UserError(f"media path {relative!r} {problem}: write it relative to {self.root}")
        return self.root / PurePosixPath(relative)


def path_problem(relative: str) -> str | None:
    """What is wrong with a media path, or None. Symbolic links inside the root are followed: they are the user's."""
    if ".." not in relative and ":" not in relative and "\0" not in relative and relative[:1] not in ("/", "\\"):
        return None  # without what makes a path one of those below
    if "\0" in relative:
        return "contains a NUL character"
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).is_absolute():
        return "is absolute"
    if ".." in PurePosixPath(relative).parts or ".." in PureWindowsPath(relative).parts:
        return "leaves the root"
    return None


# The names of an utterance's fields, in order.
FIELDS = tuple(f.name for f in fields(Utterance))
