"""Progress of a training on standard error: a bar at a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ...toolkit.base.progress import Bar, progress_bar

_SILENCE = 10.0  # seconds between two lines where standard error is no terminal


class EpochProgress:
    """Takes every step and every epoch of a training. See `epoch_progress`."""

    def __init__(self, name: str, epochs: int, done: int, bar: Bar | None) -> None:
        self._name, self._epochs, self._done, self._bar = name, epochs, done, bar
        self._first, self._began = done, time.perf_counter()
        self._spoke: float | None = None
        self._note = ""

    def step(self, done: int, steps: int) -> None:
        """`done` of the `steps` of an epoch are done."""
        if self._bar is not None:
            self._bar.at(self._done + done / steps, self._epochs)
        elif time.perf_counter() - (self._began if self._spoke is None else self._spoke) >= _SILENCE:
            self._notify(
                f"epoch {self._done + 1}/{self._epochs}, step {done}/{steps}{self._note}{self._left(done / steps)}"
            )

    def epoch(self, note: str) -> None:
        """An epoch is done; `note` says how it went."""
        self._done += 1
        self._note = f"  {note}"
        if self._bar is not None:
            self._bar.advance(0, note=note)
        elif self._spoke is None or time.perf_counter() - self._spoke >= _SILENCE:
            self._notify(f"epoch {self._done}/{self._epochs}{self._note}{self._left(0)}")

    def _left(self, part: float) -> str:
        """The time that the rest will take if it goes on like this, as text."""
        done = self._done + part - self._first
        seconds = (self._epochs - self._done - part) * (time.perf_counter() - self._began) / done
        hours, minutes = divmod(round(seconds / 60), 60)
        shown = f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
        return f"  {shown} left" if seconds >= 1 else ""

    def _notify(self, line: str) -> None:
        print(self._name + line, file=sys.stderr, flush=True)
        self._spoke = time.perf_counter()


@contextmanager
def epoch_progress(name: str, epochs: int, done: int) -> Iterator[EpochProgress]:
    """Shows a training of so many epochs, of which some are done already.

    A pipe or a log file gets a line after the first epoch and then one when the last is ten seconds old, in the middle
    of an epoch too.

    Args:
        name: of the training, put before every line; may be empty.
        epochs, done: of the training.
    """
    if not sys.stderr.isatty():
        yield EpochProgress(name, epochs, done, None)
        return
    with progress_bar(f"{name}train", total=epochs) as bar:
        bar.at(done, epochs)
        yield EpochProgress(name, epochs, done, bar)
