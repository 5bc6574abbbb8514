"""Registry of study measures. A measure's module is imported when it is requested.

Other packages register a measure through an entry point, `my-measure = my_package.module:MyMeasure` in the group
`erc_toolkit.measures`; the class is a subclass of `erc_toolkit.train.studies.measures.base.Measure`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ....toolkit.base.errors import UserError
from .base import Measure

ENTRY_POINTS = "erc_toolkit.measures"
MEASURES = {
    "results": "erc_toolkit.train.studies.measures.results:Results",
    "positions": "erc_toolkit.train.studies.measures.positions:Positions",
    "noise": "erc_toolkit.train.studies.measures.noise:Noise",
    "confusion": "erc_toolkit.train.studies.measures.confusion:Confusion",
    "cost": "erc_toolkit.train.studies.measures.cost:Cost",
    "models": "erc_toolkit.train.studies.measures.models:Models",
}
STUDY_KEYS = ("title", "shows", "measure", "runs", "grid")  # keys allowed in every study file
_METHODS = ("check", "measure", "summarise", "tables", "section", "conclude", "brief")


def measures() -> dict[str, str | list[EntryPoint]]:
    """Maps the name of every registered measure to its built-in "module:Class" or to its entry points.

    Built-in measures come first and cannot be replaced.
    """
    found: dict[str, str | list[EntryPoint]] = dict(MEASURES)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        registered = found.setdefault(entry.name, [])
        if isinstance(registered, list):
            registered.append(entry)
    return found


def find_measure(name: str) -> Measure:
    """Returns the measure with the given name.

    Raises:
        UserError: it does not exist, two packages register it, its class cannot be loaded, or it breaks the contract.
    """
    known = measures()
    if name not in known:
        raise UserError(f"measure {name!r}: is not installed; available measures are {', '.join(known)}")
    target = known[name]
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        measure = getattr(import_module(module), attribute)()
    else:
        measure = _of_another_package(name, target)
    measure.name = name
    return measure


def _of_another_package(name: str, entries: list[EntryPoint]) -> Measure:
    if len(entries) > 1:
        packages = " and ".join(_package(entry) for entry in entries)
        raise UserError(f"measure {name!r} is registered by {packages}; uninstall one of them")
    where = f"measure {name!r} of {_package(entries[0])}"
    try:
        found = entries[0].load()
    except Exception as error:  # another package's code may raise anything at import
        raise UserError(f"{where}: cannot be loaded ({_one_line(error)})") from error
    if not (isinstance(found, type) and issubclass(found, Measure)):
        raise UserError(f"{where}: {entries[0].value} is not a subclass of {Measure.__module__}.{Measure.__name__}")
    if missing := sorted(found.__abstractmethods__):
        raise UserError(f"{where}: {found.__name__} does not define {', '.join(missing)}")
    try:
        measure = found()
    except Exception as error:
        raise UserError(f"{where}: {found.__name__}() failed ({_one_line(error)})") from error
    _check_members(measure, f"{where}: {found.__name__}")
    return measure


def _check_members(measure: Measure, where: str) -> None:
    """Raises a UserError naming the first member that breaks the contract."""
    if not isinstance(measure.keys, tuple) or not all(isinstance(key, str) for key in measure.keys):
        raise UserError(f"{where}.keys must be a tuple of strings")
    if taken := [key for key in measure.keys if key in STUDY_KEYS]:
        raise UserError(f"{where}.keys: {taken[0]!r} is a key of every study; choose another name")
    for name in ("trains", "covers_results"):
        if not isinstance(getattr(measure, name), bool):
            raise UserError(f"{where}.{name} must be True or False")
    for name in _METHODS:
        wanted = list(inspect.signature(getattr(Measure, name)).parameters)[1:]
        method = getattr(measure, name)
        if not callable(method):
            raise UserError(f"{where}.{name} must be a method")
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError:
            raise UserError(f"{where}.{name} must take ({', '.join(wanted)})") from None


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
