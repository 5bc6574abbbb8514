"""`erc-toolkit merge`: the shards of an extraction become one store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand


@click.command("merge", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("parts", type=click.Path(path_type=Path, file_okay=False), nargs=-1)
def merge_command(store: Path, parts: tuple[Path, ...]) -> None:
    """Join the shards of an extraction into STORE.

    PARTS are the folders that the shards wrote, STORE.parts if none is given. They are removed once STORE is complete.
    """
    from ...toolkit.store import FeatureStore
    from ..run.assembly import assemble, parts_root

    assemble(store, list(parts) or [parts_root(store)], shlex.join(["erc-toolkit", *sys.argv[1:]]))
    with FeatureStore.open(store) as made:
        click.echo(f"wrote {store}: {len(made)} utterances, {', '.join(made.feature_names())}")
