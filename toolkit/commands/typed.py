"""Running a command of the toolkit from another one, as if the user had typed it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import click

from ..base.errors import UserError


def run_typed(ctx: click.Context, arguments: Sequence[str], *, show: bool = True) -> None:
    """Prints a command of the toolkit and runs it in this process.

    Args:
        ctx: of the running command.
        arguments: after `erc-toolkit`.
        show: whether it is printed.

    Raises:
        ToolkitError: what the command reports to its user; a UserError also for options that it does not accept.
    """
    if show:
        click.secho(f"\n$ erc-toolkit {shlex.join(arguments)}", bold=True)
    typed, sys.argv = sys.argv, ["erc-toolkit", *arguments]  # what the command records as its command line
    try:
        ctx.find_root().command.main(list(arguments), prog_name="erc-toolkit", standalone_mode=False)
    except click.ClickException as error:
        raise UserError(f"{arguments[0]}: {error.format_message()}") from None
    finally:
        sys.argv = typed
