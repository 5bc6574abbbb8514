"""Registry of extractors by name. An extractor's module is imported only when the extractor is requested.

Other packages add extractors through entry points: `my-extractor = my_package.module:MyExtractor` in the group
`erc_toolkit.extractors`. Built-in names cannot be overridden. docs/how-to/extractors.md has a complete example.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.plugins import PluginRegistry
from ...toolkit.base.words import counted
from ...toolkit.manifest import MODALITIES
from .option import option_specs
from .selection import FACE_NETWORK, IMAGE_MODEL, OPENSMILE, PROSODY, SPEECH_MODEL, TEXT_MODEL, VIDEO_MODEL, Options

if TYPE_CHECKING:
    from .base import Extractor, Setup

EXTRACTORS = {
    TEXT_MODEL: "erc_toolkit.extract.encoders.text.encoder:TextEncoder",
    OPENSMILE: "erc_toolkit.extract.encoders.audio.opensmile_sets:Functionals",
    PROSODY: "erc_toolkit.extract.encoders.audio.prosody:Prosody",
    SPEECH_MODEL: "erc_toolkit.extract.encoders.audio.speech:AudioModel",
    FACE_NETWORK: "erc_toolkit.extract.encoders.visual.face_network:FaceEncoder",
    IMAGE_MODEL: "erc_toolkit.extract.encoders.visual.image:ImageModel",
    VIDEO_MODEL: "erc_toolkit.extract.encoders.visual.video:VideoModel",
}
_REGISTRY = PluginRegistry("extractor", "erc_toolkit.extractors", EXTRACTORS)


def extractors() -> list[str]:
    """The names of all registered extractors, the toolkit's first. Those of other packages are not checked."""
    return _REGISTRY.names()


@dataclass(frozen=True)
class Registered:
    """An extractor's class and the package it comes from.

    Attributes:
        name: the name it is registered under.
        cls: the class, whose members have been checked.
        package: for example "package toys 1.2"; empty for built-in extractors.
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
        """An instance of the extractor's own options, from values or from the strings of a command line.

        Raises:
            UserError: an unknown option or an invalid value.
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
        """Checks that the extractor supports frame sequences. Text has none, so text extractors always pass.

        Raises:
            UserError: it does not.
        """
        if self.cls.modality != "text" and not self.cls.gives_sequences:
            raise UserError(f"--sequences: {self} does not support frame sequences; leave the option out")

    def build(self, options: Any, setup: Setup) -> Extractor:
        """Builds the extractor and checks it against the contract.

        Raises:
            UserError: a model that cannot be loaded, sequences requested from an extractor that does not support them,
                or a violated contract; names the member.
        """
        if setup.sequences:
            self.check_sequences()
        if self.built_in:
            return self.cls.build(options, setup)
        try:
            extractor = self.cls.build(options, setup)
            self._check(extractor, setup)
        except UserError:
            raise
        except Exception as error:  # another package's code may raise anything
            raise UserError(f"{self} cannot be built: {one_line(error)}") from error
        return extractor

    def _check(self, extractor: Extractor, setup: Setup) -> None:
        from .base import Extractor, Samples, Wants

        if not isinstance(extractor, Extractor):
            raise self._broken("build()", f"returned {_kind(extractor)}, not an Extractor")
        for member in ("name", "wants", "dim"):
            if not hasattr(extractor, member):
                raise self._broken(member, "is missing; set it in __init__")
        if not isinstance(extractor.name, str) or not extractor.name.isprintable() or not extractor.name.strip("./ "):
            raise self._broken("name", f"must be a printable string, not {extractor.name!r}")
        if not isinstance(extractor.wants, Wants) or extractor.wants.modality != self.cls.modality:
            fitting = {"text": "Texts", "audio": "Samples", "visual": "Crops or Frames"}[self.cls.modality]
            raise self._broken("wants", f"must be {fitting}(…) for {self.cls.modality}, not {_kind(extractor.wants)}")
        if (
            isinstance(extractor.wants, Samples)
            and extractor.wants.in_workers
            and extractor.wants.rate not in (None, 16_000)
        ):
            raise self._broken("wants", "in_workers needs a rate of 16000 or None")
        if type(extractor.dim) is not int or extractor.dim < 1:
            raise self._broken("dim", f"must be a positive whole number, not {extractor.dim!r}")
        import numpy as np

        if not isinstance(extractor.details, Mapping):
            raise self._broken("details", f"must map names to numpy types, not be {_kind(extractor.details)}")
        for name, kind in extractor.details.items():
            if not isinstance(name, str) or name in extractor.wants.details or np.dtype(kind).kind not in "fiub":
                raise self._broken("details", f"{name!r} is a reserved name, or {kind!r} is not a numeric type")
        if type(extractor.frame_width) is not int or extractor.frame_width < 0:
            raise self._broken("frame_width", f"must be 0 or a positive whole number, not {extractor.frame_width!r}")
        if (extractor.frame_width > 0) != (setup.sequences and self.cls.gives_sequences):
            requested = "are" if setup.sequences else "are not"
            raise self._broken("frame_width", f"is {extractor.frame_width}, although sequences {requested} requested")
        for member, columns in (("dimension_names", extractor.dim), ("frame_names", extractor.frame_width)):
            names = getattr(extractor, member)
            if names and len(names) != columns:
                raise self._broken(member, f"has {counted(len(names), 'name')} for {counted(columns, 'column')}")
        if not isinstance(extractor.matrices, Mapping) or not extractor.matrices:
            raise self._broken("matrices", "must map the name of each matrix to its attributes")
        provenance = extractor.provenance()
        if not isinstance(provenance, dict) or not isinstance(provenance.get("model"), str):
            raise self._broken("provenance()", "must return a dict with a string 'model'")
        for part in ("parameters", "versions"):
            if not isinstance(provenance.get(part, {}), dict):
                raise self._broken("provenance()", f"{part!r} must be a dict")
        try:
            json.dumps([provenance, dict(extractor.matrices)])
        except (TypeError, ValueError, RecursionError) as error:
            raise self._broken("provenance()", f"result is not JSON-serialisable ({error})") from None

    def _broken(self, member: str, what: str) -> UserError:
        return UserError(f"{self}: {member} {what}")


def find_extractor(name: str) -> Registered:
    """A registered extractor, with its class loaded and checked.

    Raises:
        UserError: there is no such extractor, two packages register its name, it cannot be loaded, or its class lacks a
            member of the contract; names the member.
    """
    cls = _REGISTRY.load(name)
    found = Registered(name, cls, " and ".join(_REGISTRY.packages(name)))
    if not found.built_in:
        _check_class(found)
    return found


def _check_class(found: Registered) -> None:
    from .base import Extractor

    cls: Any = found.cls
    if not inspect.isclass(cls) or not issubclass(cls, Extractor):
        raise UserError(f"{found} is not a subclass of erc_toolkit.extract.encoders.base.Extractor")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UserError(f"{found}: {cls.__name__} does not define {missing[0]}()")
    if getattr(cls, "modality", None) not in MODALITIES:
        raise UserError(f"{found}: {cls.__name__} must set modality to one of {', '.join(MODALITIES)}")
    if not isinstance(cls.gives_sequences, bool):
        raise UserError(f"{found}: gives_sequences must be True or False")
    try:
        specs = option_specs(cls.Options)
    except UserError as error:
        raise UserError(f"{found}: Options: {error.message}") from None
    if any(spec.many or spec.kind is object for spec in specs.values()):
        raise UserError(f"{found}: Options: a field must be str, int, float, bool or Path, or one of these or None")


def own_options(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """The options of one extractor by key, from options written "NAME.key"."""
    return {key.removeprefix(f"{name}."): value for key, value in given.items() if key.rpartition(".")[0] == name}


def check_owners(options: Options) -> None:
    """Checks that every one of `extractor_options` belongs to an extractor in use.

    Raises:
        UserError: one does not.
    """
    for key in options.extractor_options:
        if key.rpartition(".")[0] not in options.extractors:
            raise UserError(f"--extractor-option {key[:60]}: does not belong to any --extractor; write NAME.KEY=VALUE")


def _kind(value: object) -> str:
    return value.__name__ if inspect.isclass(value) else type(value).__name__
