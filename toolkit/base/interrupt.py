"""Ctrl-C and SIGTERM: as a request that work honours without loss, and as the end of a command in one line.

`take_over` is for the command line only (toolkit/commands/start.py); a program that uses the toolkit as a library keeps
its own handlers. Nothing heavy is imported here, because it is loaded before everything else.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from .errors import Interrupted

# Files that are incomplete as long as they are listed here; an end without unwinding removes them.
INCOMPLETE: set[str] = set()
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated by SIGTERM"}
_UNWIND_S = 1.0  # how long unwinding may take after SIGTERM, before the process ends without it


class Stopped(SystemExit):
    """A signal's request to end, raised in the main thread. Neither click nor `except Exception` takes it for theirs.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(128 + number)


class _State:
    received: int | None = None  # the signal that has begun the end
    ending = False  # the command is over: nothing is left to unwind
    said = False  # the line on standard error


def take_over() -> None:
    """From now on SIGINT and SIGTERM raise `Stopped` in the main thread, which `command.reported_errors` reports.

    While a module is being imported, after a second signal, when the command is over, and when unwinding after SIGTERM
    takes too long, the process ends at once instead: libraries that are half imported do not unwind reliably.
    """
    for number in _WORDS:
        signal.signal(number, _receive)
    sys.unraisablehook = _unraisable


def end() -> None:
    """Declares the command over: from now on a signal ends the process at once, as does one that was received before,
    whatever libraries have made of it."""
    _State.ending = True
    if _State.received is not None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        leave(_State.received)


def received() -> int | None:
    """The signal that has ended the command, if one has."""
    return _State.received


def said() -> None:
    """Declares that the user has been told, so that the line appears once."""
    _State.said = True


def words(number: int) -> str:
    """What a signal did, for the user."""
    return _WORDS.get(signal.Signals(number), f"ended by {signal.Signals(number).name}")


def leave(number: int) -> None:
    """Ends the process now: says so, removes incomplete files, and exits with 128 + `number`. Children follow."""
    if not _State.said:
        _State.said = True
        with suppress(OSError):
            os.write(2, f"Error: {words(number)}\n".encode())
    for path in list(INCOMPLETE):
        with suppress(OSError):
            os.unlink(path)
    os._exit(128 + number)


def _receive(number: int, frame: FrameType | None) -> None:
    first, _State.received = _State.received is None, _State.received or number
    if not first or _State.ending or _importing(frame):
        leave(_State.received)
    if number == signal.SIGTERM:
        timer = threading.Timer(_UNWIND_S, leave, (number,))
        timer.daemon = True
        timer.start()
    raise Stopped(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """A `Stopped` that was raised where Python drops exceptions, in a finaliser for instance, is raised again."""
    if isinstance(unraisable.exc_value, Stopped):
        _State.received = None
        _thread.interrupt_main(signal.Signals(unraisable.exc_value.number))
    else:
        sys.__unraisablehook__(unraisable)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets; a second Ctrl-C does not wait for the work."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and callable(before):
            before(number, frame)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Turns an interruption into an `Interrupted` that says what is kept and how to continue."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        raise Interrupted(message, getattr(stop, "number", signal.SIGINT)) from None
