"""What every step of `benchmarks/gpu.py` uses: results that are on disk at once, a clock, and memory."""

from __future__ import annotations

import gc
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_steps.lines import AGAIN, Row, read_lines

from erc_toolkit.toolkit.base.device import synchronize

NO_TIME = "no time left"
RESERVE = 3.0  # seconds kept to write and to end


class Skip(Exception):
    """Why something is not measured."""


class TimeUp(BaseException):
    """The step's time is over. Not an Exception, so that nothing that is measured handles it."""


class Job:
    """A step that is running: its device, its clock, and its results so far.

    Each result is a line of a file, written as soon as it is known; before something is measured, a line says that it
    has begun. A step that is started again leaves out what is in the file already.

    Args:
        file: the step's results.
        device: where to measure.
        small: whether everything is reduced to the smallest sizes.
        seconds: how long the step may take.
        scratch: a folder for temporary files.
    """

    def __init__(self, file: Path, device: torch.device, small: bool, seconds: float, scratch: Path) -> None:
        self.device, self.small, self.scratch, self._file = device, small, scratch, file
        self._ends = time.monotonic() + seconds
        self.rows, self._begun = read_lines(file)
        for table, key in self._begun:  # what the process was measuring when it died
            self._write(table, key, {"status": "failed", "reason": "the process died while measuring this"})

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds that may still be used."""
        return self._ends - time.monotonic() - RESERVE

    def found(self, table: str, **key: Any) -> Row:
        """The values of a result that was measured, in this step or an earlier one; empty if there is none."""
        every = [row for file in self._file.parent.glob("*.jsonl") for row in read_lines(file)[0]]
        rows = [row for row in every if row["table"] == table and row["key"] == key and row["status"] == "done"]
        return rows[-1]["values"] if rows else {}

    def measure(self, table: str, work: Callable[[], Row], needs: float = 2, **key: Any) -> Row:
        """Measures something and writes it down, whatever happens.

        Args:
            table: title of the table in which it is shown.
            work: returns values, each named as its column; may raise `Skip`.
            needs: seconds without which there is no use in beginning.
            key: what is measured: the first columns.

        Returns:
            the values; empty if there are none.
        """
        if any(row["table"] == table and row["key"] == key for row in self.rows):
            return self.found(table, **key)
        if self.left < needs:
            return self._write(table, key, {"status": "skipped", "reason": NO_TIME})
        self._append({"begun": table, "key": key})
        broken = False
        try:
            with _alarm(self.left):
                end = {"status": "done", "values": work()}
        except Skip as why:
            end = {"status": "skipped", "reason": str(why)}
        except TimeUp:
            end = {"status": "skipped", "reason": NO_TIME}
        except Exception as error:
            end = {"status": "failed", "reason": reason_of(error)}
            broken = not self._usable()
        values = self._write(table, key, end)
        if broken:
            raise SystemExit(AGAIN)
        self.tidy()
        return values

    def skip(self, table: str, reason: str, **key: Any) -> None:
        """Writes down that something is not measured."""

        def work() -> Row:
            raise Skip(reason)

        self.measure(table, work, needs=-1e9, **key)

    def tidy(self) -> None:
        """Gives back the device's memory that nothing uses."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def _usable(self) -> bool:
        """Whether the device still works; some errors make all later calls of the process fail."""
        try:
            synchronize(self.device)
            return float(torch.ones(2, device=self.device).sum()) == 2
        except Exception:
            return False

    def _write(self, table: str, key: Row, end: Row) -> Row:
        self.rows.append({"table": table, "key": key, **end})
        self._append(self.rows[-1])
        return end.get("values", {})

    def _append(self, line: Row) -> None:
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises `TimeUp` in this thread after some seconds."""

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device has done some work, and its result."""
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - began, result


def forget_peak(device: torch.device) -> None:
    """Starts a new measurement of peak memory; the host's cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """Peak memory of tensors on a CUDA device in MiB since `forget_peak`; None for others."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def process_mib() -> float:
    """Peak memory of this process on the host in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def difference(found: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, relative to the largest magnitude expected, which is taken to be at least `least`.

    Raises:
        ValueError: the shapes differ, or a number found is not finite.
    """
    a, b = (x.detach().to("cpu", torch.float64) for x in (found, expected))
    if a.shape != b.shape:
        raise ValueError(f"shape {tuple(a.shape)} instead of {tuple(b.shape)}")
    if not a.isfinite().all():
        raise ValueError("a number is not finite")
    if not a.numel():
        return 0.0
    return float((a - b).abs().max() / max(float(b.abs().max()), least, 1e-30))
