"""`erc-toolkit convert`: convert other projects' feature files to a feature store."""

from __future__ import annotations

from pathlib import Path

import click

from ..base.words import counted
from .command import ToolkitCommand, command_line
from .options import log_json_option, overwrite_option

_SHOWN = 20


@click.command("convert", cls=ToolkitCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The store to create.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Defines the utterances, for array files and folders: a manifest, a table (.csv), or the label .npz of MER.",
)
@click.option("--corpus", help="Name of the corpus, if it is not recognised.")
@click.option("--labels", help="Names of the emotions in index order, comma-separated, if they are not known.")
@click.option("--keep-zeros", is_flag=True, help="Treat zero vectors as features, not as a missing modality.")
@log_json_option()
@overwrite_option()
def convert_command(
    files: tuple[str, ...],
    out: Path,
    manifest: Path | None,
    corpus: str | None,
    labels: str | None,
    keep_zeros: bool,
    overwrite: bool,
) -> None:
    """Convert feature files published by other projects to a feature store.

    FILE is a pickle in the layout of MMGCN, MM-DFN, M3NET, DialogueRNN, SDT, AMB-DSGDN, COSMIC, GCNet, MMSA, MulT or
    MAG-BERT, which is detected; or a .npz from `export`; or, with --manifest, a .npy or .npz file of one modality or a
    folder with one .npy per utterance: text=roberta.npy audio/wavlm=features/wavlm. Further files add features to the
    utterances of the first. Pickles may be compressed, or files of torch.save. Nothing in a pickle is executed:
    anything but numbers, strings, arrays, tensors and plain containers is refused.
    """
    from ..base.outputs import check_output
    from ..exchange.confined import convert_confined
    from ..exchange.pack import is_converted

    inputs = [Path(path) for f in files for path in (f, f.partition("=")[2]) if path]
    inputs += [manifest] if manifest is not None else []
    check_output(out, inputs, earlier=is_converted, overwrite=overwrite)
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
