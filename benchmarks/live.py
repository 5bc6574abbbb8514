"""How long after a turn's end `predict --live` knows its emotion, on a recording that is played as it is spoken.

    python benchmarks/live.py RUN RECORDING [--pause 0.5] [--asr-model base] [--speaker-model NAME] [--transcript TURNS]

By the clock: from the moment at which the end of the turn was played, late reading included; beside it the seconds that
`--live` prints, which are those of the stream and of the work after it.
"""

from __future__ import annotations

import argparse
import io
import threading
import time
from pathlib import Path

import av
import numpy as np

from erc_toolkit.extract.diarization.loading import Options
from erc_toolkit.toolkit.predict.live import Delay, LiveOptions, LivePredictor
from erc_toolkit.toolkit.predict.predictor import Predictor
from erc_toolkit.toolkit.predict.streams import read_pipe
from erc_toolkit.toolkit.predict.turns import Turn


class Played(io.RawIOBase):
    """The bytes of a file, each part not before it would be spoken or shown.

    Args:
        path: WAV, or a media file that can be streamed, such as MPEG-TS or Matroska.

    Attributes:
        began: when the first part was played; None before.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        # Until when which bytes are played; a packet when an encoder has it at the latest, that is when it is decoded.
        self._due: list[tuple[int, float]] = []
        with av.open(str(path)) as container:
            first = (container.start_time or 0) / 1e6
            for packet in container.demux():
                if packet.dts is not None and packet.time_base and packet.pos is not None:
                    time_ = float(packet.dts * packet.time_base) - first
                    if path.suffix == ".wav":  # long packets; a microphone gives short ones
                        time_ += float((packet.duration or 0) * packet.time_base)
                    self._due.append((packet.pos + packet.size, time_))
        self._due.sort()
        self.began: float | None = None
        self._at = 0

    def read1(self, size: int) -> bytes:
        """The next part."""
        if self.began is None:
            self.began = time.perf_counter()
        while self._due and self._due[0][0] <= self._at:
            self._due.pop(0)
        end, due = self._due[0] if self._due else (len(self._data), 0.0)
        part = self._data[self._at : min(self._at + size, end)]
        self._at += len(part)
        time.sleep(max(0.0, self.began + due - time.perf_counter()))
        return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--pause", type=float)
    parser.add_argument("--asr-model", default="base")
    parser.add_argument("--speaker-model", default=Options.speaker_model)
    args = parser.parse_args()
    played = Played(args.recording)
    models = {"language": "en", "asr_model": args.asr_model, "speaker_model": args.speaker_model}
    how = LiveOptions(
        transcript=args.transcript,
        finding={} if args.transcript else models,
        pause=args.pause,
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
