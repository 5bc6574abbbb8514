"""Long videos with subtitles that name the speakers: a subtitle file of any common format next to each video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from ...toolkit.base.errors import UserError
from ...toolkit.base.media_endings import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from ..transcripts.cues import Cue
from ..transcripts.speakers import split_together, summary
from ..transcripts.subtitles.files import ENDINGS, is_timed_text, read_cues
from ..transcripts.turns import UNKNOWN
from .folder import label_names

_MOST_SUMMARIES = 12  # files whose speakers are listed one by one


def read_subtitles(
    root: Path,
    *,
    speakers: Annotated[
        str | None,
        "The only names that count as speakers, as written, separated by commas.  [default: those that recur]",
    ] = None,
    labels: Annotated[
        str | None, "Labels in index order, separated by commas, for labels added to the manifest later."
    ] = None,
    split: Annotated[Literal["train", "val", "test"], "The split of all utterances."] = "test",
    name: Annotated[str | None, "Name of the corpus.  [default: the folder's name]"] = None,
) -> Manifest:
    """Videos with subtitles that name the speakers (.srt, .vtt, .ass, .ttml, .smi, ...), one dialogue per file.

    A name in one of the forms that recognisers, meeting tools and captions write ("Ann: Hello.", "[SPEAKER_00]: Hi.",
    ">> ANN: Hello.", a WebVTT voice, the name of a SubStation event, a TTML agent) starts an utterance; lines without
    a name continue the utterance of the last speaker in the same cue. Each utterance has the time span of its cue.
    Subtitles have no labels. A file that cannot be read is left out with a note, if there are others.

    Args:
        root: the folder; scene.srt or scene.en.srt belongs to the video or audio file scene.* in the same folder.
        speakers: the only names that count as speakers, separated by commas.
        labels: names in index order, separated by commas, for the manifest's header.
        split: the split of every utterance.
        name: name of the corpus; None for the folder's name.

    Raises:
        UserError: no folder, no subtitles, or none that can be read; names file and line.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the folder with the videos and their subtitles")
    allowed = None if speakers is None else [one.strip() for one in speakers.split(",") if one.strip()]
    files = _files(root)
    found = sorted(path for path in files if path.suffix.lower() in ENDINGS)
    found = [path for path in found if path.suffix.lower() != ".xml" or is_timed_text(path)]
    if not found:
        raise UserError(f"{root}: contains no subtitles, such as .srt, .vtt, .ass or .ttml, not even in subfolders")
    notes: list[str] = []
    transcripts = _read_all(root, found, notes)
    splits, shared = split_together(list(transcripts.values()), allowed)
    utterances: list[Utterance] = []
    for path, one in zip(transcripts, splits, strict=True):
        shown = path.relative_to(root).as_posix()
        media = _media(path, files, shown, notes)
        dialogue = path.relative_to(root).with_suffix("").as_posix()
        for i, turn in enumerate(one.turns):
            utterances.append(
                Utterance(
                    id=f"{dialogue}_{i}",
                    dialogue=dialogue,
                    position=i,
                    speaker=turn.speaker or UNKNOWN,
                    text=turn.text,
                    label=None,
                    split=split,
                    media=None if media is None else media.relative_to(root).as_posix(),
                    start=turn.start,
                    end=turn.end,
                )
            )
    if not utterances:
        raise UserError(f"{root}: the subtitles contain no speech")
    if 1 < len(splits) <= _MOST_SUMMARIES:
        for path, one in zip(transcripts, splits, strict=True):
            if one.turns:
                notes.append(f"{path.relative_to(root).as_posix()}: {summary(one.counts)}")
    notes += shared
    if empty := sum(u.end <= u.start for u in utterances):
        notes.append(f"{counted(empty, 'utterance')} with an empty time span, whose audio and video will be masked")
    return Manifest(name or root.resolve().name or "subtitles", label_names(labels) or [], root, utterances, notes)


def _read_all(root: Path, paths: list[Path], notes: list[str]) -> dict[Path, list[Cue]]:
    """The cues of every file that can be read, in the order of time; the others are noted.

    Raises:
        UserError: no file can be read, or two belong to the same dialogue.
    """
    transcripts: dict[Path, list[Cue]] = {}
    errors: list[UserError] = []
    dialogues: dict[Path, str] = {}
    for path in paths:
        shown = path.relative_to(root).as_posix()
        try:
            found = read_cues(path)
        except UserError as error:
            errors.append(error)
            continue
        if (other := dialogues.setdefault(path.with_suffix(""), path.suffix)) != path.suffix:
            dialogue = path.relative_to(root).with_suffix("").as_posix()
            raise UserError(f"{path}: {dialogue!r} has both {other} and {path.suffix} subtitles; remove one of them")
        notes += [f"{shown}: {note}" for note in found.notes]
        if [cue.start for cue in found.cues] != sorted(cue.start for cue in found.cues):
            notes.append(f"{shown}: the cues are not in chronological order and were sorted")
            found.cues.sort(key=lambda cue: cue.start)
        if not found.cues:
            notes.append(f"{shown}: contains no speech")
        transcripts[path] = found.cues
    if errors and not transcripts:
        more = f" (and {counted(len(errors) - 1, 'other file')} that cannot be read)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0].message}{more}")
    if errors:
        notes.append(f"{counted(len(errors), 'subtitle file')} of {len(paths)} left out, which cannot be read:")
        notes += [f"left out: {error.message.removeprefix(f'{root}{os.sep}')}" for error in errors]
    return transcripts


def _files(root: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(one for one in below if not one.startswith("."))
        found += [Path(folder) / one for one in sorted(files) if not one.startswith(".")]
    return found


def _media(path: Path, files: list[Path], shown: str, notes: list[str]) -> Path | None:
    """The video, or else the audio file, that subtitles belong to."""
    stems = [path.stem, path.stem.rsplit(".", 1)[0]]  # scene.en.srt belongs to scene.mp4
    for stem in stems:
        beside = [f for f in files if f.parent == path.parent and f.stem == stem and f.suffix.lower() in MEDIA_SUFFIXES]
        beside.sort(key=lambda f: f.suffix.lower() in AUDIO_SUFFIXES)
        if beside:
            if len(beside) > 1:
                notes.append(f"{shown}: {beside[0].name} is used; not used: {', '.join(f.name for f in beside[1:])}")
            return beside[0]
    notes.append(f"{shown}: no video or audio file of that name in the same folder; text only")

    return None
