"""`erc-toolkit export`: write a feature store as other projects' files."""

from __future__ import annotations

from pathlib import Path

import click

from ..exchange.export import FORMATS
from .command import ToolkitCommand
from .options import overwrite_option


@click.command("export", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--format", "form", required=True, type=click.Choice(list(FORMATS)), help="Format of the files.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file (huggingface: folder) to create.")
@click.option(
    "--feature",
    "wanted",
    multiple=True,
    metavar="MODALITY/NAME",
    help="Feature to write; not needed if a modality has only one. amb-dsgdn takes four text layers, in order.",
)
@click.option(
    "--layout",
    type=click.Choice(["iemocap", "meld"]),
    help="Layout of the pickles: two speakers or up to nine. [default: iemocap for IEMOCAP, otherwise meld]",
)
@click.option("--sequences", is_flag=True, help="mmsa: write the frames of features that have them.")
@overwrite_option()
def export_command(
    store: Path, form: str, out: Path, wanted: tuple[str, ...], layout: str | None, sequences: bool, overwrite: bool
) -> None:
    """Write STORE as files that other projects' unmodified loaders read.

    amb-dsgdn also works for SDT and DF-GCN; mmgcn for MM-DFN, DialogueRNN and, with cosmic, M3NET. parquet and
    huggingface need pyarrow.
    """
    from ..exchange.export import Request, choose
    from ..store import FeatureStore

    chosen = FORMATS[form]
    chosen.check(out, store, overwrite)
    with FeatureStore.open(store) as opened:
        notes = chosen.write(Request(opened, choose(opened, wanted, chosen.capacity), out, layout, sequences))
    for line in notes:
        click.echo(f"note: {line}")
    click.echo(f"wrote {out}")
