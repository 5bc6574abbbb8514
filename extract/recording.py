"""A new recording with its transcript: the turns of a dialogue, and their features, extracted as for a trained run."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ..toolkit.base.device import pick_device
from ..toolkit.base.errors import UserError
from ..toolkit.manifest import MODALITIES, Manifest, manifest_from_rows
from .encoders.option import option_specs
from .encoders.registry import Registered, extractors, find_extractor, own_options
from .encoders.selection import FEATURE_OPTIONS, Options
from .run.assembly import NothingFound
from .run.engine import extract
from .run.extractors import shared_options
from .transcripts.cues import UNKNOWN
from .transcripts.subtitles import ENDINGS, read_turns

# Accepted names of a table's columns or an object's keys, in order of precedence.
_KEYS = {
    "start": ("start", "start_s", "begin", "starttime", "start_time"),
    "end": ("end", "end_s", "stop", "endtime", "end_time"),
    "speaker": ("speaker", "name", "who"),
    "text": ("text", "utterance", "transcript", "sentence"),
}


class _Turn(TypedDict):
    start: float
    end: float
    speaker: str
    text: str


_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)", re.ASCII)


def read_recording(media: Path, transcript: Path, labels: Sequence[str], speakers: Sequence[str] = ()) -> Manifest:
    """A manifest of one dialogue: the turns of the transcript, with their spans of the recording.

    Args:
        media: a video or audio file.
        transcript: subtitles (`transcripts.subtitles.ENDINGS`: .srt, .vtt, .ass, .ttml, .smi and others), a table
            (.csv) or JSON (.json; a list of turns, or an object with them under "segments", "turns" or "utterances")
            with start and end in seconds or as H:M:S, speaker and text.
        labels: names in index order, for the header.
        speakers: for subtitles, the only names that count as speakers; empty for those that the text makes likely.

    Raises:
        UserError: a missing file, or a transcript that cannot be read; names file and line.
    """
    if not media.is_file():
        raise UserError(f"{media}: no such file")
    notes: list[str] = []
    if transcript.suffix.lower() in ENDINGS:
        cues, _, notes = read_turns(transcript, set(speakers) or None)
        turns: list[_Turn] = [
            {"start": cue.start, "end": cue.end, "speaker": cue.speaker or UNKNOWN, "text": cue.text} for cue in cues
        ]
    else:
        turns = _turns(transcript)
    if not turns:
        raise UserError(f"{transcript}: contains no turn with text")
    turns.sort(key=lambda turn: turn["start"])
    name = media.stem or "recording"
    rows = [
        (i, {"id": f"{name}_{i}", "dialogue": name, "split": "test", "media": media.name, **turn})
        for i, turn in enumerate(turns)
    ]
    return manifest_from_rows(transcript, rows, name, list(labels), media.resolve().parent, notes, unit="turn")


def _turns(transcript: Path) -> list[_Turn]:
    try:
        text = transcript.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{transcript}: no such transcript") from None
    except UnicodeDecodeError:
        raise UserError(f"{transcript}: not UTF-8; save it in that encoding") from None
    except OSError as error:
        raise UserError(f"{transcript}: cannot be read ({error.strerror})") from None
    ending = transcript.suffix.lower()
    if ending == ".csv":
        return _of_table(text, transcript)
    if ending == ".json":
        return _of_json(text, transcript)
    others = ", ".join(ENDINGS[2:])
    raise UserError(
        f"{transcript}: unknown transcript format {ending!r}; use .srt, .vtt, .csv or .json, or one of {others}"
    )


def _of_table(text: str, source: Path) -> list[_Turn]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise UserError(f"{source}: not a table ({error})") from None
    return [_turn(row, f"{source}, row {i}") for i, row in enumerate(rows, 1)]


def _of_json(text: str, source: Path) -> list[_Turn]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not JSON ({error})") from None
    if isinstance(content, dict):
        content = next((content[key] for key in ("segments", "turns", "utterances") if key in content), None)
    if not isinstance(content, list):
        raise UserError(f"{source}: must be a list of turns, or an object with one under segments, turns or utterances")
    for i, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise UserError(f"{source}, turn {i}: not an object with start, end, speaker and text")
    return [_turn(row, f"{source}, turn {i}") for i, row in enumerate(content, 1)]


def _turn(row: Mapping[str, object], where: str) -> _Turn:
    fields = {str(k).strip().lower(): v for k, v in row.items() if k is not None}

    def given(what: str) -> Any:
        return next((fields[key] for key in _KEYS[what] if fields.get(key) not in (None, "")), None)

    start, end = (_seconds(given(what), f"{where}, {what}") for what in ("start", "end"))
    speaker, text = given("speaker"), given("text")
    return {
        "start": start,
        "end": end,
        "speaker": str(speaker).strip() or UNKNOWN if speaker is not None else UNKNOWN,
        "text": "" if text is None else str(text).strip(),
    }


def _seconds(value: object, where: str) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str):
        if match := _CLOCK.fullmatch(value.strip()):
            number = int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3].replace(",", "."))
        else:
            try:
                number = float(value)
            except ValueError:
                pass
    if not (math.isfinite(number) and number >= 0):
        raise UserError(f"{where}: {value!r} is not a time; write seconds, or H:M:S")
    return number


def recorded_options(modality: str, recorded: Mapping[str, object]) -> Options:
    """The options of a modality as recorded by a run or a package, checked in the same way as on the command line.

    Raises:
        UserError: an option that does not affect features, or an invalid value; or the features were extracted by
            another package's extractor, which is not installed.
    """
    where = f"the run's {modality} features"
    specs, allowed = option_specs(Options), FEATURE_OPTIONS[modality]
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


def extract_recording(
    manifest: Manifest,
    out: Path,
    recorded: Mapping[str, Mapping[str, object]],
    *,
    device: str = "auto",
    command: str = "",
    notify: Callable[[str], None] = print,
) -> dict[str, str]:
    """Extracts a recording's features with the options that were recorded for a run's features.

    Args:
        manifest: from `read_recording`.
        out: the store to write, or to resume.
        recorded: for each modality, the options of `erc_toolkit.extract.encoders.selection.Options` that its features
            depend on.
        device: for the encoders.
        command: the command line, for the record.
        notify: called with one line per encoder.

    Returns:
        For each modality that the recording lacks entirely, the reason.

    Raises:
        UserError: a model that cannot be loaded, or a recording that has none of the modalities.
    """
    absent: dict[str, str] = {}
    for modality in (m for m in MODALITIES if m in recorded):
        options = recorded_options(modality, recorded[modality])
        if options.precision == "tf32" and pick_device(device).type != "cuda":
            # Only CUDA devices round to TF32. float32 differs from it by that rounding.
            notify(f"{modality}: the model was trained on features in tf32, which needs CUDA; using float32")
            options = dataclasses.replace(options, precision="float32")
        try:
            extract(manifest, out, dataclasses.replace(options, device=device), command=command, notify=notify)
        except NothingFound as nothing:
            absent[modality] = nothing.reason
            notify(f"{modality}: absent in this recording ({absent[modality]})")
    if set(absent) == set(recorded):
        raise UserError(
            f"{manifest.path(manifest.utterances[0].media or '')}: has none of {', '.join(recorded)}, which the model "
            "needs; check the recording"
        )
    return absent
