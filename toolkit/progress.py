"""Progress on standard error: a bar with rate and time left at a terminal, silence elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Bar:
    """One running stage. `advance` counts; `note` is shown beside the count; `seconds` is the time since the start."""

    def __init__(self, progress: object | None, task: object | None):
        self._progress, self._task = progress, task
        self._began = time.perf_counter()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        if self._progress is not None:
            self._progress.update(self._task, advance=amount, **({} if note is None else {"note": note}))

    def at(self, done: float, total: float) -> None:
        """Sets the count and the total, for work that reports both."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


@contextmanager
def progress_bar(stage: str, total: float | None) -> Iterator[Bar]:
    """A bar for one stage of `total` steps; nothing is drawn when standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip

    class _Progress(Progress):
        def get_renderables(self):
            for task in self.tasks:
                task.fields["rate"] = f"{task.speed:.1f}/s" if task.speed else ""
            return super().get_renderables()

    with _Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress, progress.add_task(stage, total=total, note="", rate=""))
