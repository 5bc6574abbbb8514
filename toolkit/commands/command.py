"""click commands that print a `ToolkitError` on one line; every command and group of the toolkit is one of these."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..base import interrupt
from ..base.disk import disk_faults
from ..base.errors import Interrupted, ToolkitError, UserError
from ..base.reading.texts import representable
from ..base.words import did_you_mean

_PLACES = ("out", "folder", "store")  # parameters that name what a command writes, the first given one of them


def command_line() -> str:
    """The command line of this process, for records; bytes that are not UTF-8 appear as escapes."""
    return representable(shlex.join(["erc-toolkit", *sys.argv[1:]]))


@contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the process on a `ToolkitError`: "Error: <message>" on standard error, and the error's exit status.

    So it does on a signal (see `interrupt`), and on a failed import when a library is of another release than is needed
    (see `releases`).
    """
    try:
        yield
    except ToolkitError as error:
        if isinstance(error, Interrupted):
            interrupt.said()
        click.ClickException(error.message).show()
        sys.exit(error.exit_code)
    except interrupt.Stopped as stop:
        interrupt.said()
        click.ClickException(interrupt.words(stop.number)).show()
        raise
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        from ..base.releases import failed_import  # here, so that what is needed after a failure delays no start

        message = failed_import(error)
        if message is None:
            raise
        click.ClickException(message).show()
        sys.exit(1)


class ToolkitCommand(click.Command):
    """A command that reports a `ToolkitError` when it is run as the main command.

    With `standalone_mode=False` the error is raised to the caller.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it; a NUL character, which no path can contain, is refused before anything is opened."""
        for i, argument in enumerate(args):
            if "\0" in argument:
                option = args[i - 1] if i and args[i - 1].startswith("-") else "argument"
                raise UserError(f"{option} {argument!r}: contains a NUL character")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it; a full disk, a read-only folder and the like are a `UserError`."""
        with disk_faults(next(filter(None, map(ctx.params.get, _PLACES)), None)):
            return super().invoke(ctx)

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
        for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")
        with reported_errors():
            return super().main(args, prog_name, complete_var, True, **extra)


class ToolkitGroup(ToolkitCommand, click.Group):
    """A group that reports a `ToolkitError`, with commands that are `ToolkitCommand`s by default."""

    command_class = ToolkitCommand
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; for an unknown command the nearest ones are suggested."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not args or args[0] in self.list_commands(ctx) or args[0].startswith("-"):
                raise
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"No such command {args[0]!r}{hint}", error.ctx) from None
