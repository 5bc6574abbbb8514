"""Training in epochs that can be resumed: the state after each epoch, and the output folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ...toolkit.base.checkpoint import CHECKPOINT, TrainedParts, load_checkpoint, save_checkpoint
from ...toolkit.base.disk import disk_faults
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import remove_leftovers, write_atomically
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.lock import locked
from ...toolkit.base.outputs import check_folder, publish_folder
from ...toolkit.base.reading.plain_yaml import load_yaml

METRICS = "metrics.jsonl"
_FILES = "files"  # key of a training's record


class Epochs:
    """The finished epochs of a training, which is either new or resumed from the checkpoint in the folder.

    Args:
        folder: OUT.partial; created if necessary.
        fingerprint: hashes of everything that affects the result; the checkpoint of a different training is refused.
        parts: model, optimizer and the random generator of the order.
        notify: called with a line when an earlier training is resumed.

    Attributes:
        lines: the lines of metrics.jsonl, one for each finished epoch.
        kept: tensors by name that the training has given to `done`, or those of the checkpoint, on the CPU.
        epoch: the number of finished epochs.

    Raises:
        UserError: the checkpoint is damaged or belongs to a different training.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, str], parts: TrainedParts, notify: Callable[[str], None]
    ) -> None:
        self._path, self._fingerprint, self._parts = folder / CHECKPOINT, dict(fingerprint), parts
        self.lines: list[dict[str, Any]] = []
        self.kept: dict[str, Tensor] = {}
        folder.mkdir(exist_ok=True)
        remedy = f"use the same options and data as for the work in {folder} to resume it, or delete that folder"
        found = load_checkpoint(self._path, self._fingerprint, parts, remedy)
        if found is not None:
            lines = found[0].get("lines")
            if not isinstance(lines, list):
                raise UserError(f"{self._path}: damaged (the metrics of the epochs are missing); delete {folder}")
            self.lines, self.kept = lines, found[1]
            notify(f"resuming after epoch {self.epoch}")

    @property
    def epoch(self) -> int:
        return len(self.lines)

    def best(self, key: str) -> dict[str, Any]:
        """The line of the first epoch with the greatest value of `key`."""
        return max(self.lines, key=lambda line: line[key])

    def done(self, line: dict[str, Any], kept: Mapping[str, Tensor] | None = None, write: bool = True) -> None:
        """Finishes an epoch: everything that the next one needs is on disk when this returns.

        Args:
            line: of metrics.jsonl.
            kept: tensors to keep instead of the earlier ones.
            write: whether this process writes the checkpoint; False if another one does.
        """
        self.lines.append(line)
        if kept is not None:
            self.kept = {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}
        if write:
            save_checkpoint(self._path, self._fingerprint, self._parts, {"lines": self.lines}, self.kept)


def fingerprint_of(**parts: object) -> dict[str, str]:
    """A SHA-256 of each of several JSON values, by name."""
    return {name: json_sha256(value) for name, value in parts.items()}


def check_out(out: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Checks that a folder can be written at `out`; arguments and errors as for `check_folder`.

    An earlier training there, which may have taken days, is replaced with `overwrite` only.
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    there = [path.name for path in out.iterdir()] if out.is_dir() else []
    check_folder(out, there, inputs, overwrite=overwrite)


@contextmanager
def partial_folder(out: Path, what: str, inputs: Iterable[Path], overwrite: bool) -> Iterator[Path]:
    """The folder OUT.partial to work in. It is kept after an interruption if it has a checkpoint, and else removed.

    Args:
        out: the folder that it will become, locked meanwhile.
        what: the command that makes it.
        inputs, overwrite: as for `check_out`.

    Raises:
        UserError: another process works on it, `out` may not be written, the disk is full, or the folder cannot be
            written. What is there is kept for the same call to resume.
    """
    work = out.with_name(out.name + ".partial")
    with locked(out, what), disk_faults(out):
        check_out(out, inputs, overwrite)  # again: another process may just have finished it
        try:
            yield work
        finally:
            if work.is_dir() and not (work / CHECKPOINT).exists():
                shutil.rmtree(work)


def publish(work: Path, out: Path, epochs: Epochs, name: str, record: Mapping[str, object]) -> None:
    """Moves the finished folder to `out`, with the metrics of all epochs and without the checkpoint.

    Args:
        work: the folder of `partial_folder`.
        out: its place; the files of an earlier training there are replaced, and others kept.
        epochs: of this training.
        name: name of the file that describes the training.
        record: its content, to which the names of the training's files are added.
    """
    remove_leftovers(work / CHECKPOINT)  # of a killed run, which published them otherwise
    (work / METRICS).write_text("".join(json.dumps(line) + "\n" for line in epochs.lines), encoding="utf-8")
    files = sorted({path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()} - {CHECKPOINT})
    text = yaml.safe_dump({**record, _FILES: [*files, name]}, sort_keys=False, allow_unicode=True)
    write_atomically(work / name, text.encode())
    (work / CHECKPOINT).unlink()
    publish_folder(work, out, _files_of(out / name))


def _files_of(record: Path) -> list[str]:
    """The files in the folder of an earlier training, by its record; none if it is damaged or somebody else's."""
    try:
        files = load_yaml(record.read_text(encoding="utf-8"))[_FILES]
        known = [name for name in files if isinstance(name, str) and name == os.path.basename(name)]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [name for name in known if (record.parent / name).is_file()]
