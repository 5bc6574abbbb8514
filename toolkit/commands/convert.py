"""`erc-toolkit convert`: other projects' feature files into a feature store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from .command import ToolkitCommand

_SHOWN = 20


@click.command("convert", cls=ToolkitCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The store to make.")
@click.option(
    "--manifest", type=click.Path(path_type=Path, dir_okay=False), help="Says the utterances, for .npy and .npz files."
)
@click.option("--corpus", help="Name of the corpus, where it is not recognised.")
@click.option("--labels", help="Names of the emotions in index order, with commas between, where they are not known.")
@click.option("--keep-zeros", is_flag=True, help="Take vectors of zeros as features, not as a missing modality.")
def convert_command(
    files: tuple[str, ...], out: Path, manifest: Path | None, corpus: str | None, labels: str | None, keep_zeros: bool
) -> None:
    """Make a feature store of the feature files that other projects share.

    FILE is a pickle in the layout of MMGCN, MM-DFN, M3NET, DialogueRNN, SDT, AMB-DSGDN, COSMIC or MMSA, which is
    recognised; or a .npz from `export`; or, with --manifest, .npy and .npz files, a modality each: text=roberta.npy.
    Further files add features to the utterances of the first. Nothing in a pickle is run: all but numbers, texts,
    arrays and plain containers is refused by name.
    """
    from ..exchange.confined import convert_confined

    command = shlex.join(["erc-toolkit", *sys.argv[1:]])
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
        f"{made['utterances']} utterances in {made['dialogues']} dialogues of {made['corpus']}: {', '.join(made['labels'])}"
    )
    for name, feature in made["features"].items():
        click.echo(f"  {name}: {feature['dim']} dimensions, {feature['present']} of {made['utterances']} utterances")
    if not made["features"]:
        click.echo("  no features: the file holds texts, labels and speakers only")
    click.echo(f"wrote {out}")
