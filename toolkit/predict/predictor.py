"""Applying a trained run, or a package of one, to new recordings.

    from erc_toolkit.toolkit.predict.predictor import Predictor
    predictor = Predictor("RUN_OR_PACKAGE")
    turns = predictor.predict("clip.mp4", "clip.srt")

Extraction and model are in packages that do not import each other (`erc_toolkit.toolkit.predict.halves`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ..base.disk import disk_faults
from ..base.errors import UserError
from ..base.files import require_space, write_atomically
from ..base.lock import locked
from ..base.outputs import check_folder, is_stamped, stamped
from ..base.reading.plain_json import parse_json
from ..base.reading.texts import representable
from ..base.words import counted, main_reason
from ..media import MediaError, check_media, has_pictures
from ..store import FeatureStore, is_extracted
from .halves import load_extraction, load_models
from .turns import FILES, Media, Turn, write_turns

STORE, REPORT = "features.h5", "report.html"
TRANSCRIPT = "transcript.json"  # of a recording that came without one
# Rows of features like the field's take up to 12 KiB; the spare ones are for the files besides them.
_BYTES_PER_TURN, _SPARE_TURNS = 1 << 14, 1 << 8


class Predictor:
    """A trained run that classifies new recordings, with the same extraction as its training features.

    Args:
        folder: a folder written by `erc-toolkit train` or `erc-toolkit package`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        models: options of `erc-toolkit extract` that replace the recorded ones, e.g.
            {"text_model": "/models/roberta"} for a folder that was moved. Different weights are refused.
        notify: called with lines about what is used; by default nothing is reported.

    Attributes:
        folder, device, notify: as above.
        labels: the run's emotions, in index order.
        extraction: for each modality, the recorded options of its features.
        trained: the model.

    Raises:
        UserError: the run is not finished, or its features cannot be extracted from a recording.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        device: str = "auto",
        models: Mapping[str, str] | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.device, self.notify = Path(folder), device, notify
        models_half = load_models()
        self.extraction, self.labels = models_half.extraction_of(self.folder, models or ())
        for name, value in (models or {}).items():
            users = [options for options in self.extraction.values() if name in options]
            if not users:
                raise UserError(
                    f"--{name.replace('_', '-')}: the run's features ({', '.join(self.extraction)}) do not use it"
                )
            for options in users:
                options[name] = value
        self.trained = models_half.TurnClassifier(self.folder, device, notify)

    def predict(
        self,
        recording: str | os.PathLike,
        transcript: str | os.PathLike | None = None,
        out: str | os.PathLike | None = None,
        *,
        causal: bool = False,
        past: int | None = None,
        speakers: Sequence[str] = (),
        learned_speakers: Mapping[str, str] | None = None,
        time_unit: Literal["s", "ms"] | None = None,
        columns: Sequence[str] = (),
        audio_track: int | None = None,
        transcription: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        command: str = "",
    ) -> list[Turn]:
        """Classifies the emotion of each turn of a recording.

        Args:
            recording: a video or audio file.
            transcript: its turns: .srt, .vtt, .csv, .json and others (docs/how-to/recordings.md), with times and
                speakers. None to find the turns, which are written to transcript.json and the files beside it in
                `out`; corrected ones are used by the next call.
            out: folder for turns.json, turns.csv, turns.srt, turns.vtt, report.html and the features; None to write
                nothing.
            causal: classify each turn from the turns up to it, and extract the features of each by itself (features
                that are in `out` already are used as they are). The numbers are those of a stream, see `live`.
            past: if causal, the number of turns before it that a turn is classified from; None for all.
            speakers: for subtitles, the only names recognised as speakers.
            learned_speakers: speaker of the recording to the speaker of the model whose learned parameters apply, e.g.
                {"Ann": "F"}. The others get those of their name, or the free ones in order of appearance, or the mean.
            time_unit: "s" or "ms", the unit of times that are plain numbers; None for what the names of columns or the
                form of a known speech recogniser say, otherwise seconds.
            columns: names of the columns in order, for a table without a header.
            audio_track: number of the recording's audio track, from 1; None for its default one.
            transcription: without a transcript, how its turns are found: `speakers` (their number), `names`,
                `language`, `asr_model`, `speaker_model`, as the options of `erc-toolkit transcribe`.
            overwrite: replace files of these names in `out` that no prediction has written.
            command: the command line, recorded as provenance.

        Raises:
            UserError: a file cannot be read, or contains nothing that the model can use; the turns lie beyond the end
                of the recording; a speaker is not there, or not known to the model; there is no space; or `out` has
                files of these names that no prediction has written.
        """
        if out is not None:
            names, inputs = (*FILES, REPORT, STORE), [Path(recording), self.folder]
            inputs += [] if transcript is None else [Path(transcript)]
            check_folder(Path(out), names, inputs, earlier=is_prediction, overwrite=overwrite)
        _check_recording(Path(recording))
        extraction = load_extraction()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
            if transcript is None:
                transcript = folder / TRANSCRIPT
                folder.mkdir(parents=True, exist_ok=True)
                options = {**(transcription or {}), "audio_track": audio_track, "device": self.device}
                extraction.transcribe_recording(
                    Path(recording), transcript, options, overwrite=overwrite, command=command, notify=self.notify
                )
            manifest = extraction.read_recording(
                Path(recording), Path(transcript), self.labels, speakers, time_unit=time_unit, columns=columns
            )
            for note in manifest.notes:
                self.notify(f"note: {note}")
            chosen = dict(learned_speakers or {})
            taken, given = self.trained.speakers([u.speaker for u in manifest.utterances], chosen)
            if taken:
                self.notify(f"speakers: {taken}")
            if out is not None:
                stack.enter_context(disk_faults(folder))
                stack.enter_context(locked(folder, "predict", parents=True))
                folder.mkdir(exist_ok=True)
                if overwrite and not is_prediction(folder):
                    for name in names:
                        (folder / name).unlink(missing_ok=True)
                require_space(folder / STORE, (len(manifest.utterances) + _SPARE_TURNS) * _BYTES_PER_TURN)
            absent = extraction.extract_recording(
                manifest,
                folder / STORE,
                self.extraction,
                device=self.device,
                audio_track=audio_track,
                alone=causal,
                command=command,
                notify=self.notify,
            )
            with FeatureStore.open(folder / STORE) as store:
                turns, batch = self.trained.turns(store, causal, chosen, absent, past)
                if out is not None:
                    about = {
                        "recording": representable(str(recording)),
                        "transcript": representable(str(transcript)),
                        "run": representable(str(self.folder)),
                        "causal": causal,
                        **({"past": past} if causal and past is not None else {}),
                        **self.trained.description,
                        "speakers": given,
                        "absent": {modality: main_reason(reasons) for modality, reasons in absent.items()},
                        "features_sha256": store.content_hash,
                    }
                    context = "from the turns up to it" if causal else "from the whole conversation"
                    facts = [
                        ("transcript", f"{representable(Path(transcript).name)}, {counted(len(turns), 'turn')}"),
                        ("run", representable(self.folder.resolve().name)),
                        ("each turn", context),
                        *([("speakers", taken)] if taken else []),
                    ]
                    write_turns(turns, folder, about)
                    media = media_beside(Path(recording), folder)
                    page = self.trained.page(media, turns, batch, facts, causal)
                    write_atomically(folder / REPORT, stamped(page, "predict").encode("utf-8"))
            return turns


def media_beside(recording: Path, folder: Path) -> Media:
    """A recording as a page in a folder refers to it: by a relative link, so that both can be moved together."""
    try:
        way = os.path.relpath(os.path.abspath(recording), os.path.abspath(folder))
    except ValueError:  # on another drive
        link = ""
    else:
        link = quote(os.fsencode(Path(way).as_posix()), safe="/")
        if not link.startswith("."):
            link = f"./{link}"  # a name with a colon is no scheme
    return Media(representable(recording.name), link, has_pictures(recording))


def is_prediction(folder: Path) -> bool:
    """Whether the files that `Predictor.predict` would replace in a folder were written by it; some may be missing."""
    there = [name for name in FILES if os.path.lexists(folder / name)]
    page, store = folder / REPORT, folder / STORE
    return (
        (not there or _is_ours(folder / FILES[0]))
        and (not os.path.lexists(page) or is_stamped(page, "predict"))
        and (not os.path.lexists(store) or is_extracted(store))
    )


def _check_recording(recording: Path) -> None:
    """Raises a UserError if a file is there, but is no recording."""
    try:
        if recording.is_file():
            check_media(recording)
    except MediaError as error:
        raise UserError(
            f"{recording}: is no recording ({error}); name a video or audio file, and its text with --transcript"
        ) from None


def _is_ours(turns: Path) -> bool:
    try:
        about = parse_json(turns.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and {"run", "features_sha256", "turns"} <= set(about)
