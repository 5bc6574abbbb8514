"""What runs on a node: an actor that loads a worker once and then does one task after the other.

Everything arrives as bytes and is unpickled here, after the versions were compared, so that a node with another
toolkit says so instead of failing somewhere.
"""

from __future__ import annotations

import os
import pickle
import secrets
import traceback
from pathlib import Path
from typing import Any

from ..cores import sleep_soon
from ..errors import UserError
from ..files import write_atomically
from ..version import __version__
from .nodes import Seat

READY, NEEDS, REFUSED = "ready", "needs", "refused"
DONE, FAILED, IN_FILE = "done", "failed", "in file"


class Host:
    """The actor. Its answers are tuples of plain values, not exceptions of ours, which need not exist elsewhere."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._shared: Path | None = None

    def begin(self, version: str, factory: bytes, seat: bytes) -> tuple[str, Any]:
        """Makes the worker: (READY, what it says of itself), or (REFUSED, why this node cannot be used).

        A worker that needs the team's supplies first has an attribute `needs` that is true: (NEEDS, None).
        """
        if version != __version__:
            return REFUSED, f"has erc-toolkit {__version__}, not {version}"
        try:
            given: Seat = pickle.loads(seat)
            if given.shared is not None and not given.shared.is_dir():
                return REFUSED, f"does not have the folder of --shared, {given.shared}"
            self._shared = given.shared
            if given.folder.is_dir():
                os.chdir(given.folder)
            _set_threads(given.threads)
            self._worker = pickle.loads(factory)(given)
            return (NEEDS, None) if getattr(self._worker, "needs", False) else (READY, self._worker.about())
        except Exception as error:
            return _refused(error)

    def supply(self, number: int, of: int, data: bytes) -> tuple[str, Any]:
        """Gives the worker one of its supplies, counted from 0; after the last one the answer is that of `begin`."""
        try:
            self._worker.supply(number, of, data)
            return (READY, self._worker.about()) if number == of - 1 else (NEEDS, None)
        except Exception as error:
            return _refused(error)

    def work(self, task: bytes) -> tuple[str, Any]:
        """The worker's result for a task: (DONE, bytes), (IN_FILE, its name in the shared folder) or (FAILED, why)."""
        try:
            result: bytes = self._worker.work(pickle.loads(task))
        except UserError as error:
            return FAILED, (True, error.message)
        except Exception as error:
            traceback.print_exc()
            return FAILED, (False, f"{type(error).__name__}: {error}")
        if self._shared is None:
            return DONE, result
        name = f"{secrets.token_hex(16)}.result"
        try:
            write_atomically(self._shared / name, result)
        except OSError as error:
            return FAILED, (True, f"--shared {self._shared}: {error.strerror}")
        return IN_FILE, name


def _refused(error: Exception) -> tuple[str, str]:
    if isinstance(error, UserError):
        return REFUSED, error.message
    traceback.print_exc()
    return REFUSED, f"cannot begin: {type(error).__name__}: {error}"


def _set_threads(count: int) -> None:
    sleep_soon()
    import torch

    os.environ["OMP_NUM_THREADS"] = str(count)  # of the processes that the worker starts
    torch.set_num_threads(count)
