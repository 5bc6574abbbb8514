"""How long after a turn's end `predict --live` knows its emotion, on a recording that is played as it is spoken.

    python benchmarks/live.py RUN WAV [--pause 0.5] [--asr-model base] [--speaker-model NAME] [--transcript TURNS]

By the clock: from the moment at which the end of the turn was played, late reading included; beside it the seconds that
`--live` prints, which are those of the stream and of the work after it.
"""

from __future__ import annotations

import argparse
import io
import threading
import time
import wave
from pathlib import Path

import numpy as np

from erc_toolkit.extract.diarization.loading import Options
from erc_toolkit.toolkit.predict.live import Delay, LiveOptions, LivePredictor
from erc_toolkit.toolkit.predict.predictor import Predictor
from erc_toolkit.toolkit.predict.streams import read_pipe
from erc_toolkit.toolkit.predict.turns import Turn

PART_S = 0.02


class Played(io.RawIOBase):
    """The samples of a WAV file, each part not before it would be spoken.

    Args:
        path: 16 bits; channels are averaged.

    Attributes:
        began: when the first sample was played; None before.
    """

    def __init__(self, path: Path) -> None:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise SystemExit(f"{path}: needs 16 bits")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
            self.rate, self._data = file.getframerate(), samples.mean(1).astype("<i2").tobytes()
        self.began: float | None = None
        self._at = 0

    def read1(self, size: int) -> bytes:
        """The next part."""
        if self.began is None:
            self.began = time.perf_counter()
        part = self._data[self._at : self._at + min(size, 2 * round(PART_S * self.rate))]
        self._at += len(part)
        time.sleep(max(0.0, self.began + self._at / 2 / self.rate - time.perf_counter()))
        return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("wav", type=Path)
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--pause", type=float)
    parser.add_argument("--asr-model", default="base")
    parser.add_argument("--speaker-model", default=Options.speaker_model)
    args = parser.parse_args()
    played = Played(args.wav)
    models = {"language": "en", "asr_model": args.asr_model, "speaker_model": args.speaker_model}
    how = LiveOptions(
        transcript=args.transcript,
        finding={} if args.transcript else models,
        pause=args.pause,
        pcm_rate=played.rate,
    )
    live = LivePredictor(Predictor(args.run), "-", None, how)
    after: list[float] = []

    def show(turn: Turn, delay: Delay) -> None:
        assert played.began is not None
        after.append(time.perf_counter() - played.began - turn.end)
        print(f"{turn.start:7.2f} to {turn.end:7.2f} s  {after[-1]:.2f} s, printed {delay.total:.2f} s  {turn.text}")

    live.run(read_pipe(played, threading.Event()), show)  # type: ignore[arg-type]
    printed = [delay.total for delay in live.delays]
    for name, values in (("by the clock", after), ("printed", printed)):
        print(f"{name}: {np.median(values):.2f} s (median), {max(values):.2f} s at most, {len(values)} turns")


if __name__ == "__main__":
    main()
