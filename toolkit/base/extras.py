"""The packages of the extras, which are needed for some work only."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import UserError


def require_extra(what: str, package: str, extra: str, module: str | None = None) -> None:
    """Checks that a package of an extra is installed, without importing it.

    Args:
        what: what needs it, for the message, e.g. "--lora".
        package: its name.
        extra: name of the extra.
        module: what it is imported as, if that is not its name.

    Raises:
        UserError: it is not; names it and the command that installs it.
    """
    if find_spec(module or package) is None:
        raise UserError(f"{what} needs {package}, which is not installed: pip install 'erc-toolkit[{extra}]'")
