"""A training that goes by epochs and survives a kill: its state after each epoch, and the folder that it becomes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ...toolkit.base.errors import UserError, first_line
from ...toolkit.base.files import atomic_path, sync_folder

METRICS, STATE = "metrics.jsonl", "state.pt"


class Epochs:
    """Where a training stands. Made anew, or taken up from what an earlier run left in the folder.

    Args:
        folder: OUT.partial; made if need be.
        made: everything that decides the result; a state that was made of something else is refused.
        parts: what has `state_dict` and `load_state_dict`: model, optimizer, schedule.
        shuffle: the generator of the order.
        device: where the model is; its random state is kept as well.
        notify: told when an earlier run is taken up.

    Attributes:
        lines: of metrics.jsonl, one for each epoch that is done.
        epoch: how many those are.

    Raises:
        UserError: the state is damaged or was made of something else.
    """

    def __init__(
        self,
        folder: Path,
        made: object,
        parts: Mapping[str, object],
        shuffle: torch.Generator,
        device: torch.device,
        notify: Callable[[str], None],
    ):
        self._folder, self._made, self._parts, self._shuffle, self._device = (
            folder,
            json.dumps(made),
            parts,
            shuffle,
            device,
        )
        self.lines: list[dict[str, object]] = []
        folder.mkdir(exist_ok=True)
        if (folder / STATE).exists():
            self._resume()
            notify(f"resuming after epoch {self.epoch}")

    @property
    def epoch(self) -> int:
        return len(self.lines)

    def best(self, key: str) -> dict[str, object]:
        """The line of the first epoch with the greatest value under that key."""
        return max(self.lines, key=lambda line: line[key])

    def done(self, line: dict[str, object]) -> None:
        """Ends an epoch: all that the next one needs is on disk when this returns."""
        self.lines.append(line)
        cuda = self._device.type == "cuda"
        state = {
            "made": self._made,
            "lines": json.dumps(self.lines),
            "shuffle": self._shuffle.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._device) if cuda else None,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
        }
        with atomic_path(self._folder / STATE) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self._folder / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["made"] != self._made:
                raise UserError(
                    f"{self._folder}: holds work of other options or data; repeat those to resume it, or delete it"
                )
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            self._shuffle.set_state(state["shuffle"])
            torch.set_rng_state(state["rng"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"], self._device)
            self.lines = json.loads(state["lines"])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{path}: damaged ({first_line(error)[:80]}); delete {self._folder}") from None


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
        if work.is_dir() and not (work / STATE).exists():
            shutil.rmtree(work)


def become(work: Path, out: Path, epochs: Epochs) -> None:
    """Gives the finished folder its name, with the metrics of all epochs and without the state."""
    (work / METRICS).write_text("".join(json.dumps(line) + "\n" for line in epochs.lines), encoding="utf-8")
    for path in work.iterdir():
        if path.name != STATE:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    (work / STATE).unlink()
    os.replace(work, out)
    sync_folder(out.absolute().parent)
