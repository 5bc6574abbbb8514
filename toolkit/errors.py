"""The two kinds of trouble the command line knows."""

import click


class UserError(click.ClickException):
    """A mistake or a lack that the user can mend.

    The message is one line that names the file or option and the remedy; the command line prints it without a
    traceback and exits with status 1.
    """

    exit_code = 1
