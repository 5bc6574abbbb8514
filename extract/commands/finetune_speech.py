"""`erc-toolkit finetune-speech`: fine-tunes a speech model on the corpus before its features are extracted."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, overwrite_option
from .finetune_options import batch_options, resource_options, selection_options


@click.command("finetune-speech", cls=ToolkitCommand)
@click.argument("source", metavar="MANIFEST", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--audio-model",
    required=True,
    metavar="NAME|DIR",
    help="Speech model of transformers (wav2vec2, hubert, wavlm, data2vec-audio, whisper): hub name, or a folder.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@batch_options
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate.  [default: 1e-4 with --lora, else 1e-5]"
)
@click.option("--dropout", type=click.FloatRange(0, 0.9), help="[default: 0.1]")
@click.option("--attention-dropout", type=click.FloatRange(0, 0.9), default=0.1, show_default=True)
@click.option(
    "--freeze-layers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="K",
    help="Keep the convolutions and the first K layers as they are; 0 trains everything.",
)
@click.option(
    "--most-seconds",
    type=click.FloatRange(0.5, 600),
    default=30.0,
    show_default=True,
    help="What is longer is cut.",
)
@selection_options
@resource_options
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that decode.  [default: one per core]")
@device_option()
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on standard error.")
@overwrite_option()
def finetune_speech_command(
    source: Path, audio_model: str, out: Path, workers: int, device: str, log_json: bool, overwrite: bool, **recipe
) -> None:
    """Train a speech model as a classifier of single utterances on the training split.

    MANIFEST provides audio and labels; utterances whose audio cannot be decoded are left out and counted. The epoch
    that is best on the validation split is written to the folder --out; pass this folder to erc-toolkit extract as
    --audio-model, for its vectors, or with --output probs for the probabilities of its classes.
    """
    from ..tuning.processes import is_first
    from ..tuning.speech import SpeechRecipe, finetune_speech

    made = SpeechRecipe(**recipe)
    best = finetune_speech(source, audio_model, out, made, device, click.echo, log_json, overwrite, workers)
    if is_first():
        click.echo(
            f"wrote {out}: epoch {best['epoch']}, validation accuracy {best['val_accuracy']:.4f}, weighted F1 "
            f"{best['val_weighted_f1']:.4f}\nnext: erc-toolkit extract … --audio-model {out}, or --output probs"
        )
