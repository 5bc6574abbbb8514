"""`erc-toolkit merge`: joins the shards of an extraction into one store."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand, command_line
from ...toolkit.commands.options import overwrite_option


@click.command("merge", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("parts", type=click.Path(path_type=Path, file_okay=False), nargs=-1)
@overwrite_option()
def merge_command(store: Path, parts: tuple[Path, ...], overwrite: bool) -> None:
    """Join the shards of an extraction into STORE.

    PARTS are the folders written by the shards, by default STORE.parts. They are removed once STORE is complete.
    Features that STORE already has are kept.
    """
    from ...toolkit.base.outputs import check_output
    from ...toolkit.store import FeatureStore, is_extracted
    from ..run.assembly import merge, parts_root

    folders = list(parts) or [parts_root(store)]
    check_output(store, folders, earlier=is_extracted, overwrite=overwrite, option="STORE")
    merge(store, folders, command_line(), overwrite)
    with FeatureStore.open(store) as merged:
        click.echo(f"wrote {store}: {counted(len(merged), 'utterance')}, {', '.join(merged.feature_names())}")
