"""A training that goes by epochs and survives a kill: its state after each epoch, and the folder that it becomes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...toolkit.base.checkpoint import CHECKPOINT, TrainedParts, load_checkpoint, save_checkpoint
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import sync_folder

METRICS = "metrics.jsonl"


class Epochs:
    """The epochs of a training that are done. New, or resumed from what an earlier run left in the folder.

    Args:
        folder: OUT.partial; made if need be.
        fingerprint: hashes of everything that decides the result; the checkpoint of another training is refused.
        parts: model, optimizer and the generator of the order.
        notify: called with a line when an earlier run is resumed.

    Attributes:
        lines: of metrics.jsonl, one for each epoch that is done.
        epoch: how many those are.

    Raises:
        UserError: the checkpoint is damaged or belongs to another training.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, str], parts: TrainedParts, notify: Callable[[str], None]
    ) -> None:
        self._path, self._fingerprint, self._parts = folder / CHECKPOINT, dict(fingerprint), parts
        self.lines: list[dict[str, Any]] = []
        folder.mkdir(exist_ok=True)
        remedy = f"repeat the options and data of the work in {folder} to resume it, or delete that folder"
        found = load_checkpoint(self._path, self._fingerprint, parts, remedy)
        if found is not None:
            lines = found[0].get("lines")
            if not isinstance(lines, list):
                raise UserError(f"{self._path}: damaged (lacks the epochs' lines); delete {folder}")
            self.lines = lines
            notify(f"resuming after epoch {self.epoch}")

    @property
    def epoch(self) -> int:
        return len(self.lines)

    def best(self, key: str) -> dict[str, Any]:
        """The line of the first epoch with the greatest value under that key."""
        return max(self.lines, key=lambda line: line[key])

    def done(self, line: dict[str, Any]) -> None:
        """Ends an epoch: all that the next one needs is on disk when this returns."""
        self.lines.append(line)
        save_checkpoint(self._path, self._fingerprint, self._parts, {"lines": self.lines})


def fingerprint_of(**parts: object) -> dict[str, str]:
    """A hash of each of several plain values."""
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for name, value in parts.items()
    }


def check_out(out: Path) -> None:
    """Raises UserError unless a folder can be written at `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and is not empty; choose another folder or delete it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it first")


@contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """The folder OUT.partial to work in. It stays when the work breaks off, unless not one epoch is in it.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    work = out.with_name(out.name + ".partial")
    try:
        yield work
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    finally:
        if work.is_dir() and not (work / CHECKPOINT).exists():
            shutil.rmtree(work)


def become(work: Path, out: Path, epochs: Epochs) -> None:
    """Gives the finished folder its name, with the metrics of all epochs and without the checkpoint."""
    (work / METRICS).write_text("".join(json.dumps(line) + "\n" for line in epochs.lines), encoding="utf-8")
    for path in work.iterdir():
        if path.name != CHECKPOINT:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    (work / CHECKPOINT).unlink()
    os.replace(work, out)
    sync_folder(out.absolute().parent)
