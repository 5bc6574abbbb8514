"""TensorBoard events of a run, on request."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...toolkit.base.errors import UserError
from ..config import OPTIMISTIC
from .records import EpochLine, scores_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "tensorboard"  # folder in the run's


class EventWriter:
    """Writes the contents of metrics.jsonl as TensorBoard scalars. A context manager; see `EventWriter.open`."""

    def __init__(self, writer: SummaryWriter | None) -> None:
        self._writer = writer

    @classmethod
    def open(cls, folder: Path, wanted: bool, lines: Sequence[EpochLine]) -> EventWriter:
        """Starts the events of the run in `folder` with its completed epochs.

        A resumed run's earlier events are rewritten from its metrics: a killed process may leave a truncated event
        file, and epochs that are trained again would appear twice.

        Args:
            folder: of the run.
            wanted: if False, nothing is written.
            lines: of metrics.jsonl.

        Raises:
            UserError: TensorBoard is not installed.
        """
        if not wanted:
            return cls(None)
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / EVENTS, ignore_errors=True)
        events = cls(SummaryWriter(str(folder / EVENTS)))
        for line in lines:
            events.add(line)
        return events

    def add(self, line: EpochLine) -> None:
        """Adds an epoch, a line of metrics.jsonl."""
        if self._writer is None:
            return
        epoch = line["epoch"]
        for name, number in (("loss", line["loss"]), ("lr", line["lr"]), ("grad_norm", line["grad_norm"])):
            if number is not None:
                self._writer.add_scalar(f"train/{name}", number, epoch)
        for modality, ratio in (line["modality_dropout"] or {}).items():
            self._writer.add_scalar(f"modality_dropout/{modality}", ratio, epoch)
        for split in ("val", "test"):
            for name, value in (scores_of(line, split) if split in line else {}).items():
                if value is not None:
                    self._writer.add_scalar(f"{_group(split, line['protocol'])}/{name}", value, epoch)
        self._writer.flush()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def check_installed() -> None:
    """Raises a UserError if TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard: TensorBoard is not installed; pip install 'erc-toolkit[tensorboard]'") from None


def _group(split: str, protocol: str) -> str:
    # TensorBoard's tags allow neither spaces nor parentheses.
    return f"{split}.best-on-test.optimistic" if protocol == OPTIMISTIC else split
