"""`erc-toolkit predict --live`: the lines that it prints, and how it ends."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..base.errors import UserError
from ..base.interrupt import interruptible
from ..base.words import counted

if TYPE_CHECKING:
    from ..predict.live import Delay, LiveOptions
    from ..predict.predictor import Predictor
    from ..predict.turns import Turn

_LONGEST_TEXT = 60


def turn_line(turn: Turn) -> str:
    """A turn with its emotion, for people."""
    own = ", ".join(f"{m} {o[0]}" for m, o in turn.opinions.items() if o)
    own = f" ({own})" if own else ""  # not every model predicts from single modalities
    text = turn.text if len(turn.text) <= _LONGEST_TEXT else turn.text[: _LONGEST_TEXT - 1] + "…"
    return f"{turn.start:8.2f} s  {turn.emotion} {round(100 * turn.probability)} %{own}  {turn.speaker}: {text}"


def predict_stream(
    predictor: Predictor,
    recording: Path,
    out: Path,
    how: LiveOptions,
    *,
    idle: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Reads standard input ("-") or a file that grows, prints each turn, and writes the files at its end or Ctrl-C.

    Raises:
        UserError: as for `LivePredictor` and its `run`.
    """
    from ..predict.live import STDIN, LivePredictor
    from ..predict.streams import read_growing, read_pipe

    name = str(recording)
    if name != STDIN and not recording.is_file():
        raise UserError(f"{recording}: no such file; --live reads one that exists and grows, or standard input (-)")
    live = LivePredictor(predictor, name, out, how, overwrite=overwrite)

    def show(turn: Turn, delay: Delay) -> None:
        if as_json:
            line = {**asdict(turn), "waited": round(delay.waited, 3), "worked": round(delay.worked, 3)}
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(f"{turn_line(turn)}  [{delay.total:.2f} s]")

    with interruptible() as stop:
        click.echo("reading the stream; Ctrl-C ends it", err=True)
        parts = read_pipe(sys.stdin.buffer, stop) if name == STDIN else read_growing(recording, stop, idle)
        turns = live.run(parts, show)
    totals = sorted(delay.total for delay in live.delays)
    known = f"emotions {totals[len(totals) // 2]:.2f} s after the turn's end (median), {totals[-1]:.2f} s at most"
    click.echo(f"{counted(len(turns), 'turn')} in {live.stream.seconds:.1f} s; {known}", err=as_json)
    click.echo(f"wrote {out}: turns.json, turns.csv, turns.srt, turns.vtt, report.html", err=as_json)
