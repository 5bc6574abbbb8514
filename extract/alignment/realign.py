"""The words of a corpus looked for in its audio, file by file, continued after an interruption."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...toolkit.base.interrupt import explained
from ...toolkit.base.lock import locked
from ...toolkit.base.outputs import check_output
from ...toolkit.base.progress import progress_bar
from ...toolkit.base.version import __version__
from ...toolkit.manifest import Manifest, Utterance, is_unchanged
from ...toolkit.manifest.files import write_stamped
from ...toolkit.media import SAMPLE_RATE, MediaError, MediaReader
from ..encoders.audio.opensmile_sets import silence_reason
from ..encoders.audio.resampling import resample
from ..encoders.base import AudioSpan
from ..run.media_stage import FAILED
from ..run.rows.origins import source_of
from .ctc import Emitter, align
from .faces import FaceSearch, find_faces, spoken
from .overlay import (
    CUT_END,
    CUT_START,
    FORMAT,
    LOW,
    MISMATCH,
    NO_AUDIO,
    NO_WORDS,
    TOO_LONG,
    Line,
    basis,
    content_of,
)
from .seen import NO_FACE, Seen
from .spelling import spell
from .work import COMMAND, Work, is_work, line_text, work_path

_EDGE_S = 0.05
# Frames times twice the tokens, each of which takes a byte in the alignment: three hours with 900 letters.
MOST_CELLS = 1e9
_MISMATCH = 0.1  # of --least-score


@dataclass(frozen=True)
class Options:
    """How words are looked for.

    Attributes:
        margin: seconds before and after a span in a longer file that are searched too.
        padding: seconds that are added before the first and after the last word.
        least_score: below it a span is flagged, and not applied.
        audio_track: number of the audio track, from 1; None for the default one.
    """

    margin: float = 2.0
    padding: float = 0.1
    least_score: float = 0.2
    audio_track: int | None = None


def find_words(u: Utterance, line: Line, samples: np.ndarray, emitter: Emitter, options: Options) -> Line:
    """A line with the place of an utterance's words.

    Args:
        u: the utterance.
        line: of `basis`.
        samples: float32 (n,) at 16 kHz, the audio of its file from the beginning.
        emitter: the CTC model.
        options: how.
    """
    tokens = spell(u.text, emitter.vocabulary, emitter.delimiter)
    if not tokens:
        return dataclasses.replace(line, flags={NO_WORDS: "nothing that the model can spell"})
    first, last = line.given
    lasts = len(samples) / SAMPLE_RATE
    # Without a span's start or end, the file's beginning or end is the utterance's own.
    begin = 0.0 if first is None else max(0.0, first - options.margin)
    end = lasts if last is None else min(lasts, last + (options.margin if first is not None else 0.0))
    part = samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    if reason := silence_reason(part):
        return dataclasses.replace(line, flags={NO_AUDIO: reason})
    heard = resample(AudioSpan(part, SAMPLE_RATE), emitter.rate).samples
    cells = len(heard) / emitter.rate / emitter.hop_s * (2 * len(tokens) + 1)
    if cells > MOST_CELLS:
        why = f"{len(tokens)} letters in {(end - begin) / 60:.0f} min; divide it into utterances"
        return dataclasses.replace(line, flags={TOO_LONG: why})
    emissions = emitter.emissions(heard)
    found = align(emissions, tokens, emitter.blank, emitter.hop_s)
    if found is None:
        return dataclasses.replace(line, flags={MISMATCH: f"{len(tokens)} tokens in {len(emissions)} frames"})
    flags = {}
    said = f"probability {found.score:.3f} per token"
    if found.score < options.least_score:
        flags[LOW] = said
    if found.score < _MISMATCH * options.least_score:
        flags[MISMATCH] = said
    if found.start <= _EDGE_S:
        flags[CUT_START] = f"the first word begins {found.start:.2f} s after the beginning of what was searched"
    if found.end >= end - begin - _EDGE_S:
        flags[CUT_END] = f"the last word ends {max(0.0, end - begin - found.end):.2f} s before the end of it"
    start = max(0.0, begin + found.start - options.padding)
    stop = min(lasts, begin + found.end + options.padding)
    return dataclasses.replace(
        line, start=round(start, 3), end=round(stop, 3), score=round(found.score, 4), flags=flags
    )


def realign(
    manifest: Manifest,
    out: Path,
    emitter: Emitter,
    options: Options,
    *,
    faces: FaceSearch | None = None,
    inputs: tuple[Path, ...] = (),
    overwrite: bool = False,
    notify: Callable[[str], None] = print,
) -> list[Line]:
    """Writes the overlay of a corpus.

    Lines of an unfinished run, or of the overlay at `out`, are kept if model, options, text, span and media are equal;
    their faces if also detector, choice, video and region are.

    Args:
        manifest: the corpus.
        out: the overlay (.jsonl); it appears complete or not at all.
        emitter: the CTC model.
        options: how words are looked for.
        faces: how faces are looked for; None for not at all.
        inputs: paths that are read, which are never written.
        overwrite: forget what is at `out`.
        notify: called with lines for the user.

    Raises:
        UserError: `out` cannot be written, or is held by another process.
        Interrupted: what is done is kept.
    """
    searched = faces.provenance() if faces is not None else None
    request = json.loads(json.dumps({"options": dataclasses.asdict(options), "ctc": emitter.provenance()}))
    request["faces"] = json.loads(json.dumps(searched))
    check(out, inputs, overwrite)
    work = Work(out, manifest.corpus, request)
    with locked(out, COMMAND):
        check(out, inputs, overwrite)
        done = {} if overwrite else work.earlier()
        work.begin(done.values())
        with explained(f"interrupted: what is done is kept in {work.path}; the same command continues there"):
            lines = _words(manifest, done, emitter, options, work)
            if faces is not None:
                _faces(manifest, lines, faces, work)
        if reused := sum(line == done.get(name) for name, line in lines.items()):
            notify(f"{out}: {reused} of {len(lines)} utterances are known from before")
        ordered = [lines[u.id] for u in manifest.utterances]
        header = {"erc_overlay": FORMAT, "corpus": manifest.corpus, "erc_toolkit": __version__, **request}
        write_stamped(out, header, map(line_text, ordered), COMMAND)
        work.path.unlink(missing_ok=True)
    return ordered


def _words(
    manifest: Manifest, done: dict[str, Line], emitter: Emitter, options: Options, work: Work
) -> dict[str, Line]:
    """All lines by utterance, with the places of words, file by file."""
    lines: dict[str, Line] = {}
    groups: dict[str | None, list[Utterance]] = {}
    for u in manifest.utterances:
        groups.setdefault(source_of(u, "audio")[0], []).append(u)
    with progress_bar("words", len(manifest.utterances)) as bar:
        for path, group in groups.items():
            content = "" if path is None else content_of(manifest.path(path))
            new = []
            for u in group:
                line = basis(u, content)
                if line.id in done and done[line.id].matches(line):
                    lines[line.id] = done[line.id]
                else:
                    new.append((u, line))
            if new:
                found = _of_file(manifest, path, new, emitter, options)
                lines |= {line.id: line for line in found}
                work.add(found)
            bar.advance(len(group))
    return lines


def _faces(manifest: Manifest, lines: dict[str, Line], faces: FaceSearch, work: Work) -> None:
    """Adds the speaker's face to the lines, where it is not there yet."""
    todo, contents = {}, {}
    for u in manifest.utterances:
        line = lines[u.id]
        if line.face is not None:
            new = spoken(u, line)
            path = source_of(new, "visual")[0]
            if path is not None and path not in contents:
                contents[path] = content_of(manifest.path(path))
            failed = line.flags.get(NO_FACE, "").startswith(FAILED)
            if line.face.matches(Seen.basis(new, contents.get(path, ""))) and not failed:
                continue
        todo[u.id] = line.without_face()
    with progress_bar("faces", len(lines)) as bar:
        bar.resume(len(lines) - len(todo))
        for found in find_faces(manifest, todo, faces) if todo else ():
            lines |= {line.id: line for line in found}
            work.add(found)
            bar.advance(len(found))


def check(out: Path, inputs: tuple[Path, ...], overwrite: bool) -> None:
    """Checks that the overlay may be written, before the work.

    Raises:
        UserError: it may not.
    """
    check_output(out, inputs, earlier=lambda path: is_unchanged(path, COMMAND), overwrite=overwrite)
    check_output(work_path(out), inputs, earlier=is_work, overwrite=overwrite)


def _of_file(
    manifest: Manifest, path: str | None, group: list[tuple[Utterance, Line]], emitter: Emitter, options: Options
) -> list[Line]:
    def none(reason: str) -> list[Line]:
        return [dataclasses.replace(line, flags={NO_AUDIO: reason}) for _, line in group]

    if path is None:
        return none("no media file in the manifest")
    channels = tuple(dict.fromkeys(u.audio_channel for u, _ in group))
    try:
        with MediaReader(manifest.path(path), track=options.audio_track, channels=channels) as media:
            media.finish()
    except MediaError as error:
        return none(str(error))
    found = []
    for u, line in group:
        sound = media.sound.get(u.audio_channel)
        if sound is None or sound.missing:
            reason = "no audio track" if sound is None else sound.missing
            found.append(dataclasses.replace(line, flags={NO_AUDIO: reason}))
        else:
            found.append(find_words(u, line, sound.samples, emitter, options))
    return found
