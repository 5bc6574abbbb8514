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
from typing import Literal

from ..base.disk import disk_faults
from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.lock import locked
from ..base.outputs import check_folder, is_stamped, stamped
from ..base.reading.plain_json import parse_json
from ..base.reading.texts import representable
from ..base.words import counted
from ..store import FeatureStore, is_extracted
from .halves import load_extraction, load_models
from .turns import FILES, Turn, write_turns

STORE, REPORT = "features.h5", "report.html"


class Predictor:
    """A trained run that classifies new recordings, with the same extraction as its training features.

    Args:
        folder: a folder written by `erc-toolkit train` or `erc-toolkit package`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        models: options of `erc-toolkit extract` that replace the recorded ones, e.g.
            {"text_model": "/models/roberta"} for a folder that was moved. Different weights are refused.
        notify: called with lines about what is used; by default nothing is reported.

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
        self.folder, self.device, self._notify = Path(folder), device, notify
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
        self._trained = models_half.TurnClassifier(self.folder, device, notify)

    def predict(
        self,
        recording: str | os.PathLike,
        transcript: str | os.PathLike,
        out: str | os.PathLike | None = None,
        *,
        causal: bool = False,
        speakers: Sequence[str] = (),
        time_unit: Literal["s", "ms"] | None = None,
        columns: Sequence[str] = (),
        audio_track: int | None = None,
        overwrite: bool = False,
        command: str = "",
    ) -> list[Turn]:
        """Classifies the emotion of each turn of a recording.

        Args:
            recording: a video or audio file.
            transcript: its turns: .srt, .vtt, .csv, .json and others (docs/how-to/recordings.md), with times and
                speakers.
            out: folder for turns.json, turns.csv, turns.srt, turns.vtt, report.html and the features; None to write
                nothing.
            causal: classify each turn from the turns up to it.
            speakers: for subtitles, the only names recognised as speakers.
            time_unit: "s" or "ms", the unit of times that are plain numbers; None for what the names of columns or the
                form of a known speech recogniser say, otherwise seconds.
            columns: names of the columns in order, for a table without a header.
            audio_track: number of the recording's audio track, from 1; None for its default one.
            overwrite: replace files of these names in `out` that no prediction has written.
            command: the command line, recorded as provenance.

        Raises:
            UserError: a file cannot be read, or contains nothing that the model can use; the turns lie beyond the end
                of the recording; or `out` has files of these names that no prediction has written.
        """
        if out is not None:
            names, inputs = (*FILES, REPORT, STORE), [Path(recording), Path(transcript), self.folder]
            check_folder(Path(out), names, inputs, earlier=is_prediction, overwrite=overwrite)
        extraction = load_extraction()
        manifest = extraction.read_recording(
            Path(recording), Path(transcript), self.labels, speakers, time_unit=time_unit, columns=columns
        )
        for note in manifest.notes:
            self._notify(f"note: {note}")
        with ExitStack() as stack:
            if out is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                folder = Path(out)
                stack.enter_context(disk_faults(folder))
                stack.enter_context(locked(folder, "predict", parents=True))
                folder.mkdir(exist_ok=True)
                if overwrite and not is_prediction(folder):
                    for name in names:
                        (folder / name).unlink(missing_ok=True)
            absent = extraction.extract_recording(
                manifest,
                folder / STORE,
                self.extraction,
                device=self.device,
                audio_track=audio_track,
                command=command,
                notify=self._notify,
            )
            with FeatureStore.open(folder / STORE) as store:
                turns, batch = self._trained.turns(store, causal)
                if out is not None:
                    about = {
                        "recording": representable(str(recording)),
                        "transcript": representable(str(transcript)),
                        "run": representable(str(self.folder)),
                        "causal": causal,
                        **self._trained.description,
                        "absent": absent,
                        "features_sha256": store.content_hash,
                    }
                    context = "from the turns up to it" if causal else "from the whole conversation"
                    facts = [
                        ("recording", representable(str(recording))),
                        ("transcript", f"{representable(str(transcript))}, {counted(len(turns), 'turn')}"),
                        ("run", representable(str(self.folder))),
                        ("each turn", context),
                    ]
                    write_turns(turns, folder, about)
                    page = self._trained.page(representable(Path(recording).name), turns, batch, facts, causal)
                    write_atomically(folder / REPORT, stamped(page, "predict").encode("utf-8"))
            return turns


def is_prediction(folder: Path) -> bool:
    """Whether the files that `Predictor.predict` would replace in a folder were written by it; some may be missing."""
    there = [name for name in FILES if os.path.lexists(folder / name)]
    page, store = folder / REPORT, folder / STORE
    return (
        (not there or _is_ours(folder / FILES[0]))
        and (not os.path.lexists(page) or is_stamped(page, "predict"))
        and (not os.path.lexists(store) or is_extracted(store))
    )


def _is_ours(turns: Path) -> bool:
    try:
        about = parse_json(turns.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and {"run", "features_sha256", "turns"} <= set(about)
