"""A trained run, or a package of one, on new recordings.

    from erc_toolkit.toolkit.predict.predictor import Predictor
    predictor = Predictor("RUN_OR_PACKAGE")
    turns = predictor.predict("clip.mp4", "clip.srt")

Extraction and model live in packages that know nothing of each other; they are looked up here by name, as the command
line's subcommands are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from ..base.errors import UserError
from ..base.files import write_atomically
from ..store import FeatureStore
from .turns import Turn, write_turns

_EXTRACTION, _MODEL = "erc_toolkit.extract.recording", "erc_toolkit.train.inference.turns"
STORE, REPORT = "features.h5", "report.html"


class Predictor:
    """A trained run that judges new recordings by the same extraction as its own features'.

    Args:
        folder: what `erc-toolkit train` or `erc-toolkit package` wrote.
        device: "auto", "cpu" or "cuda".
        models: options of `erc-toolkit extract` to put in place of those that were recorded, e.g.
            {"text_model": "/models/roberta"} where a folder was moved. Other weights are refused.
        say: takes lines about what is used; by default nothing is said.

    Raises:
        UserError: no finished run, or one whose features cannot be made of a recording.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        device: str = "auto",
        models: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.device, self._say = Path(folder), device, say
        self._model = import_module(_MODEL)
        self.extraction, self.labels = self._model.extraction_of(self.folder)
        for name, value in (models or {}).items():
            users = [options for options in self.extraction.values() if name in options]
            if not users:
                raise UserError(
                    f"--{name.replace('_', '-')}: the run's features ({', '.join(self.extraction)}) do not use it"
                )
            for options in users:
                options[name] = value
        self._judge = self._model.TurnClassifier(self.folder, device, say)

    def predict(
        self,
        recording: str | os.PathLike,
        transcript: str | os.PathLike,
        out: str | os.PathLike | None = None,
        *,
        causal: bool = False,
        speakers: Sequence[str] = (),
        command: str = "",
    ) -> list[Turn]:
        """The emotion of each turn of a recording.

        Args:
            recording: a video or sound file.
            transcript: its turns: .srt, .vtt, .csv or .json with times and speakers.
            out: folder for turns.json, turns.csv, turns.srt, turns.vtt, report.html and the features; None writes nothing.
            causal: judge each turn by what was said up to it.
            speakers: of subtitles, the only names taken for speakers.
            command: the command line, for the record.

        Raises:
            UserError: a file that cannot be read, or nothing in it that the model could go by.
        """
        extraction = import_module(_EXTRACTION)
        manifest = extraction.read_recording(Path(recording), Path(transcript), self.labels, speakers)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if out is None else Path(out)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None
            lacking = extraction.extract_recording(
                manifest, folder / STORE, self.extraction, device=self.device, command=command, notify=self._say
            )
            with FeatureStore.open(folder / STORE) as store:
                turns, batch = self._judge.turns(store, causal)
                if out is not None:
                    about = {
                        "recording": str(recording),
                        "transcript": str(transcript),
                        "run": str(self.folder),
                        "causal": causal,
                        **self._judge.description,
                        "absent": lacking,
                        "features_sha256": store.content_hash,
                    }
                    heard = "from the turns up to it" if causal else "from the whole conversation"
                    facts = [
                        ("recording", str(recording)),
                        ("transcript", f"{transcript}, {len(turns)} turns"),
                        ("run", str(self.folder)),
                        ("each turn", heard),
                    ]
                    try:
                        write_turns(turns, folder, about)
                        page = self._judge.page(Path(recording).name, turns, batch, facts, causal)
                        write_atomically(folder / REPORT, page.encode("utf-8"))
                    except OSError as error:
                        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
            return turns
