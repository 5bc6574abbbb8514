"""`erc-toolkit convert`: convert other projects' feature files to a feature store."""

from __future__ import annotations

from pathlib import Path

import click

from ..base.words import counted
from .command import ToolkitCommand, command_line

_SHOWN = 20


@click.command("convert", cls=ToolkitCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The store to create.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Defines the utterances, for .npy and .npz files.",
)
@click.option("--corpus", help="Name of the corpus, if it is not recognised.")
@click.option("--labels", help="Names of the emotions in index order, comma-separated, if they are not known.")
@click.option("--keep-zeros", is_flag=True, help="Treat zero vectors as features, not as a missing modality.")
def convert_command(
    files: tuple[str, ...], out: Path, manifest: Path | None, corpus: str | None, labels: str | None, keep_zeros: bool
) -> None:
    """Convert feature files published by other projects to a feature store.

    FILE is a pickle in the layout of MMGCN, MM-DFN, M3NET, DialogueRNN, SDT, AMB-DSGDN, COSMIC or MMSA, which is
    detected; or a .npz from `export`; or, with --manifest, a .npy or .npz file of one modality: text=roberta.npy.
    Further files add features to the utterances of the first. Nothing in a pickle is executed: anything but numbers,
    strings, arrays and plain containers is refused.
    """
    from ..exchange.confined import convert_confined

    command = command_line()
    names = [name.strip() for name in labels.split(",")] if labels else []
    made = convert_confined(
        files, out, manifest=manifest, corpus=corpus, labels=names, keep_zeros=keep_zeros, command=command
    )
    click.echo(f"recognised: {', '.join(made['layouts'])}")
    for line in made["problems"][:_SHOWN]:
        click.echo(f"note: {line}")
    if (more := len(made["problems"]) - _SHOWN) > 0:
        click.echo(f"note: and {more} more; all of them are in the store's attribute `notes`")
    click.echo(
        f"{counted(made['utterances'], 'utterance')} in {counted(made['dialogues'], 'dialogue')} of {made['corpus']}: "
        f"{', '.join(made['labels'])}"
    )
    for name, feature in made["features"].items():
        click.echo(
            f"  {name}: {counted(feature['dim'], 'dimension')}, present in {feature['present']} of "
            f"{counted(made['utterances'], 'utterance')}"
        )
    if not made["features"]:
        click.echo("  no features: the file contains only texts, labels and speakers")
    click.echo(f"wrote {out}")
