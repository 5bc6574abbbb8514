"""A group with a command for each registered corpus, whose options are the keyword-only parameters of its reader."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path

import click

from ...toolkit.base.errors import UserError
from ...toolkit.commands.command import ToolkitCommand, ToolkitGroup
from ..corpora.registry import (
    Reader,
    corpora,
    corpus_packages,
    find_reader,
    read_corpus,
    reader_parameters,
    reader_summary,
)


def make_overlay_option() -> click.Option:
    """`--overlay` of the commands that apply one."""
    return click.Option(
        ["--overlay"],
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.jsonl",
        help="Corrected spans of the corpus, from erc-toolkit realign.",
    )


def reader_options(reader: Reader) -> list[click.Option]:
    """A reader's keyword-only parameters as command-line options.

    Raises:
        UserError: a parameter's annotation is not allowed for options.
    """
    options = []
    for name, (kind, help_text, parameter) in reader_parameters(reader).items():
        flag = "--" + name.replace("_", "-")
        shared: dict[str, typing.Any] = {"help": help_text, "show_default": True}
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


class CorpusGroup(ToolkitGroup):
    """A command group with one command for each registered corpus, in addition to those added to it.

    `COMMAND ROOT [options of the corpus] [shared options]` calls `run(manifest, **shared)`.

    Args:
        run: function that processes the manifest.
        shared: options that all corpora have.
        verb: the beginning of the commands' help.
        check: `check(inputs, **shared)` is called before the corpus is read, with the paths that its reader gets.
    """

    def __init__(
        self,
        *args,
        run: Callable[..., None],
        shared: list[click.Option],
        verb: str,
        check: Callable[..., None] = lambda inputs, **_: None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._run_with, self._shared, self._verb, self._check = run, shared, verb, check

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys([*super().list_commands(ctx), *corpora()]))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        return own if own is not None or name not in corpora() else self._command(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = [(name, self.commands[name].get_short_help_str(90)) for name in super().list_commands(ctx)]
        for name in corpora():
            if name in self.commands:
                continue
            # Another package's reader is not imported for its line of help, since it may import anything.
            packages = corpus_packages(name)
            lines.append((name, f"From {' and '.join(packages)}." if packages else reader_summary(find_reader(name))))
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def _command(self, name: str) -> click.Command:
        reader = find_reader(name)
        own = reader_options(reader)
        taken = {flag for option in self._shared for flag in option.opts}
        for option in own:
            if clash := taken.intersection(option.opts):
                raise UserError(
                    f"corpus {name!r}: its option {clash.pop()} is also an option of {self.name}; rename it"
                )

        def callback(root: Path, **values: object) -> None:
            options = {option.name: values.pop(option.name) for option in own}
            self._check([root, *(value for value in options.values() if isinstance(value, Path))], **values)
            self._run_with(read_corpus(name, root, **options), **values)

        argument = click.Argument(["root"], type=click.Path(path_type=Path))
        help_text = f"{self._verb} the corpus {name} in the folder ROOT.\n\n{reader_summary(reader)}"
        return ToolkitCommand(name, callback=callback, params=[argument, *own, *self._shared], help=help_text)
