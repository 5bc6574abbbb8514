"""Whether the libraries that are installed are the releases that the toolkit needs; asked when an import has failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import InvalidRequirement, Requirement

_PACKAGE = "erc-toolkit"


def unmet(requirements: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """(requirement, release that is there) of every library whose release is not one that is needed.

    Args:
        requirements: as pip writes them; by default the toolkit's own. Those of extras are no part of it.

    A library that is absent is given as `"nothing"`; what cannot be told, as in a checkout that was never installed, is
    left out.
    """
    if requirements is None:
        try:
            requirements = requires(_PACKAGE) or ()
        except PackageNotFoundError:
            return []
    found: list[tuple[str, str]] = []
    for text in requirements:
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(needed.name)
        except PackageNotFoundError:
            there = "nothing"
        if there == "nothing" or not needed.specifier.contains(there, prereleases=True):
            found.append((f"{needed.name}{needed.specifier}", there))
    return found


def failed_import(error: BaseException) -> str | None:
    """What to do about an error that came up while a module was imported, in one line; `None` if that was not so.

    Releases of compiled libraries that do not go together fail in ways of their own: torchaudio 2.11.1 beside torch
    2.11.0 with an `OSError` on a symbol, torchvision beside another torch with a `RuntimeError` on an operator.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [f.f_globals.get("__name__") for f in frames if f.f_code.co_name == "<module>"]
    if all(name == "__main__" for name in modules):
        return None
    wrong = unmet()
    if not wrong:
        return None
    had = ", ".join(f"{needed} ({there} is installed)" for needed, there in wrong)
    wanted = " ".join(f"'{needed}'" for needed, _ in wrong)
    return (
        f"a library could not be imported ({type(error).__name__}), and erc-toolkit needs {had}; pip install {wanted}"
    )
