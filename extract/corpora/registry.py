"""Readers of raw corpora, a file each: from the folder that an archive unpacks to, to a manifest.

A corpus is one function `read_<name>(root: Path, *, options) -> Manifest`. Its keyword-only parameters are its options
on the command line, annotated `Annotated[T, "help"]` with T a Literal of texts, bool, str, int, float or Path, or one
of these or None. It is registered by a line in `CORPORA`, or by another package through the entry-point group
`erc_toolkit.corpora`. docs/how-to/add-a-corpus.md shows a whole one.
"""

from __future__ import annotations

import inspect
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import Manifest, manifest_from_rows

CORPORA = {
    "iemocap": "erc_toolkit.extract.corpora.iemocap:read_iemocap",
    "meld": "erc_toolkit.extract.corpora.meld:read_meld",
    "folder": "erc_toolkit.extract.corpora.folder:read_folder",
    "subtitles": "erc_toolkit.extract.corpora.subtitles:read_subtitles",
}
ENTRY_POINTS = "erc_toolkit.corpora"

Reader = Callable[..., Manifest]


def corpora() -> dict[str, str | list[EntryPoint]]:
    """Every registered corpus: its name to this package's "module:function", or to other packages' entry points."""
    found: dict[str, str | list[EntryPoint]] = dict(CORPORA)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        if entry.name not in CORPORA:
            found.setdefault(entry.name, []).append(entry)
    return found


def find_reader(name: str) -> Reader:
    """The reading function of a corpus.

    Raises:
        UserError: there is no such corpus, two packages claim its name, or it cannot be loaded.
    """
    known = corpora()
    if name not in known:
        raise UserError(f"no corpus {name!r}; there are {', '.join(known)}")
    target = known[name]
    if isinstance(target, str):
        module, function = target.split(":")
        return getattr(import_module(module), function)
    if len(target) > 1:
        raise UserError(
            f"corpus {name!r} is registered by {' and '.join(map(_package, target))}; uninstall one of them"
        )
    try:
        reader = target[0].load()
    except Exception as error:  # whatever another package's code does at import
        raise UserError(f"corpus {name!r} of {_package(target[0])} cannot be loaded: {_first_line(error)}") from error
    if not callable(reader):
        raise UserError(f"corpus {name!r} of {_package(target[0])}: {target[0].value} is not a function")
    return reader


def read_corpus(name: str, root: Path | str, /, **options: object) -> Manifest:
    """Reads a raw corpus and checks what its reader made as a manifest file is checked.

    Args:
        name: a registered corpus, e.g. "meld".
        root: the folder that holds it.
        **options: the reader's own.

    Raises:
        UserError: no such corpus or option, or what the reader finds wrong.
    """
    reader = find_reader(name)
    if unknown := [option for option in options if option not in _parameters(reader)]:
        known = ", ".join(_parameters(reader)) or "none"
        raise UserError(f"corpus {name!r} has no option {unknown[0]!r}; it has {known}")
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder; give the one that holds the corpus")
    made = reader(Path(root), **options)
    source = f"what the reader of {name} made"
    rows = ((i, {f: getattr(u, f) for f in u.__slots__}) for i, u in enumerate(made.utterances, 1))
    checked = manifest_from_rows(source, rows, made.corpus, made.labels, made.root, made.notes, unit="utterance")
    for number, utterance in enumerate(checked.utterances, 1):
        try:
            json.dumps(utterance.extra)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{source}, utterance {number}, field extra: JSON cannot hold it ({error})") from None
    return checked


def reader_options(reader: Reader) -> list[click.Option]:
    """A reader's keyword-only parameters as options of the command line.

    Raises:
        UserError: a parameter's annotation is none of those that an option can have.
    """
    options = []
    for name, (kind, help_text, parameter) in _parameters(reader).items():
        flag = "--" + name.replace("_", "-")
        shared: dict[str, object] = {"help": help_text, "show_default": True}
        if parameter.default is inspect.Parameter.empty:
            shared["required"] = True
        else:
            shared["default"] = parameter.default
        if kind is bool:
            pair = f"{flag}/--no-{flag[2:]}" if parameter.default else flag
            options.append(click.Option([pair, name], is_flag=True, **shared))
        elif typing.get_origin(kind) is typing.Literal:
            options.append(click.Option([flag, name], type=click.Choice(typing.get_args(kind)), **shared))
        elif kind is Path:
            options.append(click.Option([flag, name], type=click.Path(path_type=Path), **shared))
        elif kind in (str, int, float):
            options.append(click.Option([flag, name], type=kind, **shared))
        else:
            raise UserError(f"{reader.__module__}.{reader.__name__}, parameter {name}: an option cannot be {kind}")
    return options


class CorpusGroup(click.Group):
    """A command group with one command for each registered corpus, beside those that are added to it.

    `COMMAND ROOT [the corpus's options] [shared options]` calls `run(manifest, **shared)`.

    Args:
        run: what to do with the manifest.
        shared: the options that every corpus has here.
        verb: begins the commands' help.
    """

    def __init__(self, *args, run: Callable[..., None], shared: list[click.Option], verb: str, **kwargs):
        super().__init__(*args, **kwargs)
        self._run_with, self._shared, self._verb = run, shared, verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys([*super().list_commands(ctx), *corpora()]))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        return own if own is not None or name not in corpora() else self._command(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = [(name, self.commands[name].get_short_help_str(90)) for name in super().list_commands(ctx)]
        for name, target in corpora().items():
            if name in self.commands:
                continue
            # Another package's reader is not imported for its line of help: it may import anything.
            what = (
                _summary(find_reader(name))
                if isinstance(target, str)
                else f"From {' and '.join(map(_package, target))}."
            )
            lines.append((name, what))
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def _command(self, name: str) -> click.Command:
        reader = find_reader(name)
        own = reader_options(reader)
        taken = {flag for option in self._shared for flag in option.opts}
        for option in own:
            if clash := taken.intersection(option.opts):
                raise UserError(f"corpus {name!r}: its option {clash.pop()} is one of {self.name}'s own; rename it")

        def callback(root: Path, **values: object) -> None:
            options = {option.name: values.pop(option.name) for option in own}
            self._run_with(read_corpus(name, root, **options), **values)

        argument = click.Argument(["root"], type=click.Path(path_type=Path))
        help_text = f"{self._verb} the corpus {name} in the folder ROOT.\n\n{_summary(reader)}"
        return click.Command(name, callback=callback, params=[argument, *own, *self._shared], help=help_text)


def _parameters(reader: Reader) -> Mapping[str, tuple[object, str, inspect.Parameter]]:
    """Name -> (type without None, help, parameter) of the keyword-only parameters."""
    try:
        hints = typing.get_type_hints(reader, include_extras=True)
    except NameError as error:
        raise UserError(f"{reader.__module__}.{reader.__name__}: an annotation cannot be resolved ({error})") from None
    found = {}
    for name, parameter in inspect.signature(reader).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, help_text = hints.get(name, str), ""
        if typing.get_origin(kind) is typing.Annotated:
            kind, help_text, *_ = typing.get_args(kind)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            rest = [one for one in typing.get_args(kind) if one is not types.NoneType]
            kind = rest[0] if len(rest) == 1 else kind
        found[name] = kind, str(help_text), parameter
    return found


def _summary(reader: Reader) -> str:
    """The first line of a reader's docstring."""
    return (inspect.getdoc(reader) or reader.__name__).splitlines()[0]


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
