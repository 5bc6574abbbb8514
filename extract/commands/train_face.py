"""`erc-toolkit train-face`: trains weights for the field's 342-dimensional face network."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...toolkit.base.progress import time_in_words
from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, overwrite_option


@click.command("train-face", cls=ToolkitCommand)
@click.argument("source", metavar="FACES", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True)
@click.option("--batch", type=click.IntRange(2), default=64, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Initial learning rate of Adam.",
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Epochs without a better validation accuracy after which the learning rate is halved.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Random seed of the weights, the order, the augmentation, and the split if FACES has none.",
)
@device_option()
@click.option("--dry-run", is_flag=True, help="Time a few updates, print an estimate of time and disk, and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run, print the estimate as one JSON object.")
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on standard error.")
@overwrite_option()
def train_face_command(
    source: Path, out: Path, device: str, dry_run: bool, as_json: bool, log_json: bool, overwrite: bool, **recipe
) -> None:
    """Train denseface on labelled faces.

    FACES is a folder with {train,val,test}/LABEL/*.png, or with LABEL/*.png, or with FER+'s fer2013.csv and
    fer2013new.csv. The epoch that is best on the validation images is written to the folder --out; pass this folder to
    erc-toolkit extract as --visual-weights.
    """
    from ..tuning.face import FaceRecipe, estimate_face, train_face

    if as_json and not dry_run:
        raise click.UsageError("--json applies to --dry-run only")
    if dry_run:
        taken = estimate_face(source, FaceRecipe(**recipe), device, (lambda _: None) if as_json else click.echo)
        size = f"{taken['bytes'] / 1e6:.1f} MB"
        click.echo(json.dumps(taken) if as_json else f"about {time_in_words(taken['seconds'])}, {size} in {out}")
        return
    best = train_face(source, out, FaceRecipe(**recipe), device, click.echo, log_json, overwrite)
    test = f", test accuracy {best['test_accuracy']:.4f}" if "test_accuracy" in best else ""
    click.echo(
        f"wrote {out}: epoch {best['epoch']}, validation accuracy {best['val_accuracy']:.4f}{test}\n"
        f"next: erc-toolkit extract … --visual-model denseface --visual-weights {out}"
    )
