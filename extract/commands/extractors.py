"""`erc-toolkit extractors`: the kinds of features, what each needs, and its licence."""

from __future__ import annotations

import click

from ...toolkit.commands.command import ToolkitCommand


@click.command("extractors", cls=ToolkitCommand)
def extractors_command() -> None:
    """List the kinds of features that extract can make, what each needs, its extra, and its licence.

    A kind is asked for by a line: erc-toolkit extract … --feature KIND:MODEL@KEY=VALUE,KEY=VALUE. The extractors of
    other packages are kinds too.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..encoders.kinds import KINDS
    from ..encoders.registry import EXTRACTORS, extractors

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240  # lines of a file may be longer than 80 characters
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "modality", "what it is", "example", "keys", "needs", "extra", "licence"):
        table.add_column(column, overflow="fold")
    for kind in KINDS.values():
        example = f"{kind.name}:{kind.example}" if kind.example else kind.name
        cells = (
            kind.name,
            kind.modality,
            kind.about,
            example,
            ", ".join(kind.keys),
            kind.needs,
            kind.extra or "none",
            kind.licence,
        )
        table.add_row(*map(escape, cells))
    for name in (one for one in extractors() if one not in EXTRACTORS):
        table.add_row(escape(name), *_of_package(name))
    console.print(table)


def _of_package(name: str) -> list[str]:
    """The other cells of another package's extractor; one that cannot be used says why."""
    from rich.markup import escape

    from ...toolkit.base.errors import UserError
    from ..encoders.option import option_specs
    from ..encoders.registry import find_extractor

    try:
        found = find_extractor(name)
    except UserError as error:
        return ["", escape(error.message), "", "", "", "", ""]
    keys = ", ".join([*option_specs(found.cls.Options), "name"])
    what = (found.cls.__doc__ or "").strip().split("\n")[0]
    return [
        found.cls.modality,
        escape(what),
        escape(name),
        escape(keys),
        escape(found.package),
        "",
        "the package's own",
    ]
