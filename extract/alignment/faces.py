"""The speaking face of each utterance of a corpus, by the detector and LR-ASD, as extraction would choose it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.base.cores import core_count
from ...toolkit.base.errors import UserError
from ...toolkit.base.processes import Failure, preload, run_tasks
from ...toolkit.manifest import Manifest, Utterance
from ..encoders.base import Crops
from ..encoders.selection import Options
from ..faces.choice import OFF_SCREEN
from ..faces.detection import face_model, make_detector
from ..run.media.pictures import Watched
from ..run.media.requests import MediaRequest, Span, Task
from ..run.media.speaker import ChoiceOfSpeaker, choice_of_speaker
from ..run.media.worker import FileMedia, failed, process, set_up
from ..run.media_stage import FAILED
from ..run.provenance import detection_in_words, detection_parameters
from ..run.rows.origins import MISSING, mask_of, source_of
from .overlay import Line, applied, content_of
from .seen import NO_FACE, Seen

_FACES = "faces"  # what the workers are asked for
_CROP = 8  # pixels: crops are not used
_TOGETHER = 32  # utterances of one file that are looked at in one pass
_SAVED = 4  # files in a worker's hands or waiting for one, for each worker


@dataclass(frozen=True)
class FaceSearch:
    """How faces are looked for.

    Attributes:
        options: of extraction, as far as they concern faces.
        detector: the detector's file and its SHA-256.
        speaker: the choice among faces.
    """

    options: Options
    detector: tuple[Path, str]
    speaker: ChoiceOfSpeaker

    def provenance(self) -> dict[str, object]:
        """As JSON."""
        return {
            **detection_parameters(self.options, self.detector),
            "frames_per_second": self.options.fps,
            **self.speaker.parameters(),
        }

    def line(self) -> str:
        """About it, for the user."""
        return f"faces: {detection_in_words(self.options, self.detector)}; speaker: {self.speaker.line}"

    def request(self) -> MediaRequest:
        """For the workers."""
        options = self.options
        return MediaRequest(
            wants={_FACES: Crops(_CROP, grey=True)},
            detector=options.face_detector,
            detector_model=self.detector[0],
            fps=options.fps,
            margin=options.face_margin,
            most_frames=options.most_frames,
            time_limit=options.time_limit,
            audio_track=options.audio_track,
            smallest_face=options.smallest_face,
            choosing=self.speaker.choosing,
        )


def face_search(wanted: str, options: Options) -> tuple[FaceSearch | None, str]:
    """What looks for faces, and a line about it for the user.

    Args:
        wanted: "yes"; "no"; or "auto", which goes without if the models are not on this machine.
        options: those of extraction; the choice is by lips, and single faces are scored too.

    Raises:
        UserError: a model is not there that is asked for, or holds something else.
    """
    if wanted == "no":
        return None, ""
    options = dataclasses.replace(options, speaker_choice="lips", off_screen="mask-single")
    try:
        detector = face_model(options.face_detector, options.face_model)
        speaker = choice_of_speaker(options)
    except UserError as error:
        if wanted == "yes" or options.face_model is not None or options.lips_model is not None:
            raise
        return None, f"faces: not looked for; {error.message}"
    make_detector(options.face_detector, detector[0])
    search = FaceSearch(options, detector, speaker)
    return search, search.line()


def spoken(u: Utterance, line: Line) -> Utterance:
    """The utterance with the span in which its face is looked for: that which extraction will use."""
    return applied(u, line) if line.sure else u


def find_faces(manifest: Manifest, lines: Mapping[str, Line], search: FaceSearch) -> Iterator[list[Line]]:
    """The lines with the speaker's face, in the order in which they are found.

    Args:
        manifest: the corpus.
        lines: by utterance; those of others are left out.
        search: how.
    """
    preload("erc_toolkit.extract.run.media.worker")
    todo = [(u, lines[u.id]) for u in manifest.utterances if u.id in lines]
    without, groups = _grouped(todo)
    if without:
        yield without
    workers = search.options.workers or core_count()
    request = dataclasses.replace(search.request(), decoding_threads=max(1, workers // max(1, len(groups))))
    tasks = (
        (k, Task(manifest.path(path), [_span(row, *todo[row]) for row in rows]), request)
        for k, (path, rows) in enumerate(groups)
    )
    limit = search.options.time_limit + 60
    contents: dict[Path, str] = {}
    for (_, task, _), found in run_tasks(
        tasks, process, workers, set_up=set_up, time_limit=limit, most_weight=_SAVED * workers
    ):
        new = []
        if isinstance(found, Failure):
            found = FileMedia([failed(span, f"{FAILED}: {found.reason}") for span in task.spans])
        if found.file is None and task.path not in contents:
            contents[task.path] = content_of(task.path)
        content = contents[task.path] if found.file is None else found.file.content.replace(MISSING, "")
        for one in found.utterances:
            faces = one.watched.get(Crops) or Watched(reason=one.taken[_FACES].reason)
            new.append(_with_face(*todo[one.row], content, faces))
        yield new


def _grouped(todo: list[tuple[Utterance, Line]]) -> tuple[list[Line], list[tuple[str, list[int]]]]:
    """The lines of utterances without video, and of the others the files with their rows."""
    without, files = [], {}
    for row, (u, line) in enumerate(todo):
        new = spoken(u, line)
        path, reason = source_of(new, "visual")[0], mask_of(new, "visual")
        if path is None or reason:
            without.append(dataclasses.replace(line, face=Seen.basis(new, ""), flags={**line.flags, NO_FACE: reason}))
        else:
            files.setdefault(path, []).append(row)
    groups = [(path, rows[i : i + _TOGETHER]) for path, rows in files.items() for i in range(0, len(rows), _TOGETHER)]
    return without, groups


def _span(row: int, u: Utterance, line: Line) -> Span:
    _, start, end = source_of(spoken(u, line), "visual")
    return Span(row, start, end, u.region, [_FACES], channel=u.audio_channel)


def _with_face(u: Utterance, line: Line, content: str, found: Watched) -> Line:
    face = dataclasses.replace(
        Seen.basis(spoken(u, line), content),
        confidence=round(found.speaker_confidence, 4) if found.scored_frames else 0.0,
        score=round(found.speaker_score, 4),
    )
    flags = dict(line.flags)
    kind, _, why = found.reason.partition(": ")
    if kind == OFF_SCREEN:
        flags[OFF_SCREEN] = why
    elif found.reason:
        flags[NO_FACE] = found.reason
    elif not found.scored_frames:
        flags[NO_FACE] = "lips and audio are never there at the same time"
    else:
        face = dataclasses.replace(face, boxes=tuple(found.boxes))
    return dataclasses.replace(line, face=face, flags=flags)
