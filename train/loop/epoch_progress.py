"""Progress of training on standard error: a bar on a terminal, otherwise lines, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ...toolkit.base.progress import Bar, logs_json, progress_bar, rate_in_words, time_in_words

_INTERVAL = 10.0  # seconds between lines if standard error is not a terminal


class EpochProgress:
    """Reports the steps and epochs of a training run. See `epoch_progress`."""

    def __init__(self, name: str, epochs: int, done: int, bar: Bar | None) -> None:
        self._name, self._epochs, self._done, self._bar = name, epochs, done, bar
        self._first, self._began = done, time.perf_counter()
        self._reported: float | None = None
        self._note = ""

    def step(self, done: int, steps: int) -> None:
        """Reports that `done` of an epoch's `steps` are completed."""
        if self._bar is not None:
            self._bar.at(self._done + done / steps, self._epochs)
        elif time.perf_counter() - (self._began if self._reported is None else self._reported) >= _INTERVAL:
            self._notify(
                f"epoch {self._done + 1}/{self._epochs}, step {done}/{steps}{self._note}{self._left(done / steps)}"
            )

    def epoch(self, note: str) -> None:
        """Reports a completed epoch, summarised by `note`."""
        self._done += 1
        self._note = f"  {note}"
        if self._bar is not None:
            self._bar.advance(0, note=note)
        elif self._reported is None or time.perf_counter() - self._reported >= _INTERVAL:
            self._notify(f"epoch {self._done}/{self._epochs}{self._note}{self._left(0)}")

    def _left(self, part: float) -> str:
        """The rate of epochs and the estimated remaining time, as text."""
        done = self._done + part - self._first
        rate = done / max(time.perf_counter() - self._began, 1e-9)
        seconds = (self._epochs - self._done - part) / rate
        return f"  {rate_in_words(rate)}, {time_in_words(seconds)} left" if seconds >= 1 else ""

    def _notify(self, line: str) -> None:
        print(self._name + line, file=sys.stderr, flush=True)
        self._reported = time.perf_counter()


@contextmanager
def epoch_progress(name: str, epochs: int, done: int) -> Iterator[EpochProgress]:
    """Shows the progress of a training run, possibly a resumed one.

    A pipe or a log file gets a line after the first epoch and then at most one every ten seconds, also within epochs.

    Args:
        name: prefix of every line; may be empty.
        epochs, done: number of epochs, and of those that are already completed.
    """
    if not sys.stderr.isatty() and not logs_json():
        yield EpochProgress(name, epochs, done, None)
        return
    with progress_bar(f"{name}train", total=epochs) as bar:
        bar.resume(done)
        yield EpochProgress(name, epochs, done, bar)
