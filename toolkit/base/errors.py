"""The two kinds of trouble the command line knows."""

import click


class UserError(click.ClickException):
    """A mistake or a lack that the user can mend.

    The message is one line that names the file or option and the remedy; the command line prints it without a
    traceback and exits with status 1.
    """

    exit_code = 1


class FaultError(click.ClickException):
    """A fault of ours or of the machine, not of the input: exit status 3, so that a script can tell it apart."""

    exit_code = 3
