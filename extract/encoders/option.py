"""Options are declared once, as fields of a dataclass, for the command line, the checks and the recorded provenance.

    @dataclass(frozen=True)
    class Options(CheckedOptions):
        window: float = option(0.5, help="Length of a window in seconds.", low=0.01, high=10)

Nothing heavy is imported here, so that `--help` stays light.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_numbers import finite

_KEY = "erc_toolkit.option"
_KINDS: tuple[type, ...] = (str, int, float, bool, Path)


def option(
    default: Any,
    *,
    help: str = "",
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    makes: tuple[str, ...] = (),
    of: tuple[str, ...] = (),
    changes_numbers: bool = True,
    metavar: str | None = None,
    default_text: str | None = None,
    folder: bool = False,
    on_command_line: bool = True,
    flag: str | None = None,
) -> Any:
    """A field of a dataclass of options.

    Args:
        default: the default value; a mapping is copied.
        help: a line for the command line.
        choices: the strings that are allowed; empty allows any. For a tuple field, the strings it may contain.
        low, high: the range of a number, inclusive.
        makes: for options of `erc-toolkit extract`, the modalities whose features depend on it. The store records it.
        of: names of the built-in extractors that read it; empty if it applies to any extractor.
        changes_numbers: False for an extractor's own option that does not change the features (a batch size); it is
            neither recorded nor used to identify the features.
        metavar, default_text: how the command line shows the value and the default.
        folder: whether a path is a folder to write to.
        on_command_line: False if the option is available in the library only.
        flag: its name on the command line, if that is not the field's.
    """
    about = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "makes": makes,
        "of": of,
        "changes_numbers": changes_numbers,
        "metavar": metavar,
        "default_text": default_text,
        "folder": folder,
        "on_command_line": on_command_line,
        "own_flag": flag,
    }
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={_KEY: about})
    return dataclasses.field(default=default, metadata={_KEY: about})


@dataclass(frozen=True)
class OptionSpec:
    """A declared option.

    Attributes:
        name: name of the field.
        kind: str, int, float, bool or Path; str for a tuple field, object for a mapping field.
        optional: whether None is allowed.
        many: whether the field is a tuple of strings.
        default: the default value.
        help, choices, low, high, makes, of, changes_numbers, metavar, default_text, folder, on_command_line: see
            `option`.
    """

    name: str
    kind: type
    optional: bool
    many: bool
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    makes: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    changes_numbers: bool = True
    metavar: str | None = None
    default_text: str | None = None
    folder: bool = False
    on_command_line: bool = True
    own_flag: str | None = None

    @property
    def flag(self) -> str:
        return self.own_flag or "--" + self.name.replace("_", "-")

    def checked(self, value: Any) -> Any:
        """The value, with an int converted to float and a str to Path where the option has that type.

        Raises:
            ValueError: the value is invalid.
        """
        if value is None:
            if not self.optional:
                raise ValueError(f"None is not allowed, must be {_WORDS.get(self.kind, 'a value')}")
            return None
        if self.many:
            if isinstance(value, str) or not all(isinstance(one, str) for one in value):
                raise ValueError(f"{_short(value)} is not a tuple of strings")
            if self.choices and (not value or set(value) - set(self.choices)):
                raise ValueError(f"{_short(','.join(value))}: choose from {', '.join(self.choices)}")
            return tuple(value)
        if self.kind is object:
            return value
        if self.kind is Path and isinstance(value, str):
            value = Path(value)
        if self.kind is float and type(value) is int:
            value = finite(value)
            value = math.inf if value is None else value  # an integer beyond every float
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError(f"{_short(value)} is invalid, must be {_WORDS[self.kind]}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{_short(value)} is not one of {', '.join(self.choices)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if finite(value) is None or value < self._least or value > self._most:
                raise ValueError(f"{value} is invalid, must be {_WORDS[self.kind]} {self._range()}".rstrip())
        return value

    def parsed(self, value: Any) -> Any:
        """Like `checked`, but parses a string as the command line does.

        Raises:
            ValueError: the value is invalid.
        """
        if isinstance(value, str) and not self.many and self.kind in (int, float, bool):
            try:
                value = _BOOLS[value.strip().lower()] if self.kind is bool else self.kind(value)
            except (KeyError, ValueError):
                raise ValueError(f"{_short(value)} is invalid, must be {_WORDS[self.kind]}") from None
        elif isinstance(value, str) and self.many:
            value = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        return self.checked(value)

    @property
    def _least(self) -> float:
        return -math.inf if self.low is None else self.low

    @property
    def _most(self) -> float:
        return math.inf if self.high is None else self.high

    def _range(self) -> str:
        if self.high is None:
            return "" if self.low is None else f"from {self.low:g}"
        return f"up to {self.high:g}" if self.low is None else f"from {self.low:g} to {self.high:g}"


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


@cache
def option_specs(options: type) -> Mapping[str, OptionSpec]:
    """The options of a dataclass by name, in the order of its fields.

    Raises:
        UserError: a field without a default, or whose type is not allowed for options.
    """
    where = f"{options.__module__}.{options.__qualname__}"
    if not dataclasses.is_dataclass(options):
        raise UserError(f"{where}: not a dataclass; write @dataclass(frozen=True) before it")
    try:
        hints = typing.get_type_hints(options)
    except NameError as error:
        raise UserError(f"{where}: an annotation cannot be resolved ({error})") from None
    found = {}
    for field in dataclasses.fields(options):
        kind, optional, many = hints[field.name], False, False
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            rest = [one for one in typing.get_args(kind) if one is not types.NoneType]
            optional, kind = len(rest) < len(typing.get_args(kind)), rest[0] if len(rest) == 1 else kind
        if typing.get_origin(kind) is tuple:
            kind, many = typing.get_args(kind)[0], True
        elif typing.get_origin(kind) is Mapping:
            kind = object
        if kind is not object and kind not in _KINDS:
            raise UserError(
                f"{where}, field {field.name}: an option cannot be {kind}; use str, int, float, bool or Path"
            )
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            raise UserError(f"{where}, field {field.name}: needs a default")
        found[field.name] = OptionSpec(field.name, kind, optional, many, default, **field.metadata.get(_KEY, {}))
    return found


@dataclass(frozen=True)
class CheckedOptions:
    """Base class of dataclasses of options, which checks the values on construction.

    Raises:
        UserError: an invalid value; names the option.
    """

    def __post_init__(self) -> None:
        for name, spec in option_specs(type(self)).items():
            value = getattr(self, name)
            try:
                checked = spec.checked(value)
            except ValueError as error:
                raise UserError(f"{spec.flag}: {error}") from None
            if spec.kind is Path or spec.many:
                object.__setattr__(self, name, checked)
