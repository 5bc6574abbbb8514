"""`erc-toolkit card`: the dataset card of a store."""

from __future__ import annotations

from pathlib import Path

import click

from .command import ToolkitCommand


@click.command("card", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the card to this file, e.g. README.md. [default: print it]",
)
def card_command(store: Path, out: Path | None) -> None:
    """Write a dataset card for STORE: contents, provenance, and the licences that apply."""
    from ..base.errors import UserError
    from ..base.files import write_atomically
    from ..exchange.card import card_of
    from ..store import FeatureStore

    with FeatureStore.open(store) as opened:
        text = card_of(opened, opened.feature_names())
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(out, text.encode("utf-8"))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another location") from None
    click.echo(f"wrote {out}")
