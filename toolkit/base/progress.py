"""Progress on standard error: bars with rate and time left in a terminal, nothing elsewhere, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG_EVERY_S = 5.0


class Bar:
    """One running stage. `advance` counts; `note` is shown next to the count; `seconds` is the time since the start."""

    def __init__(
        self,
        name: str,
        total: float | None,
        progress: Progress | None = None,
        task: TaskID | None = None,
        log: bool = False,
    ):
        self.name, self.total, self.done = name, total, 0.0
        self._progress, self._task, self._log = progress, task, log
        self._began = self._logged = time.perf_counter()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        self.at(self.done + amount, self.total, note)

    def at(self, done: float, total: float | None, note: str | None = None) -> None:
        """Sets the count and the total, for work that reports both."""
        self.done, self.total = done, total
        if self._progress is not None and self._task is not None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            self._progress.update(self._task, completed=done, total=total, **fields)
        finished = total is not None and done >= total
        if self._log and (finished or time.perf_counter() - self._logged >= _LOG_EVERY_S):
            self._logged = time.perf_counter()
            rate = done / max(self.seconds, 1e-9)
            left = None if total is None or not rate else round((total - done) / rate, 1)
            log_event(
                "progress", stage=self.name, done=done, total=total, rate=round(rate, 2), seconds_left=left, note=note
            )

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


class Stages:
    """Several concurrent stages with one bar each. Use it in a `with` statement.

    Args:
        log_json: write JSON lines instead of bars, in a terminal or not.
    """

    def __init__(self, log_json: bool = False):
        self._log_json = log_json
        self._progress: Progress | None = None

    def __enter__(self) -> Stages:
        if not self._log_json and sys.stderr.isatty():
            self._progress = _rich_progress()
            self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, raised, traceback)

    def stage(self, name: str, total: float | None) -> Bar:
        """A new bar for `total` steps."""
        task = None if self._progress is None else self._progress.add_task(name, total=total, note="", rate="")
        return Bar(name, total, self._progress, task, self._log_json)


@contextmanager
def progress_bar(stage: str, total: float | None) -> Iterator[Bar]:
    """A bar for one stage of `total` steps; nothing is drawn when standard error is not a terminal."""
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
                task.fields["rate"] = f"{task.speed:.1f}/s" if task.speed else ""
            return super().get_renderables()

    return WithRate(*columns, console=Console(stderr=True), transient=True)
