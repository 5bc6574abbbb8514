"""`predict --live`: the emotion of each turn of a stream as soon as it has ended.

The numbers are those of `Predictor.predict` with `causal` on the whole recording and the same turns, on the CPU bit for
bit (docs/how-to/recordings.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..base.disk import disk_faults
from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.lock import locked
from ..base.outputs import check_folder, stamped
from ..base.reading.texts import representable
from ..base.words import counted
from .halves import LiveRecording, load_live
from .predictor import REPORT, STORE, Predictor, is_prediction, media_beside
from .turns import FILES, Media, Turn, write_turns

STDIN = "-"


@dataclass(frozen=True)
class LiveOptions:
    """How a stream is read.

    Attributes:
        transcript: its turns; None to find them.
        past: number of turns before it that a turn is classified from; None for all.
        learned_speakers, speakers, time_unit, columns: as for `Predictor.predict`.
        finding: without a transcript, how turns are found, as `transcription` of `Predictor.predict`; `speakers` is the
            greatest number of people.
        pause: without a transcript, seconds of silence that end a turn; None for 0.5.
        pcm_rate: rate in Hz of samples without a WAV header, 16 bits, mono; None for 16 kHz.
    """

    transcript: Path | None = None
    past: int | None = None
    learned_speakers: Mapping[str, str] = field(default_factory=dict)
    speakers: Sequence[str] = ()
    time_unit: Literal["s", "ms"] | None = None
    columns: Sequence[str] = ()
    finding: Mapping[str, Any] = field(default_factory=dict)
    pause: float | None = None
    pcm_rate: int | None = None


@dataclass(frozen=True)
class Delay:
    """How long after its end a turn's emotion was known.

    Attributes:
        waited: seconds of the stream after the turn's end that were read before it was known to have ended.
        worked: seconds of computation after that.
    """

    waited: float
    worked: float

    @property
    def total(self) -> float:
        """Both together: the delay for somebody who speaks into the stream, as long as it is not read late."""
        return self.waited + self.worked


class LivePredictor:
    """A trained run that classifies the turns of one stream.

    Everything is loaded and checked here, before the stream is read.

    Args:
        predictor: the run.
        recording: "-" for standard input, or a file; for the turns' ids and the files.
        out: folder for turns.json, .csv, .srt, .vtt and report.html; None to write nothing.
        options: how.
        overwrite: replace files of these names in `out` that no prediction has written.
        clock: seconds, by which work is measured.

    Attributes:
        turns: those that have ended, with their predictions.
        delays: of each.

    Raises:
        UserError: a model or package is missing, the transcript or an option cannot
            be used, or `out` has other files.
    """

    def __init__(
        self,
        predictor: Predictor,
        recording: str,
        out: Path | None = None,
        options: LiveOptions | None = None,
        *,
        overwrite: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._predictor, self._recording, self._out = predictor, recording, out
        self._options, self._overwrite, self._clock = options or LiveOptions(), overwrite, clock
        how, most = self._options, predictor.trained.most_speakers
        if out is not None:
            inputs = [predictor.folder, *([] if recording == STDIN else [Path(recording)])]
            inputs += [] if how.transcript is None else [how.transcript]
            check_folder(out, self._names, inputs, earlier=is_prediction, overwrite=overwrite)
        finding = dict(how.finding)
        if most is not None:
            finding["speakers"] = min(most, finding.get("speakers", most))
        name = "live" if recording == STDIN else representable(Path(recording).stem) or "live"
        self.stream: LiveRecording = load_live().LiveRecording(
            predictor.extraction,
            predictor.labels,
            transcript=how.transcript,
            name=name,
            finding=finding,
            pause=how.pause,
            speakers=how.speakers,
            time_unit=how.time_unit,
            columns=how.columns,
            pcm_rate=how.pcm_rate,
            to_end=recording == STDIN,
            device=predictor.device,
            notify=predictor.notify,
        )
        chosen = dict(how.learned_speakers)
        if self.stream.names:
            taken, _ = predictor.trained.speakers(self.stream.names, chosen)
            if taken:
                predictor.notify(f"speakers: {taken}")
        self._classifier = predictor.trained.live(self.stream.features, chosen, how.past)
        self.turns: list[Turn] = []
        self.delays: list[Delay] = []

    @property
    def _names(self) -> tuple[str, ...]:
        return (*FILES, REPORT, STORE)

    def run(self, parts: Iterable[bytes], show: Callable[[Turn, Delay], None] = lambda turn, delay: None) -> list[Turn]:
        """Classifies the turns of a stream until it ends, and writes the files.

        Args:
            parts: its bytes, of any sizes.
            show: called with each turn as soon as its emotion is known.

        Raises:
            UserError: the stream cannot be read, or no turn has ended in it.
        """
        try:
            for part in parts:
                self._take(self.stream.add(part), show)
            self._take(self.stream.end(), show)
        except UserError:
            if self.turns and self._out is not None:
                self._write(self._out)
            raise
        finally:
            self.stream.close()
        if not self.turns:
            raise UserError(f"{self._recording}: no turn ended in {self.stream.seconds:.1f} s")
        if self._out is not None:
            self._write(self._out)
        return self.turns

    def _take(self, found: Iterable[Any], show: Callable[[Turn, Delay], None]) -> None:
        began = self._clock()
        for spoken, features in found:
            turn = self._classifier.add(spoken, features)
            now = self._clock()
            delay = Delay(max(0.0, self.stream.seconds - turn.end), now - began)
            self.turns.append(turn)
            self.delays.append(delay)
            show(turn, delay)
            # A second turn that ended at the same time has waited for the first, so the time goes on.

    def _write(self, out: Path) -> None:
        trained, how = self._predictor.trained, self._options
        names = [turn.speaker for turn in self.turns]
        there = {name: one for name, one in how.learned_speakers.items() if name in names}
        for name in sorted(set(how.learned_speakers) - set(there)):
            self._predictor.notify(f"--speaker {name}=…: nobody of this name has spoken")
        taken, given = trained.speakers(names, there)
        transcript = None if how.transcript is None else representable(str(how.transcript))
        about = {
            "recording": representable(self._recording),
            "transcript": transcript,
            "run": representable(str(self._predictor.folder)),
            "causal": True,
            "live": True,
            **({"past": how.past} if how.past is not None else {}),
            **trained.description,
            "speakers": given,
            "absent": self.stream.absent,
            "features_sha256": None,  # no feature is kept
            "delays": [{"waited": round(d.waited, 3), "worked": round(d.worked, 3)} for d in self.delays],
        }
        facts = [
            ("transcript", f"{transcript or 'found in the stream'}, {counted(len(self.turns), 'turn')}"),
            ("run", representable(self._predictor.folder.resolve().name)),
            ("each turn", "from the turns up to it, in a stream"),
            *([("speakers", taken)] if taken else []),
        ]
        with disk_faults(out), locked(out, "predict", parents=True):
            out.mkdir(exist_ok=True)
            if self._overwrite and not is_prediction(out):
                for name in self._names:
                    (out / name).unlink(missing_ok=True)
            write_turns(self.turns, out, about)
            page = trained.page(self._media(out), self.turns, None, facts, True)
            write_atomically(out / REPORT, stamped(page, "predict").encode("utf-8"))

    def _media(self, out: Path) -> Media:
        if self._recording == STDIN:
            return Media("standard input", "", False)
        return media_beside(Path(self._recording), out)
