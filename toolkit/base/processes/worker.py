"""What a worker process of the pool does: sets up, then one task after the other."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ..cores import bind_to
from ..errors import FaultError, UserError
from ..words import shorten
from . import memory

# The kinds of messages that a worker sends.
READY, UNABLE, DONE, NO_MEMORY = "ready", "unable", "done", "no memory"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result, on one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker receives at startup. Functions are pickled, so that the worker itself reports import errors.

    Attributes: see `run_tasks`; `memory` is in bytes, None for no bound; `environ` are the environment variables of
    the process that asks, which may be others by now than those that the fork server was started with; `cores` are
    those that the worker is bound to, None for no others than its parent's.
    """

    functions: bytes
    environ: dict[str, str]
    threads: int | None
    gpu: int | None
    memory: int | None
    cores: list[int] | None = None


def serve(pipe: Connection, start: Start) -> None:
    """Handles the tasks that arrive through the pipe, until it is closed."""
    memory.die_first()
    try:
        work = _prepare(start)
    except UserError as error:
        pipe.send((UNABLE, UserError(error.message)))
        return
    except Exception as error:
        pipe.send((UNABLE, FaultError(f"a worker process could not start: {reason(error)}")))
        return
    try:
        pipe.send((READY, None))
        while True:
            result = _result(work, pipe.recv_bytes())
            try:
                pipe.send(result)
            except OSError:
                raise
            except Exception as error:  # a result that cannot be pickled
                pipe.send((DONE, Failure(reason(error))))
    except (EOFError, OSError):
        return  # the parent is gone


def _prepare(start: Start) -> Callable[[Any], Any]:
    os.environ.clear()
    os.environ.update(start.environ)
    if start.gpu is not None:
        # Before anything asks CUDA for its devices. The number counts those that the user left visible.
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[start.gpu] if visible else str(start.gpu)
    if start.cores is not None:
        bind_to(start.cores)  # before PyTorch starts threads
    work, set_up = pickle.loads(start.functions)
    if start.threads is not None:
        import torch

        torch.set_num_threads(start.threads)
    if set_up is not None:
        set_up()
    if start.memory is not None:
        memory.bound(start.memory)
    return work


def _result(work: Callable[[Any], Any], pickled: bytes) -> tuple[str, Any]:
    try:
        return DONE, work(pickle.loads(pickled))
    except MemoryError as error:
        return NO_MEMORY, Failure(f"needs more memory than there is ({reason(error)})")
    except Exception as error:
        return DONE, Failure(reason(error))


def reason(error: BaseException) -> str:
    """An exception on one line, with the place where it was raised unless it is the user's error."""
    if isinstance(error, UserError):
        return error.message
    text = f"{type(error).__name__}: {shorten(str(error), 300)}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].name} in {frames[-1].filename})" if frames else text
