"""`erc-toolkit extractors`: the kinds of features, what each needs, and its licence."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ...toolkit.commands.command import ToolkitCommand


@click.command("extractors", cls=ToolkitCommand)
def extractors_command() -> None:
    """List the kinds of features that extract can make, what each needs, its extra, and its licence.

    A kind is asked for by a line: erc-toolkit extract … --feature KIND:MODEL@KEY=VALUE,KEY=VALUE. The extractors of
    other packages are kinds too.
    """
    from ..encoders.kinds import KINDS
    from ..encoders.registry import EXTRACTORS, extractors

    for kind in KINDS.values():
        example = f"{kind.name}:{kind.example}" if kind.example else kind.name
        _show(kind.name, kind.modality, kind.about, example, kind.keys, kind.needs, kind.extra, kind.licence)
    for name in (one for one in extractors() if one not in EXTRACTORS):
        _show_of_package(name)


def _show(
    name: str, modality: str, about: str, example: str, keys: Iterable[str], needs: str, extra: str, licence: str
) -> None:
    click.echo(f"{name} ({modality}): {about}")
    for what, text in (
        ("example", example),
        ("keys", ", ".join(keys)),
        ("needs", needs),
        ("extra", extra or "none"),
        ("licence", licence),
    ):
        click.echo(f"  {what + ':':9}{text}")


def _show_of_package(name: str) -> None:
    """Another package's extractor; one that cannot be used says why."""
    from ...toolkit.base.errors import UserError
    from ..encoders.option import option_specs
    from ..encoders.registry import find_extractor

    try:
        found = find_extractor(name)
    except UserError as error:
        click.echo(f"{name}: cannot be used: {error.message}")
        return
    about = (found.cls.__doc__ or "no description").strip().split("\n")[0]
    keys = [*option_specs(found.cls.Options), "name"]
    _show(name, found.cls.modality, about, name, keys, found.package, "", "the package's own")
