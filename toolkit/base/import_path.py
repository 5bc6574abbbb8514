"""The import path of child processes: this process's, without the working directory and the script's directory.

Python puts one of these two first on `sys.path`, so a `train.py` that happens to be there would shadow a module of the
same name that an installed package imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # deleted in the meantime
        return ""


_STARTED_IN = _here()


def import_path() -> list[str]:
    """The entries of `sys.path` to pass on to a child process, absolute and in order.

    Excluded are "", relative entries, the working directory (now and when the toolkit was imported) and the directory
    of the running script. One of these is kept if it was added explicitly: as an absolute path in PYTHONPATH, or after
    the standard library, where Python puts site-packages and the entries of their .pth files.
    """
    implicit = {os.path.realpath(folder) for folder in (_STARTED_IN, _here(), _script_folder()) if folder}
    implicit -= {os.path.realpath(entry) for entry in python_path()}
    library = os.path.dirname(os.__file__)
    end = sys.path.index(library) if library in sys.path else len(sys.path)
    return [
        entry
        for position, entry in enumerate(sys.path)
        if os.path.isabs(entry) and (position >= end or os.path.realpath(entry) not in implicit)
    ]


def python_path() -> list[str]:
    """The absolute entries of PYTHONPATH; empty or relative ones refer to the working directory."""
    if sys.flags.ignore_environment:
        return []
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]


def _script_folder() -> str:
    """The directory that `python SCRIPT` puts on the path; "" for `python -m MODULE`, `python -c` and a prompt."""
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name != "__main__"):  # a directory with a __main__.py is a script too
        return ""
    return os.path.dirname(os.path.realpath(os.path.join(_STARTED_IN, file)))


@contextmanager
def isolated_start() -> Iterator[None]:
    """Within this context, multiprocessing starts processes that import neither from these directories nor the script.

    By default it starts interpreters with `-c`, which puts the working directory on their path, copies this process's
    path to them, and makes them import the script, which would run again in each of them if it has no
    `if __name__ == "__main__"`.
    """
    from multiprocessing import resource_tracker, spawn, util

    with _LOCK, ExitStack() as stack:
        prepare, flags = spawn.get_preparation_data, getattr(util, _FLAGS)

        def prepared(name: str) -> dict[str, Any]:
            data = {key: value for key, value in prepare(name).items() if not key.startswith("init_main_from")}
            return data | {"sys_path": import_path()}

        stack.enter_context(_replaced(spawn, "get_preparation_data", prepared))
        stack.enter_context(_replaced(util, _FLAGS, lambda: [*flags(), "-P"]))
        given = os.environ.get("PYTHONPATH")
        if given and not all(map(os.path.isabs, given.split(os.pathsep))):
            os.environ["PYTHONPATH"] = os.pathsep.join(python_path())
            stack.callback(os.environ.__setitem__, "PYTHONPATH", given)
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C would end a worker that does not ignore it yet
            resource_tracker.ensure_running()  # here, because it unblocks the signal
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        yield


_LOCK = threading.Lock()
_FLAGS = "_args_from_interpreter_flags"


@contextmanager
def _replaced(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
