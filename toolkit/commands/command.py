"""click commands that print a `ToolkitError` on one line; every command and group of the toolkit is one of these."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..base.errors import ToolkitError


@contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the process on a `ToolkitError`: "Error: <message>" on standard error, and the error's exit status."""
    try:
        yield
    except ToolkitError as error:
        click.ClickException(error.message).show()
        sys.exit(error.exit_code)


class ToolkitCommand(click.Command):
    """A command that reports a `ToolkitError` when it is run as the main command.

    With `standalone_mode=False` the error is raised to the caller.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        with reported_errors():
            return super().main(args, prog_name, complete_var, True, **extra)


class ToolkitGroup(ToolkitCommand, click.Group):
    """A group that reports a `ToolkitError`, with commands that are `ToolkitCommand`s by default."""

    command_class = ToolkitCommand
    group_class = type
