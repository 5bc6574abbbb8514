"""`erc-toolkit merge`: joins the shards of an extraction into one store."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand, command_line


@click.command("merge", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("parts", type=click.Path(path_type=Path, file_okay=False), nargs=-1)
def merge_command(store: Path, parts: tuple[Path, ...]) -> None:
    """Join the shards of an extraction into STORE.

    PARTS are the folders written by the shards, by default STORE.parts. They are removed once STORE is complete.
    """
    from ...toolkit.store import FeatureStore
    from ..run.assembly import merge, parts_root

    merge(store, list(parts) or [parts_root(store)], command_line())
    with FeatureStore.open(store) as merged:
        click.echo(f"wrote {store}: {counted(len(merged), 'utterance')}, {', '.join(merged.feature_names())}")
