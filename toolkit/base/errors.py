"""The kinds of errors that the toolkit raises deliberately; `toolkit.commands.command` prints them."""

from __future__ import annotations

import signal

from .words import shorten


class ToolkitError(Exception):
    """An error with a self-contained message; the command line prints it without a traceback.

    Attributes:
        message: one line, which is also `str(error)`.
        exit_code: exit status of the command line for this error.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Names of files and fields can contain anything, line ends and undecodable bytes too.
        self.message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        super().__init__(self.message)


class UserError(ToolkitError):
    """A mistake in the input, the options or the machine's setup, which the user can correct: exit status 1.

    The message names the file or option and the remedy.
    """

    exit_code = 1


class FaultError(ToolkitError):
    """A fault of the toolkit or of the machine, not of the input: exit status 3, so that a script can tell it apart."""

    exit_code = 3


class Interrupted(ToolkitError):
    """Ctrl-C or SIGTERM ended the work early; the message says what is kept and how to continue.

    The exit status is what shells use for a signal: 130 after Ctrl-C, 143 after SIGTERM.
    """

    exit_code = 128 + signal.SIGINT

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        self.exit_code = 128 + number
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException, at_most: int = 300) -> str:
    """An error of somebody else's code in one line: the name of its class, unless it goes without saying, and message.

    Args:
        error: any exception.
        at_most: characters of its message that are kept (`words.shorten`).
    """
    text = shorten(str(error), at_most)
    if isinstance(error, ImportError | AttributeError | ToolkitError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
