"""Checks the media files that a manifest names: opens each of them, in parallel, as extraction will."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..toolkit.base.errors import UserError
from ..toolkit.base.progress import progress_bar
from ..toolkit.base.threads import map_in_threads
from ..toolkit.manifest import Manifest, Utterance
from ..toolkit.media import SAMPLE_RATE, MediaError, MediaReader
from .encoders.audio.opensmile_sets import SILENCE
from .faces.thinning import BLACK

FPS = 5.0  # frames sampled per second, extraction's default
SHORT_S = 0.2  # a shorter clip has only two to four frames
LONG_S = 60.0
DISAGREE_S = 0.5  # between a clip's duration and the time stamps by which it was cut
_SLACK_S = 0.05


@dataclass(frozen=True)
class Problem:
    """One problem of one file.

    Attributes:
        kind: a short name, by which problems are counted.
        file: path as in the manifest.
        utterances: ids of the utterances affected.
        detail: the numbers, if there are any.
    """

    kind: str
    file: str
    utterances: tuple[str, ...]
    detail: str = ""


@dataclass
class Report:
    """The result of a validation.

    Attributes:
        utterances: number of utterances in the manifest.
        files: number of media files that they name.
        decoded: whether the files were decoded; otherwise only their existence was checked.
        problems: in the order of the manifest.
    """

    utterances: int
    files: int
    decoded: bool
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Number of problems of each kind, most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())


@dataclass(frozen=True, slots=True)
class _Use:
    """What one utterance needs from one file."""

    utterance: Utterance
    audio: bool
    visual: bool
    start: float | None
    end: float | None

    @property
    def cut(self) -> bool:
        """Whether the file contains this utterance only."""
        return self.start is None and self.end is None


def validate(manifest: Manifest, media: bool = False, workers: int = 0) -> Report:
    """Checks the files that a manifest names.

    Args:
        manifest: a loaded manifest, whose own fields are already checked.
        media: decode every file in full, and check that it decodes to its end, that its audio is not silent and its
            frames not black, and that its duration agrees with its time stamps. Otherwise only check that the files
            exist and the spans are valid.
        workers: number of files checked at once; 0 for one per core.

    Returns:
        The problems. Modalities that the manifest masks are not checked.

    Raises:
        UserError: the manifest names files and its root is not a folder.
    """
    users = _users(manifest)
    if users and not os.path.isdir(manifest.root):
        raise UserError(
            f"{manifest.root}: the manifest's root is not a folder; move the files there, or correct `root` in the "
            "manifest's header"
        )
    report = Report(len(manifest.utterances), len(users), media)

    def check(one: tuple[str, list[Utterance]]) -> list[Problem]:
        file, path = one[0], manifest.path(one[0])
        return list(_decode(path, file, list(_uses(file, one[1]))) if media else _look(path, file, one[1]))

    with progress_bar("validate", len(users)) as bar:
        for found in map_in_threads(check, users.items(), workers):
            report.problems += found
            bar.advance(1)
    return report


def _users(manifest: Manifest) -> dict[str, list[Utterance]]:
    """The files and the utterances that need something from each, in the order of the manifest."""
    users: dict[str, list[Utterance]] = defaultdict(list)
    for u in manifest.utterances:
        for file in dict.fromkeys((u.media, u.audio)):
            if file is not None and any(_uses(file, (u,))):
                users[file].append(u)
    return dict(users)


def _uses(file: str, users: Iterable[Utterance]) -> Iterator[_Use]:
    """What these utterances need from a file. Made when they are looked at, as a million take memory."""
    for u in users:
        audio, visual = "audio" not in u.mask, "visual" not in u.mask
        if u.media == file and (visual or (audio and u.audio is None)):
            yield _Use(u, audio and u.audio is None, visual, u.start, u.end)
        if u.audio == file and audio:
            yield _Use(u, True, False, u.audio_start, u.audio_end)


def _look(path: Path, file: str, users: list[Utterance]) -> Iterator[Problem]:
    """Problems that show without opening the file."""
    try:
        size = path.stat().st_size if path.is_file() else -1
    except OSError:
        size = -1
    if size < 1:
        yield Problem("missing file" if size < 0 else "empty file", file, _ids(_uses(file, users)))
    for use in _uses(file, users):
        if _impossible(use):
            yield Problem("invalid time span", file, (use.utterance.id,), f"{use.start} to {use.end} s")


def _decode(path: Path, file: str, uses: list[_Use]) -> Iterator[Problem]:
    """Problems that show when the whole file is decoded."""
    audio, visual = [use for use in uses if use.audio], [use for use in uses if use.visual]
    try:
        with MediaReader(path, audio=bool(audio), fps=FPS if visual else None) as media:
            brightest = max((float(image[::4, ::4].mean()) for _, image in media.frames()), default=None)
            media.finish()
    except MediaError as error:
        kind, _, detail = str(error).partition(": ")
        yield Problem(kind, file, _ids(uses), detail)
        return
    if media.truncated:
        yield Problem("truncated", file, _ids(uses), media.truncated.partition(": ")[2])
    if audio and not media.has_audio:
        yield Problem("no audio track", file, _ids(audio))
    if visual and not media.has_video:
        yield Problem("no video track", file, _ids(visual))
    if audio and media.has_audio and float(np.abs(media.samples).max(initial=0)) < SILENCE:
        yield Problem("silent audio", file, _ids(audio))
    if brightest is not None and brightest < BLACK:
        yield Problem("black frames", file, _ids(visual))
    audio_s = len(media.samples) / SAMPLE_RATE if media.samples is not None else None
    video_s = media.frame_end + 1 / FPS if media.has_video and visual else None  # until just before the next frame
    whole = media.declared_duration or media.duration
    for use in uses:
        lengths = [x for x, needed in ((audio_s, use.audio), (video_s, use.visual)) if needed and x is not None]
        if _impossible(use):
            yield Problem("invalid time span", file, (use.utterance.id,), f"{use.start} to {use.end} s")
        elif use.end is not None and lengths and use.end > min(lengths) + _SLACK_S:
            detail = f"ends at {use.end:.2f} of {min(lengths):.2f} s"
            yield Problem("beyond the end of the file", file, (use.utterance.id,), detail)
        elif use.cut and not media.truncated:
            yield from _odd_length(file, use, whole)


def _odd_length(file: str, use: _Use, duration: float) -> Iterator[Problem]:
    """A clip that is very short or long, or whose duration differs from the time stamps by which it was cut."""
    ids = (use.utterance.id,)
    if duration < SHORT_S:
        yield Problem(f"shorter than {SHORT_S:g} s", file, ids, f"lasts {duration:.2f} s")
    if duration > LONG_S:
        yield Problem(f"longer than {LONG_S:g} s", file, ids, f"lasts {duration:.2f} s")
    start, end = (use.utterance.extra.get(name) for name in ("source_start", "source_end"))
    if isinstance(start, (int, float)) and isinstance(end, (int, float)) and abs(duration - (end - start)) > DISAGREE_S:
        detail = f"{end - start:.2f} s by the time stamps, lasts {duration:.2f} s"
        yield Problem("time stamps disagree with the clip", file, ids, detail)


def _impossible(use: _Use) -> bool:
    start = use.start or 0.0
    return start < 0 or (use.end is not None and use.end <= start)


def _ids(uses: Iterable[_Use]) -> tuple[str, ...]:
    return tuple(use.utterance.id for use in uses)
