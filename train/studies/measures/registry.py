"""Registry of study measures. A measure's module is imported when it is requested.

Other packages register a measure through an entry point, `my-measure = my_package.module:MyMeasure` in the group
`erc_toolkit.measures`; the class is a subclass of `erc_toolkit.train.studies.measures.base.Measure`.
"""

from __future__ import annotations

import inspect

from ....toolkit.base.errors import UserError, one_line
from ....toolkit.base.plugins import PluginRegistry
from .base import Measure

MEASURES = {
    "results": "erc_toolkit.train.studies.measures.results:Results",
    "positions": "erc_toolkit.train.studies.measures.positions:Positions",
    "noise": "erc_toolkit.train.studies.measures.noise:Noise",
    "missing": "erc_toolkit.train.studies.measures.missing:Missing",
    "confusion": "erc_toolkit.train.studies.measures.confusion:Confusion",
    "cost": "erc_toolkit.train.studies.measures.cost:Cost",
    "models": "erc_toolkit.train.studies.measures.models:Models",
}
STUDY_KEYS = ("title", "shows", "measure", "runs", "grid", "settings", "corpora")  # keys allowed in every study file
_METHODS = ("check", "measure", "summarise", "tables", "section", "conclude", "brief")


_REGISTRY = PluginRegistry("measure", "erc_toolkit.measures", MEASURES)


def measures() -> list[str]:
    """The names of all registered measures, the toolkit's first. Those of other packages are not checked."""
    return _REGISTRY.names()


def find_measure(name: str) -> Measure:
    """Returns the measure with the given name.

    Raises:
        UserError: it does not exist, two packages register it, its class cannot be loaded, or it breaks the contract.
    """
    found = _REGISTRY.load(name)
    measure = found() if name in MEASURES else _checked(name, found)
    measure.name = name
    return measure


def _checked(name: str, found: object) -> Measure:
    """An instance of another package's measure that has all members of the contract."""
    if not (isinstance(found, type) and issubclass(found, Measure)):
        raise _REGISTRY.error(name, f"is not a subclass of {Measure.__module__}.{Measure.__name__}")
    if missing := sorted(found.__abstractmethods__):
        raise _REGISTRY.error(name, f"({found.__name__}) does not define {', '.join(missing)}")
    try:
        measure = found()
    except Exception as error:
        raise _REGISTRY.error(name, f"cannot be built: {found.__name__}(): {one_line(error)}") from error
    _check_members(measure, f"{_REGISTRY.described(name)}: {found.__name__}")
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
