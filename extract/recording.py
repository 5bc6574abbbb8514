"""A new recording with its transcript: the turns of a dialogue, and their features, extracted as for a trained run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..toolkit.base.device import pick_device
from ..toolkit.base.errors import UserError
from ..toolkit.base.precision import slowness
from ..toolkit.base.reading.plain_json import text_problem
from ..toolkit.base.reading.plain_numbers import shown
from ..toolkit.base.reading.texts import read_text, representable
from ..toolkit.base.words import main_reason
from ..toolkit.manifest import MODALITIES, Manifest, manifest_from_rows
from ..toolkit.media import media_duration
from .encoders.option import option_specs
from .encoders.registry import Registered, extractors, find_extractor, own_options
from .encoders.selection import FEATURE_OPTIONS, Options
from .run.assembly import NothingFound
from .run.engine import extract
from .run.provenance import shared_options
from .run.runtime import runtime_here
from .spans import Fault
from .transcripts.cues import Cue
from .transcripts.json_forms import read_json_turns
from .transcripts.speakers import split_speakers
from .transcripts.subtitles.files import ENDINGS, read_turns
from .transcripts.tables import looks_like_labels, read_rttm, read_table_of_turns
from .transcripts.turns import UNKNOWN, Transcript, Turn, Unit, are_ms


def read_recording(
    media: Path,
    transcript: Path,
    labels: Sequence[str],
    speakers: Sequence[str] = (),
    *,
    time_unit: Unit | None = None,
    columns: Sequence[str] = (),
) -> Manifest:
    """A manifest of one dialogue: the turns of the transcript, with their spans of the recording.

    Args:
        media: a video or audio file, or a link to one.
        transcript: subtitles (`transcripts.subtitles.files.ENDINGS`), a table (.csv, .tsv, or .txt with tabs), JSON
            (.json, .jsonl), or RTTM (.rttm); with start, end, speaker and text of each turn.
        labels: names in index order, for the header.
        speakers: the only names that count as speakers in texts; empty for those that the texts make likely.
        time_unit: the unit of times that are plain numbers, "s" or "ms"; None for what the names of columns or the
            form of a known speech recogniser say, otherwise seconds.
        columns: names of the columns in order, for a table without a header.

    Raises:
        UserError: a missing file, a transcript that cannot be read (names file and line), or one whose turns lie beyond
            the end of the recording.
    """
    if not media.is_file():
        raise UserError(f"{media}: no such file")
    # What a link points to, and the link's name for the turns.
    target, name = media.resolve(), representable(media.stem) or "recording"
    if text_problem(str(target)):
        raise UserError(f"{target}: the name is not UTF-8; rename the file, or the folder")
    duration = media_duration(target)
    found = transcript_turns(transcript, set(speakers) or None, time_unit, tuple(columns), duration)
    manifest = manifest_of_turns(transcript, found, labels, name, target, duration)
    spans = [(u.start or 0.0, u.end or 0.0) for u in manifest.utterances]
    fault = Fault.of(spans, duration)
    if fault is not None and (fault.refuses or (found.assumed and fault.fits_ms)):
        remedy = (
            "--time-unit ms reads them as milliseconds, which fit" if fault.fits_ms else "is it another recording's?"
        )
        raise UserError(f"{transcript}: {fault.describe('turn')} of {media}; {remedy}")
    if fault is not None:
        manifest.notes.append(
            f"{transcript.name}: {fault.describe('turn')} of {target.name}; audio and video are masked there"
        )
    return manifest


def manifest_of_turns(
    transcript: Path, found: Transcript, labels: Sequence[str], name: str, target: Path, duration: float | None
) -> Manifest:
    """The turns of a transcript in order of their start, as a dialogue with a name.

    Raises:
        UserError: there are none, or their unit is in doubt, or one cannot be used.
    """
    if not found.turns:
        raise UserError(f"{transcript}: contains no turn with text")
    if found.assumed and duration is None and are_ms([(t["start"], t["end"]) for t in found.turns], None):
        raise UserError(
            f"{transcript}: half of the turns last longer than a minute, if the times are seconds; say which unit they "
            "have with --time-unit s or --time-unit ms"
        )
    turns = sorted(found.turns, key=lambda turn: turn["start"])
    rows = [
        (i + 1, {"id": f"{name}_{i}", "dialogue": name, "split": "test", "media": target.name, **turn})
        for i, turn in enumerate(turns)
    ]
    return manifest_from_rows(transcript, rows, name, list(labels), target.parent, found.notes, unit="turn")


def transcribe_recording(
    recording: Path,
    out: Path,
    options: Mapping[str, Any],
    *,
    overwrite: bool = False,
    command: str = "",
    notify: Callable[[str], None] = print,
) -> None:
    """Finds the turns of a recording and writes them to `out`, a JSON file that `read_recording` reads.

    Args:
        recording: a video or audio file.
        out: the file, which is used if it is this recording's and the options are the same, corrected or not.
        options: of `erc_toolkit.extract.diarization.loading.Options`, by name.
        overwrite, command, notify: as for `erc_toolkit.extract.diarization.transcribe.transcribe`.

    Raises:
        UserError: a package, a model or the recording cannot be used, or nobody speaks in it.
    """
    from .diarization.loading import Options as TurnOptions
    from .diarization.transcribe import transcribe

    result = transcribe(recording, out, TurnOptions(**options), overwrite=overwrite, command=command, notify=notify)
    for line in result.lines:
        notify(line)
    if not result.document.turns:
        raise UserError(f"{recording}: {result.document.reason}, so that there are no turns to classify")


def transcript_turns(
    transcript: Path, speakers: set[str] | None, unit: Unit | None, columns: tuple[str, ...], duration: float | None
) -> Transcript:
    """What a transcript contains; arguments as for `read_recording`, the recording's duration None if unknown.

    Raises:
        UserError: it cannot be read; names file and line.
    """
    ending = transcript.suffix.lower()
    if ending in ENDINGS:
        cues, _, notes = read_turns(transcript, speakers)
        return Transcript([_turn(cue) for cue in cues], notes=notes)
    text, note = read_text(transcript, "transcript")
    if ending in (".csv", ".tsv") or (ending == ".txt" and looks_like_labels(text)):
        found = read_table_of_turns(text, transcript, unit, columns, duration)
    elif ending in (".json", ".jsonl"):
        found = read_json_turns(text, transcript, unit, duration, lines=ending == ".jsonl")
    elif ending == ".rttm":
        found = read_rttm(text, transcript)
    else:
        others = ", ".join(ENDINGS[2:])
        raise UserError(
            f"{transcript}: unknown transcript format {shown(ending)}; use .srt, .vtt, .csv or .json; or .tsv, .jsonl, "
            f".rttm, or .txt with tabs between start, end and text; or {others}"
        )
    if note:
        found.notes.insert(0, note)
    if all(turn["speaker"] == UNKNOWN for turn in found.turns) and any(turn["text"] for turn in found.turns):
        # No field names a speaker: the texts may, as in subtitles.
        silent = [turn for turn in found.turns if not turn["text"]]
        cues = [Cue(turn["start"], turn["end"], "", turn["text"]) for turn in found.turns if turn["text"]]
        split = split_speakers(cues, speakers)
        found.turns = [*silent, *map(_turn, split.turns)]
        found.notes += [f"{transcript.name}: {note}" for note in split.notes]
    return found


def _turn(cue: Cue) -> Turn:
    return {"start": cue.start, "end": cue.end, "speaker": cue.speaker or UNKNOWN, "text": cue.text}


def recorded_options(modality: str, recorded: Mapping[str, object]) -> Options:
    """The options of a modality as recorded by a run or a package, checked in the same way as on the command line.

    Raises:
        UserError: an option that does not affect features, or an invalid value; or the features were extracted by
            another package's extractor, which is not installed.
    """
    where = f"the run's {modality} features"
    specs, allowed = option_specs(Options), FEATURE_OPTIONS[modality]
    if modality == "visual" and "speaker_choice" not in recorded:  # recorded before there was another choice
        recorded = {**recorded, "speaker_choice": "motion"}
    chosen: dict[str, object] = {}
    own: dict[str, object] = {}
    name = recorded.get("extractor")
    if name is not None:
        registered = _recorded_extractor(where, modality, name, recorded.get("extractor_package"))
        own = own_options(registered.name, recorded)
        registered.options(own)
        allowed = shared_options(modality)
        chosen = {
            "extractors": (registered.name,),
            "extractor_options": {f"{registered.name}.{key}": value for key, value in own.items()},
        }
    for key, value in recorded.items():
        if name is not None and (key in ("extractor", "extractor_package") or key.removeprefix(f"{name}.") in own):
            continue
        # A package comes from someone else: it may decide how features are extracted, but not where to write crops.
        if key not in allowed:
            raise UserError(
                f"{where}: the recorded option {str(key)[:40]!r} does not affect them; the record is damaged"
            )
        try:
            chosen[key] = specs[key].parsed(value)
        except ValueError as error:
            raise UserError(f"{where}: {key}: {error}") from None
    return Options(modalities=(modality,), **chosen)  # pyright: ignore[reportArgumentType]


def _recorded_extractor(where: str, modality: str, name: object, package: object) -> Registered:
    known = extractors()
    if not isinstance(name, str) or name not in known:
        source = f" of package {str(package)[:60]}" if package else ""
        raise UserError(
            f"{where}: extracted with {str(name)[:60]!r}{source}, which is not installed; install that package"
        )
    registered = find_extractor(name)
    if registered.built_in or registered.cls.modality != modality:
        raise UserError(
            f"{where}: {registered} is built in, or extracts {registered.cls.modality}; the record is damaged"
        )
    return registered


def options_here(modality: str, options: Options, device: str, notify: Callable[[str], None]) -> Options:
    """The recorded options of a modality on a device that may lack their precision or runtime; says so to `notify`."""
    if options.precision == "tf32" and pick_device(device).type != "cuda":
        # Only CUDA devices round to TF32. float32 differs from it by that rounding.
        notify(f"{modality}: the model was trained on features in tf32, which needs CUDA; using float32")
        options = dataclasses.replace(options, precision="float32")
    if line := slowness(options.precision, pick_device(device), f"{modality}, which was extracted in"):
        notify(f"note: {line}")
    return dataclasses.replace(runtime_here(options, pick_device(device), notify), device=device)


def extract_recording(
    manifest: Manifest,
    out: Path,
    recorded: Mapping[str, Mapping[str, object]],
    *,
    device: str = "auto",
    audio_track: int | None = None,
    alone: bool = False,
    command: str = "",
    notify: Callable[[str], None] = print,
) -> dict[str, list[str]]:
    """Extracts a recording's features with the options that were recorded for a run's features.

    Args:
        manifest: from `read_recording`.
        out: the store to write, or to resume.
        recorded: for each modality, the options of `erc_toolkit.extract.encoders.selection.Options` that its features
            depend on; those of a second extraction of audio under "audio 2", and so on.
        device: for the encoders.
        audio_track: number of the audio track, from 1; None for the recording's default one.
        alone: extract each turn by itself, as from a stream; see `erc_toolkit.extract.run.engine.extract`.
        command: the command line, for the record.
        notify: called with one line per encoder.

    Returns:
        For each modality that the recording lacks entirely, the reason of every turn.

    Raises:
        UserError: a model that cannot be loaded, or a recording that has none of the modalities.
    """
    absent: dict[str, list[str]] = {}
    # All of them before the first is extracted, as a record may be refused.
    wanted = [
        (m, recorded_options(m, options))
        for m in MODALITIES
        for key, options in recorded.items()
        if key.partition(" ")[0] == m
    ]
    if alone and any(options.describe != "none" for _, options in wanted):
        raise UserError(
            "the model reads texts with a sentence about the voice against all turns of the speaker, later ones too; "
            "leave --causal out"
        )
    for modality, options in wanted:
        if modality in absent:
            continue
        here = dataclasses.replace(options_here(modality, options, device, notify), audio_track=audio_track)
        try:
            extract(manifest, out, here, command=command, other_corpus=True, alone=alone, notify=notify)
        except NothingFound as nothing:
            absent[modality] = nothing.reasons
            notify(f"{modality}: absent in this recording ({main_reason(nothing.reasons)})")
    needed = list(dict.fromkeys(modality for modality, _ in wanted))
    if len(absent) == len(needed):
        raise UserError(
            f"{manifest.path(manifest.utterances[0].media or '')}: has none of {', '.join(needed)}, which the model "
            "needs; check the recording"
        )
    return absent
