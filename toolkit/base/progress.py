"""Progress on standard error: bars in a terminal, a line a minute elsewhere, or JSON lines; each with done, total, rate
and time left."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG_EVERY_S = 5.0
_FIRST_LINE_S, _LINE_EVERY_S = 20.0, 60.0
_BEAT_S = 5.0  # between looks at whether a stage has been silent for too long


class _Log:
    json = False  # of the whole process; see `log_json_from_now_on`


def log_json_from_now_on() -> None:
    """Makes all progress of this process JSON lines, as `--log-json` asks."""
    _Log.json = True


def logs_json() -> bool:
    """Whether `log_json_from_now_on` was called."""
    return _Log.json


def rate_in_words(rate: float) -> str:
    """A rate per second with the unit in which it is at least 1, if there is one: "3.1/s", "12.0/min", "0.4/h"."""
    for factor, unit in ((1, "s"), (60, "min")):
        if rate * factor >= 1:
            return f"{rate * factor:,.1f}/{unit}"
    return f"{rate * 3600:.2g}/h"


def time_in_words(seconds: float) -> str:
    """A duration: "45 s", "12 min", "3 h 5 min", "4.2 days"."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 72:
        return f"{seconds / 86400:.1f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


class Bar:
    """One running stage. `advance` counts; `note` is shown next to the count; `seconds` is the time since the start.

    A step that lasts longer than a minute does not silence it: `Stages` calls `beat` meanwhile, in a thread.
    """

    def __init__(
        self,
        name: str,
        total: float | None,
        progress: Progress | None = None,
        task: TaskID | None = None,
        log: bool = False,
        lines: bool = False,
    ):
        self.name, self.total, self.done = name, total, 0.0
        self._progress, self._task, self._log, self._lines = progress, task, log, lines
        self._began = self._logged = time.perf_counter()
        self._wait = _FIRST_LINE_S
        self._before = 0.0
        self._lock = threading.Lock()

    def resume(self, done: float) -> None:
        """Counts what an earlier run has done. It is no part of the rate."""
        self._before = done
        self.at(done, self.total)

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        self.at(self.done + amount, self.total, note)

    def at(self, done: float, total: float | None, note: str | None = None) -> None:
        """Sets the count and the total, for work that reports both."""
        self.done, self.total = done, total
        if self._progress is not None and self._task is not None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            self._progress.update(self._task, completed=done, total=total, **fields)
        self._say(_LOG_EVERY_S, self._wait, note)

    def beat(self) -> None:
        """Reports a stage that has been silent for a minute."""
        if not self._finished:
            self._say(_LINE_EVERY_S, self._wait, None)

    def said(self) -> None:
        """Notes that the caller has just printed a line of its own."""
        self._logged = time.perf_counter()

    @property
    def _finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    def _say(self, log_after: float, line_after: float, note: str | None) -> None:
        with self._lock:  # one thread works, another beats
            silent = time.perf_counter() - self._logged
            rate, left = self._rate_and_left()
            if self._log and (self._finished or silent >= log_after):
                self._logged = time.perf_counter()
                shown = None if left is None else round(left, 1)
                fields = {"done": self.done, "total": self.total, "rate": float(f"{rate:.4g}"), "seconds_left": shown}
                log_event("progress", stage=self.name, **fields, note=note)
            elif self._lines and not self._finished and silent >= line_after:
                self._logged, self._wait = time.perf_counter(), _LINE_EVERY_S
                of = "" if self.total is None else f" of {self.total:,.0f}"
                words = [f"{self.name}: {self.done:,.0f}{of}"]
                words += [rate_in_words(rate)] if rate else [f"{time_in_words(self.seconds)} so far"]
                words += [] if left is None else [f"{time_in_words(left)} left"]
                print(", ".join([*words, *([note] if note else [])]), file=sys.stderr, flush=True)

    def _rate_and_left(self) -> tuple[float, float | None]:
        """Steps per second since the start, and seconds left if the total is known."""
        rate = (self.done - self._before) / max(self.seconds, 1e-9)
        return rate, None if self.total is None or not rate else (self.total - self.done) / rate

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


class Stages:
    """Several concurrent stages with one bar each. Use it in a `with` statement.

    Args:
        log_json: write JSON lines instead of bars, in a terminal or not.
        bars: whether a terminal gets bars; otherwise it gets lines, between which the caller can print.
    """

    def __init__(self, log_json: bool = False, bars: bool = True):
        self._log_json = log_json or _Log.json
        self._bars = bars
        self._progress: Progress | None = None
        self._stages: list[Bar] = []
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Stages:
        if not self._log_json and self._bars and sys.stderr.isatty():
            self._progress = _rich_progress()
            self._progress.__enter__()
        else:
            self._heart = threading.Thread(target=self._beat, daemon=True, name="progress")
            self._heart.start()
        return self

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            for bar in tuple(self._stages):
                bar.beat()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._heart is not None:
            self._heart.join()  # so that no line comes after the work
        if self._progress is not None:
            self._progress.__exit__(kind, raised, traceback)

    def stage(self, name: str, total: float | None) -> Bar:
        """A new bar for `total` steps."""
        task = None if self._progress is None else self._progress.add_task(name, total=total, note="", rate="")
        bar = Bar(name, total, self._progress, task, self._log_json, self._progress is None and not self._log_json)
        self._stages.append(bar)
        return bar


@contextmanager
def progress_bar(stage: str, total: float | None) -> Iterator[Bar]:
    """The progress of one stage of `total` steps."""
    with Stages() as stages:
        yield stages.stage(stage, total)


def log_event(event: str, **fields: object) -> None:
    """Writes one JSON line to standard error."""
    print(
        json.dumps({"event": event, **{k: v for k, v in fields.items() if v is not None}}), file=sys.stderr, flush=True
    )


def _rich_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )

    class WithRate(Progress):
        def get_renderables(self):
            for task in self.tasks:
                task.fields["rate"] = rate_in_words(task.speed) if task.speed else ""
            return super().get_renderables()

    return WithRate(*columns, console=Console(stderr=True), transient=True)
