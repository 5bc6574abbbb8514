"""`erc-toolkit reduce`: reduces the dimensions of a feature and adds the result to the store."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand, command_line


@click.command("reduce", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--feature", required=True, metavar="MODALITY/NAME", help="Feature to reduce, e.g. audio/ComParE_2016.")
@click.option("--to", type=click.IntRange(1), default=300, show_default=True, help="Number of dimensions to keep.")
@click.option(
    "--method",
    type=click.Choice(["anova", "pca", "pls"]),
    default="anova",
    show_default=True,
    help="anova selects columns by F value; pca and pls project.",
)
@click.option("--name", help="Name of the new feature, without the modality.  [default: NAME-METHODn]")
def reduce_command(store: Path, feature: str, to: int, method: str, name: str | None) -> None:
    """Add a feature with reduced dimensions to STORE, fitted on the training split only.

    The reduction is fitted on the present, labelled rows of the training split, and stored with the new feature. The
    other content of STORE is unchanged.
    """
    from ...toolkit.base.errors import UserError
    from ..reduce import reduce_store

    try:
        new, fitted = reduce_store(store, feature, to, method, name, command_line())
    except OSError as error:
        raise UserError(f"{store}: {error.strerror or error}; the store is unchanged") from None
    noted = "".join(f", {key.replace('_', ' ')} {value:.4g}" for key, value in fitted.notes.items())
    modality = new.split("/")[0]
    click.echo(
        f"wrote {new} to {store}: {counted(to, 'dimension')} by {method}, fitted on "
        f"{counted(fitted.rows, 'labelled row')} of the training split{noted}\n"
        f"next: erc-toolkit train {store} --set data.{modality}={new.split('/', 1)[1]} --out RUN"
    )
