"""`erc-toolkit finetune-text`: fine-tunes a text model on the corpus before its features are extracted."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, overwrite_option
from .finetune_options import batch_options, resource_options, selection_options


@click.command("finetune-text", cls=ToolkitCommand)
@click.argument("source", metavar="MANIFEST_OR_STORE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--text-model", default="roberta-large", show_default=True, help="Hub name, or a folder with the model.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@batch_options
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help="Peak learning rate.  [default: 1e-4 with --lora, 1e-6 for IEMOCAP, else 1e-5]",
)
@click.option("--dropout", type=click.FloatRange(0, 0.9), help="[default: 0.2 for IEMOCAP, else 0.1]")
@click.option("--attention-dropout", type=click.FloatRange(0, 0.9), default=0.1, show_default=True)
@selection_options
@click.option(
    "--objective",
    type=click.Choice(["classes", "label"]),
    help="classes: a classification head. label: a decoder says the label after the prompt.  [default: label for "
    "decoders, classes for encoders]",
)
@click.option(
    "--context",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    metavar="K",
    help="Show the model the K preceding utterances, with speakers' names.",
)
@click.option(
    "--text-prompt",
    metavar="emotion|FILE",
    help="Instruction around the utterance: emotion, or a text file with {text}, {speaker}, {context}, {labels}.  "
    "[default: emotion for --objective label, else none]",
)
@resource_options
@click.option(
    "--device-map", is_flag=True, help="Spread the model over all GPUs; needs accelerate, of 'erc-toolkit[llm]'."
)
@device_option()
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on standard error.")
@overwrite_option()
def finetune_text_command(
    source: Path, text_model: str, out: Path, device: str, log_json: bool, overwrite: bool, **recipe
) -> None:
    """Train a text model as a classifier of utterances on the training split.

    MANIFEST_OR_STORE provides texts and labels. The epoch that is best on the validation split is written to the folder
    --out; pass this folder to erc-toolkit extract as --text-model, for its vectors, or with --output probs for the
    probabilities of its classes. Several GPUs share the batches with
    accelerate launch -m erc_toolkit finetune-text ….
    """
    from ..encoders.finetuned import TunedFolder
    from ..tuning.processes import is_first
    from ..tuning.text import Recipe, finetune

    best = finetune(source, text_model, out, Recipe(**recipe), device, click.echo, log_json, overwrite)
    if is_first():
        says = TunedFolder.read(str(out), "--out", "finetune-text").objective == "label"
        vectors = "last" if says else "last4-mean"
        click.echo(
            f"wrote {out}: epoch {best['epoch']}, validation accuracy {best['val_accuracy']:.4f}, weighted F1 "
            f"{best['val_weighted_f1']:.4f}\nnext: erc-toolkit extract … --text-model {out} --pooling {vectors}, or "
            "--output probs"
        )
