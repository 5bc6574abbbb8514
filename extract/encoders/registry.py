"""The extractors by name. An extractor's module is imported when it is asked for.

Other packages add extractors through entry points: `my-extractor = my_package.module:MyExtractor` in the group
`erc_toolkit.extractors`. Built-in names are never replaced. docs/how-to/extractors.md shows a whole one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import MODALITIES
from .option import option_specs
from .selection import FACE_NETWORK, IMAGE_MODEL, OPENSMILE, SPEECH_MODEL, TEXT_MODEL, Options

if TYPE_CHECKING:
    from .base import Extractor, Setup

EXTRACTORS = {
    TEXT_MODEL: "erc_toolkit.extract.encoders.text:TextEncoder",
    OPENSMILE: "erc_toolkit.extract.encoders.opensmile_sets:Functionals",
    SPEECH_MODEL: "erc_toolkit.extract.encoders.speech:AudioModel",
    FACE_NETWORK: "erc_toolkit.extract.encoders.face_network:FaceEncoder",
    IMAGE_MODEL: "erc_toolkit.extract.encoders.image:ImageModel",
}
ENTRY_POINTS = "erc_toolkit.extractors"


def extractors() -> dict[str, str | list[EntryPoint]]:
    """Every registered extractor: its name to this package's "module:Class", or to other packages' entry points."""
    found: dict[str, str | list[EntryPoint]] = dict(EXTRACTORS)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        if entry.name not in EXTRACTORS:
            others = found.setdefault(entry.name, [])
            assert isinstance(others, list)
            others.append(entry)
    return found


@dataclass(frozen=True)
class Registered:
    """An extractor's class and where it is from.

    Attributes:
        name: that it is registered with.
        cls: the class, whose members are checked.
        package: "package toys 1.2"; empty for those of this package.
    """

    name: str
    cls: type[Extractor]
    package: str

    @property
    def built_in(self) -> bool:
        return not self.package

    def __str__(self) -> str:
        return f"extractor {self.name!r}" + (f" of {self.package}" if self.package else "")

    def options(self, values: Mapping[str, object]) -> Any:
        """An instance of the extractor's own options, from values or the texts of a command line.

        Raises:
            UserError: an option that it does not have, or a value that the option cannot have.
        """
        specs, given = option_specs(self.cls.Options), {}
        for name, value in values.items():
            if name not in specs:
                raise UserError(f"{self} has no option {name[:40]!r}; it has {', '.join(specs) or 'none'}")
            try:
                given[name] = specs[name].parsed(value)
            except ValueError as error:
                raise UserError(f"{self}, option {name}: {error}") from None
        return self.cls.Options(**given)

    def check_sequences(self) -> None:
        """Raises UserError where the extractor cannot give frame sequences. Texts have none: there they ask for
        nothing.
        """
        if self.cls.modality != "text" and not self.cls.gives_sequences:
            raise UserError(f"--sequences: {self} cannot give frame sequences; leave the option out")

    def build(self, options: Any, setup: Setup) -> Extractor:
        """The extractor, checked against the contract.

        Raises:
            UserError: a model that cannot be had, sequences of an extractor that gives none, or a broken contract;
                names the member.
        """
        if setup.sequences:
            self.check_sequences()
        if self.built_in:
            return self.cls.build(options, setup)
        try:
            made = self.cls.build(options, setup)
            self._check(made, setup)
        except UserError:
            raise
        except Exception as error:  # whatever another package's code does
            raise UserError(f"{self} cannot be made: {_first_line(error)}") from error
        return made

    def _check(self, made: Extractor, setup: Setup) -> None:
        from .base import Extractor, Samples, Wants

        if not isinstance(made, Extractor):
            raise self._broken("build()", f"gave {_kind(made)}, not an Extractor")
        for member in ("name", "wants", "dim"):
            if not hasattr(made, member):
                raise self._broken(member, "is missing; set it in __init__")
        if not isinstance(made.name, str) or not made.name.isprintable() or not made.name.strip("./ "):
            raise self._broken("name", f"must be a printable text, not {made.name!r}")
        if not isinstance(made.wants, Wants) or made.wants.modality != self.cls.modality:
            fitting = {"text": "Texts", "audio": "Samples", "visual": "Crops or Frames"}[self.cls.modality]
            raise self._broken("wants", f"must be {fitting}(…) for {self.cls.modality}, not {_kind(made.wants)}")
        if isinstance(made.wants, Samples) and made.wants.in_workers and made.wants.rate not in (None, 16_000):
            raise self._broken("wants", "in_workers needs a rate of 16000 or None")
        if type(made.dim) is not int or made.dim < 1:
            raise self._broken("dim", f"must be a whole number from 1, not {made.dim!r}")
        import numpy as np

        if not isinstance(made.details, Mapping):
            raise self._broken("details", f"must map names to numpy types, not be {_kind(made.details)}")
        for name, kind in made.details.items():
            if not isinstance(name, str) or name in made.wants.details or np.dtype(kind).kind not in "fiub":
                raise self._broken("details", f"{name!r} is the run's own name, or {kind!r} is no type of numbers")
        if type(made.frame_width) is not int or made.frame_width < 0:
            raise self._broken("frame_width", f"must be a whole number, not {made.frame_width!r}")
        if (made.frame_width > 0) != (setup.sequences and self.cls.gives_sequences):
            asked = "are" if setup.sequences else "are not"
            raise self._broken("frame_width", f"is {made.frame_width} where sequences {asked} asked for")
        if made.dimension_names and len(made.dimension_names) != made.dim:
            raise self._broken("dimension_names", f"has {len(made.dimension_names)} names for {made.dim} columns")
        if made.frame_names and len(made.frame_names) != made.frame_width:
            raise self._broken("frame_names", f"has {len(made.frame_names)} names for {made.frame_width} columns")
        if not isinstance(made.matrices, Mapping) or not made.matrices:
            raise self._broken("matrices", "must map the names of the matrices to what sets them apart")
        made_by = made.provenance()
        if not isinstance(made_by, dict) or not isinstance(made_by.get("model"), str):
            raise self._broken("provenance()", "must give a dict with a text 'model'")
        for part in ("parameters", "versions"):
            if not isinstance(made_by.get(part, {}), dict):
                raise self._broken("provenance()", f"{part!r} must be a dict")
        try:
            json.dumps([made_by, dict(made.matrices)])
        except (TypeError, ValueError, RecursionError) as error:
            raise self._broken("provenance()", f"JSON cannot hold what it gives ({error})") from None

    def _broken(self, member: str, what: str) -> UserError:
        return UserError(f"{self}: {member} {what}")


def find_extractor(name: str) -> Registered:
    """A registered extractor, its class loaded and checked.

    Raises:
        UserError: there is no such extractor, two packages claim its name, it cannot be loaded, or its class lacks a
            member of the contract; names it.
    """
    known = extractors()
    if name not in known:
        raise UserError(
            f"no extractor {name[:60]!r} is installed; there is {', '.join(known)}. Install the package that "
            f"registers it"
        )
    target = known[name]
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        return Registered(name, getattr(import_module(module), attribute), "")
    packages = [_package(entry) for entry in target]
    if len(target) > 1:
        raise UserError(f"extractor {name!r} is registered by {' and '.join(packages)}; uninstall one of them")
    try:
        cls = target[0].load()
    except Exception as error:  # whatever another package's code does at import
        raise UserError(f"extractor {name!r} of {packages[0]} cannot be loaded: {_first_line(error)}") from error
    found = Registered(name, cls, packages[0])
    _check_class(found, target[0].value)
    return found


def _check_class(found: Registered, value: str) -> None:
    from .base import Extractor

    cls: Any = found.cls
    if not inspect.isclass(cls) or not issubclass(cls, Extractor):
        raise UserError(f"{found}: {value} is no subclass of erc_toolkit.extract.encoders.base.Extractor")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UserError(f"{found}: {cls.__name__} lacks {missing[0]}()")
    if getattr(cls, "modality", None) not in MODALITIES:
        raise UserError(f"{found}: {cls.__name__} lacks modality, one of {', '.join(MODALITIES)}")
    if not isinstance(cls.gives_sequences, bool):
        raise UserError(f"{found}: gives_sequences must be True or False")
    try:
        specs = option_specs(cls.Options)
    except UserError as error:
        raise UserError(f"{found}: Options: {error.message}") from None
    if any(spec.many or spec.kind is object for spec in specs.values()):
        raise UserError(f"{found}: Options: a field must be str, int, float, bool or Path, or one of these or None")


def own_options(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """Of options written "NAME.key", those of one extractor, by their keys."""
    return {key.removeprefix(f"{name}."): value for key, value in given.items() if key.rpartition(".")[0] == name}


def check_owners(options: Options) -> None:
    """Makes sure that every `extractor_options` belongs to an extractor that is used.

    Raises:
        UserError: one does not.
    """
    for key in options.extractor_options:
        if key.rpartition(".")[0] not in options.extractors:
            raise UserError(
                f"--extractor-option {key[:60]}: is of no extractor that --extractor names; write NAME.KEY=VALUE"
            )


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _kind(value: object) -> str:
    return value.__name__ if inspect.isclass(value) else type(value).__name__


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
