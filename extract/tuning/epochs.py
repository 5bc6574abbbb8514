"""Training in epochs that can be resumed: the state after each epoch, and the output folder."""

from __future__ import annotations

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
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.lock import locked

METRICS = "metrics.jsonl"


class Epochs:
    """The finished epochs of a training, which is either new or resumed from the checkpoint in the folder.

    Args:
        folder: OUT.partial; created if necessary.
        fingerprint: hashes of everything that affects the result; the checkpoint of a different training is refused.
        parts: model, optimizer and the random generator of the order.
        notify: called with a line when an earlier training is resumed.

    Attributes:
        lines: the lines of metrics.jsonl, one for each finished epoch.
        epoch: the number of finished epochs.

    Raises:
        UserError: the checkpoint is damaged or belongs to a different training.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, str], parts: TrainedParts, notify: Callable[[str], None]
    ) -> None:
        self._path, self._fingerprint, self._parts = folder / CHECKPOINT, dict(fingerprint), parts
        self.lines: list[dict[str, Any]] = []
        folder.mkdir(exist_ok=True)
        remedy = f"use the same options and data as for the work in {folder} to resume it, or delete that folder"
        found = load_checkpoint(self._path, self._fingerprint, parts, remedy)
        if found is not None:
            lines = found[0].get("lines")
            if not isinstance(lines, list):
                raise UserError(f"{self._path}: damaged (the metrics of the epochs are missing); delete {folder}")
            self.lines = lines
            notify(f"resuming after epoch {self.epoch}")

    @property
    def epoch(self) -> int:
        return len(self.lines)

    def best(self, key: str) -> dict[str, Any]:
        """The line of the first epoch with the greatest value of `key`."""
        return max(self.lines, key=lambda line: line[key])

    def done(self, line: dict[str, Any]) -> None:
        """Finishes an epoch: everything that the next one needs is on disk when this returns."""
        self.lines.append(line)
        save_checkpoint(self._path, self._fingerprint, self._parts, {"lines": self.lines})


def fingerprint_of(**parts: object) -> dict[str, str]:
    """A SHA-256 of each of several JSON values, by name."""
    return {name: json_sha256(value) for name, value in parts.items()}


def check_out(out: Path) -> None:
    """Checks that a folder can be written at `out`.

    Raises:
        UserError: it cannot.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and is not empty; choose another folder or delete it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; create it first")


@contextmanager
def partial_folder(out: Path, what: str) -> Iterator[Path]:
    """The folder OUT.partial to work in. It is kept after an interruption if it has a checkpoint, and else removed.

    Args:
        out: the folder that it will become, locked meanwhile.
        what: the command that makes it.

    Raises:
        UserError: another process works on it, the disk is full, or the folder cannot be written.
    """
    work = out.with_name(out.name + ".partial")
    with locked(out, what):
        check_out(out)  # again: another process may just have finished it
        try:
            yield work
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from None
        finally:
            if work.is_dir() and not (work / CHECKPOINT).exists():
                shutil.rmtree(work)


def publish(work: Path, out: Path, epochs: Epochs) -> None:
    """Renames the finished folder to `out`, with the metrics of all epochs and without the checkpoint."""
    (work / METRICS).write_text("".join(json.dumps(line) + "\n" for line in epochs.lines), encoding="utf-8")
    for path in work.iterdir():
        if path.name != CHECKPOINT:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    (work / CHECKPOINT).unlink()
    os.replace(work, out)
    sync_folder(out.absolute().parent)
