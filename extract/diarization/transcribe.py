"""One recording from the file to its turns: the models, the earlier turns, corrections, and what is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import file_sha256
from ...toolkit.base.interrupt import explained
from ...toolkit.base.lock import locked
from ...toolkit.base.progress import progress_bar
from ...toolkit.base.reading.texts import representable
from ...toolkit.base.version import __version__
from ...toolkit.base.words import counted
from ...toolkit.media import MediaError, MediaReader, check_media, library_version
from .clustering import PEOPLE_RATIO, find_people, runs_of
from .corrections import apply_corrections, read_given, recognised_again
from .document import Document, clean_name, people_of
from .faces import FaceFinder, KnownFaces, join_faces
from .loading import Loader, Options
from .outputs import Earlier, all_there, check_files, work_path, write_files
from .pieces import Models, WorkFile, read_pieces
from .recognition import Recogniser, recognise
from .turns import VoiceTurn, cut_turns
from .voice_activity import RATE

NO_VOICE = "no voice was found"


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a recording.

    Attributes:
        document: its turns.
        written: whether files were written; otherwise they were as they should be.
        lines: what happened, for the user.
    """

    document: Document
    written: bool
    lines: list[str]


def transcribe(
    media: Path,
    out: Path,
    options: Options,
    *,
    corrected: Path | None = None,
    overwrite: bool = False,
    faces: FaceFinder | None = None,
    loader: Loader | None = None,
    command: str = "",
    notify: Callable[[str], None] = print,
) -> Result:
    """Finds who speaks when and what, and writes it to `out` and the files beside it.

    What is there already is used: with the same options a finished recording is left as it is, an unfinished one is
    continued, and a file of an earlier run that a person has changed since is taken as a correction.

    Args:
        media: a video or audio file.
        out: turns.json; .srt, .vtt, .rttm and .jsonl get the same name.
        options: how.
        corrected: a corrected .json, .srt, .vtt or .rttm; None for a changed one beside `out`, if there is one.
        overwrite: forget what is there, corrections too.
        faces: finds the face that speaks in each turn; None for voices alone.
        loader: the models; None for those of the options.
        command: the command line, for the record.
        notify: called with lines as they come up.

    Raises:
        UserError: an option, the recording, a file at `out`, or the corrections.
    """
    options = dataclasses.replace(options, names=tuple(clean_name(name, "--names") for name in options.names))
    if len(set(options.names)) < len(options.names):
        raise UserError("--names: a name is there twice; leave it out, or tell the two people apart")
    if corrected is not None and overwrite:
        raise UserError("--corrected: keeps the earlier turns, which --overwrite replaces; leave one of them out")
    _check_media(media)
    # Its place is checked before it is locked: the lock needs the folder.
    check_files(out, media, corrected, overwrite)
    with ExitStack() as stack:
        stack.enter_context(locked(out, "transcribe"))
        earlier = check_files(out, media, corrected, overwrite)
        about = {"file": representable(media.name), "sha256": file_sha256(media), "audio_track": options.audio_track}
        loader = loader or Loader(options)
        if earlier.read is not None and not overwrite:
            chosen = corrected or _changed(earlier)
            same = earlier.read.document.media.get("sha256") == about["sha256"]
            if chosen is not None:
                if not same:
                    raise UserError(f"{chosen}: {out} is of another recording than {media}; name its own --out")
                return _correct(media, out, options, chosen, earlier, faces, loader, notify)
            if same and earlier.read.document.request == options.request():
                # A run that was killed between its last two steps leaves its work beside its turns.
                _work(out, options, about, earlier.read.document.provenance.get("models")).discard()
                result = _as_it_is(media, out, options, earlier.read.document)
                return _with_faces(media, out, result, faces)
            if earlier.read.document.corrected:
                how = "with other options" if same else "from another recording"
                raise UserError(
                    f"{out}: has corrections, and was made {how}; choose another --out, or forget them with --overwrite"
                )
        elif corrected is not None:
            raise UserError(
                f"--corrected {corrected}: there are no earlier turns at {out} to compare it with; name their --out, "
                "or pass the file to predict as --transcript"
            )
        models = loader.models()
        samples = read_samples(media, options.audio_track)
        about["duration"] = round(len(samples) / RATE, 3)
        document, lines = _find(samples, out, options, models, about, notify)
        document.provenance["command"] = command
        # Before the faces are looked for, which takes long as well: a run that is killed there continues with them.
        write_files(out, document, media, None if earlier.read is None else earlier.read.document)
        work_path(out).unlink(missing_ok=True)
        return _with_faces(media, out, Result(document, True, lines), faces)


def _check_media(media: Path) -> None:
    if not media.is_file():
        raise UserError(f"{media}: no such file")
    try:
        check_media(media)
    except MediaError as error:
        raise UserError(f"{media}: is no recording ({error}); name a video or audio file") from None


def read_samples(media: Path, track: int | None) -> np.ndarray:
    """The audio of a recording: float32 (n,), mono at 16 kHz, on the file's clock.

    Raises:
        UserError: there is no audio track, or the file is damaged or truncated.
    """
    try:
        with MediaReader(media, track=track) as reader:
            if not reader.has_audio:
                raise UserError(f"{media}: has no audio track, so that there are no voices")
            reader.finish()
            samples, truncated = reader.samples, reader.truncated
    except MediaError as error:
        raise UserError(f"{media}: {error}") from None
    if truncated:
        raise UserError(f"{media}: {truncated}; repair it, or cut it there")
    if samples is None or not len(samples):
        raise UserError(f"{media}: its audio track is empty")
    return samples


def _changed(earlier: Earlier) -> Path | None:
    if len(earlier.changed) > 1:
        names = " and ".join(path.name for path in earlier.changed)
        raise UserError(
            f"{earlier.changed[0].parent}: {names} were changed by hand; say which one counts with --corrected, or "
            "forget them with --overwrite"
        )
    return earlier.changed[0] if earlier.changed else None


def _work(out: Path, options: Options, about: Mapping[str, Any], models: object) -> WorkFile:
    key = {"media": about["sha256"], "track": options.audio_track, "language": options.language, "models": models}
    return WorkFile(work_path(out), key)


def _find(
    samples: np.ndarray,
    out: Path,
    options: Options,
    models: Models,
    about: dict[str, Any],
    notify: Callable[[str], None],
) -> tuple[Document, list[str]]:
    provenance = models.provenance()
    work = _work(out, options, about, provenance)
    kept = f"what is done is kept in {work.path}; the same command continues there"
    with explained(f"interrupted: {kept}"), progress_bar("seconds transcribed", round(len(samples) / RATE)) as bar:
        begun = False

        def done(seconds: float) -> None:
            nonlocal begun
            if not begun and seconds:
                notify(f"{work.path}: continuing after {seconds:.0f} s")
            (bar.at(round(seconds), bar.total) if begun else bar.resume(round(seconds)))
            begun = True

        pieces = read_pieces(models, samples, work, options.language, done)
    spans = [span for piece in pieces for span in piece.spans]
    words = [word for piece in pieces for word in piece.words]
    windows = [window for piece in pieces for window in piece.windows]
    parts = [piece.vectors for piece in pieces if len(piece.vectors)]
    vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    people = find_people(windows, vectors, options.speakers, models.voices.distance)
    runs = runs_of(spans, windows, vectors, people)
    turns = cut_turns(runs, words, options.names, options.pause)
    language = pieces[-1].language if pieces else options.language
    rule = "given" if options.speakers else "distance of the model" if people.measured else "distance in the recording"
    document = Document(
        about,
        turns,
        language if turns else None,
        "" if turns else NO_VOICE,
        request=options.request(),
        provenance={
            "erc_toolkit": __version__,
            "ffmpeg": library_version(),
            "models": provenance,
            "people": {
                "rule": rule,
                "distance": None if people.distance is None else round(people.distance, 4),
                **({} if people.measured or options.speakers else {"ratio": PEOPLE_RATIO}),
            },
        },
    )
    lines = _about_names(people_of(turns), options)
    if options.speakers is not None and turns and len(people_of(turns)) < options.speakers:
        found = counted(len(people_of(turns)), "voice")
        lines.append(f"--speakers {options.speakers}: only {found} could be told apart")
    return document, lines


def _about_names(people: dict[str, tuple[int, float]], options: Options) -> list[str]:
    lines = []
    if extra := options.names[len(people) :]:
        found = counted(len(people), "person") if len(people) == 1 else f"{len(people)} people"
        lines.append(f"--names: {found} found; not used: {', '.join(extra)}")
    if options.names and len(options.names) < len(people):
        rest = ", ".join(list(people)[len(options.names) :])
        lines.append(f"--names: {len(people)} people found; without a name: {rest}")
    return lines


def _add_faces(document: Document, media: Path, faces: FaceFinder) -> None:
    joined = join_faces(media, document.turns, faces)
    document.turns, document.faces = joined.turns, joined.tracks
    document.faces_without_voice = joined.without_voice
    document.provenance["faces"] = faces.provenance()


def _with_faces(media: Path, out: Path, result: Result, faces: FaceFinder | None) -> Result:
    """With the faces of the turns, unless they have been found in the same way before."""
    document = result.document
    if faces is None or not document.turns or document.provenance.get("faces") == faces.provenance():
        return result
    _add_faces(document, media, faces)
    write_files(out, document, media, document)
    lines = result.lines if result.written else []  # "nothing to do" is not so
    return Result(document, True, lines)


def _as_it_is(media: Path, out: Path, options: Options, document: Document) -> Result:
    """A finished recording: nothing is done, except that people get other names and missing files are written."""
    people = people_of(document.turns)
    named = any("speaker" in turn.edited for turn in document.turns) or document.corrected
    new = dict(zip(people, options.names, strict=False))
    new = {old: name for old, name in new.items() if old != name}
    if new and not named:
        if taken := set(new.values()) & (set(people) - set(new)):
            raise UserError(f"--names: {taken.pop()} is the name of another person in {out}")
        document.turns = [
            dataclasses.replace(turn, speaker=new.get(turn.speaker, turn.speaker)) for turn in document.turns
        ]
        document.faces = {new.get(name, name): tracks for name, tracks in document.faces.items()}
        write_files(out, document, media, document)
        return Result(document, True, _about_names(people, options))
    lines = [f"--names: not used, since {out} was corrected by hand; change the names there"] if new else []
    if not all_there(out, document):
        write_files(out, document, media, document)
        return Result(document, True, lines)
    return Result(document, False, [*lines, f"{out}: is of this recording and these options; nothing to do"])


def _correct(
    media: Path,
    out: Path,
    options: Options,
    chosen: Path,
    earlier: Earlier,
    faces: FaceFinder | None,
    loader: Loader,
    notify: Callable[[str], None],
) -> Result:
    assert earlier.read is not None
    others = [path for path in earlier.changed if not (path.exists() and chosen.exists() and path.samefile(chosen))]
    if others:
        raise UserError(f"{others[0]}: was changed by hand too, and would be lost; take one correction at a time")
    document = earlier.read.document
    before = document.turns
    result = apply_corrections(before, read_given(chosen, before, earlier.read.ids), chosen.suffix.lower(), chosen)
    turns = list(result.turns)
    if result.again:
        recogniser = loader.recogniser()
        samples = read_samples(media, options.audio_track or document.media.get("audio_track"))
        with progress_bar("turns recognised again", len(result.again)) as bar:
            for number in result.again:
                turns[number] = _heard(recogniser, samples, turns[number], document.language or options.language)
                bar.advance()
        document.provenance["recognised_again"] = recogniser.provenance()
    document.turns = turns
    document.reason = "" if turns else document.reason or "all turns were deleted"
    if faces is not None and turns:
        if document.provenance.get("faces") == faces.provenance():
            every = [*document.faces_without_voice, *(track for own in document.faces.values() for track in own)]
            faces = KnownFaces(faces, before, every)
        _add_faces(document, media, faces)
    else:
        _keep_faces(document)
    # A turn that was deleted in the JSON itself leaves nothing to compare.
    if result.changes or earlier.read.changed:
        document.provenance["corrected"] = True
    write_files(out, document, media, document)
    said = ", ".join(result.changes) or ("fields or turns" if earlier.read.changed else "nothing has changed")
    lines = [f"{chosen}: {said}"]
    if any(chosen.samefile(out.with_suffix(e)) for e in (".json", ".srt", ".vtt", ".rttm") if chosen.exists()):
        lines.append(f"{chosen}: written anew with its corrections, like the files beside it")
    return Result(document, True, lines)


def _heard(recogniser: Recogniser, samples: np.ndarray, turn: VoiceTurn, language: str | None) -> VoiceTurn:
    if turn.start * RATE >= len(samples):
        raise UserError(f"the turn at {turn.start:.3f} s begins after the end of the recording; correct its times")
    words, _ = recognise(recogniser, samples, [(turn.start, min(turn.end, len(samples) / RATE))], language)
    return recognised_again(turn, words)


def _keep_faces(document: Document) -> None:
    """The people's face tracks under their new names, as far as turns still have them."""
    if not document.faces:
        return
    tracks = {track: name for name, found in document.faces.items() for track in found}
    new: dict[str, list[int]] = {}
    for track in tracks:
        speakers = [turn.speaker for turn in document.turns if turn.face == track]
        if speakers:
            new.setdefault(max(dict.fromkeys(speakers), key=speakers.count), []).append(track)
    document.faces = new
