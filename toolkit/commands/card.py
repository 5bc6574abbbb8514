"""`erc-toolkit card`: the dataset card of a store."""

from __future__ import annotations

from pathlib import Path

import click

from .command import ToolkitCommand
from .options import overwrite_option


@click.command("card", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the card to this file, e.g. README.md. [default: print it]",
)
@overwrite_option()
def card_command(store: Path, out: Path | None, overwrite: bool) -> None:
    """Write a dataset card for STORE: contents, provenance, and the licences that apply."""
    from ..base.files import write_atomically
    from ..base.outputs import check_output, is_stamped, stamped
    from ..exchange.card import card_of
    from ..store import FeatureStore

    if out is not None:
        check_output(out, [store], earlier=lambda path: is_stamped(path, "card"), overwrite=overwrite)
    with FeatureStore.open(store) as opened:
        text = card_of(opened, opened.feature_names())
    if out is None:
        click.echo(text, nl=False)
        return
    write_atomically(out, stamped(text, "card").encode("utf-8"))
    click.echo(f"wrote {out}")
