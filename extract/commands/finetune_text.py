"""`erc-toolkit finetune-text`: fine-tunes a text encoder on the corpus before its features are extracted."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, overwrite_option


@click.command("finetune-text", cls=ToolkitCommand)
@click.argument("source", metavar="MANIFEST_OR_STORE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--text-model", default="roberta-large", show_default=True, help="Hub name, or a folder with the model.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Utterances per update.")
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many of them are in memory at once.",
)
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate.  [default: 1e-6 for IEMOCAP, else 1e-5]"
)
@click.option("--dropout", type=click.FloatRange(0, 0.9), help="[default: 0.2 for IEMOCAP, else 0.1]")
@click.option("--attention-dropout", type=click.FloatRange(0, 0.9), default=0.1, show_default=True)
@click.option(
    "--select",
    type=click.Choice(["accuracy", "weighted_f1"]),
    default="accuracy",
    show_default=True,
    help="Metric on the validation split that selects the epoch.",
)
@click.option("--seed", default=0, show_default=True, help="Random seed of the head, the order and the dropout.")
@device_option()
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on standard error.")
@overwrite_option()
def finetune_text_command(
    source: Path, text_model: str, out: Path, device: str, log_json: bool, overwrite: bool, **recipe
) -> None:
    """Train a text encoder as a classifier of single utterances on the training split.

    MANIFEST_OR_STORE provides texts and labels. The epoch that is best on the validation split is written to the folder
    --out; pass this folder to erc-toolkit extract as --text-model.
    """
    from ..tuning.text import Recipe, finetune

    best = finetune(source, text_model, out, Recipe(**recipe), device, click.echo, log_json, overwrite)
    click.echo(
        f"wrote {out}: epoch {best['epoch']}, validation accuracy {best['val_accuracy']:.4f}, weighted F1 "
        f"{best['val_weighted_f1']:.4f}\nnext: erc-toolkit extract … --text-model {out} --pooling last4-mean"
    )
