"""`erc-toolkit demo`: generate the demo corpus and run on it the commands that a user would type."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from ..base.words import counted
from .command import ToolkitCommand
from .options import device_option, overwrite_option


@click.command("demo", cls=ToolkitCommand)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="erc-demo", metavar="[DIR]")
@click.option("--seed", default=0, show_default=True, help="Seed of the corpus and of the training.")
@device_option()
@overwrite_option()
@click.pass_context
def demo_command(ctx: click.Context, folder: Path, seed: int, device: str, overwrite: bool) -> None:
    """Generate a small corpus, extract its features, train AMB-DSGDN on them and evaluate it.

    Creates DIR/raw (MELD's raw layout), DIR/store.h5 and DIR/run. Takes a few minutes and downloads nothing. [default:
    erc-demo]
    """
    from ..base.outputs import check_folder
    from ..base.progress import progress_bar
    from ..demo.corpus import is_demo_corpus, make_corpus
    from ..demo.encoders import make_text_encoder

    raw, encoder, store, run = folder / "raw", folder / "text-encoder", folder / "store.h5", folder / "run"
    check_folder(folder, [], earlier=lambda _: is_demo_corpus(raw), overwrite=overwrite, option="DIR")
    stages: dict[str, float] = {}
    began = time.perf_counter()

    def finish(stage: str) -> None:
        nonlocal began
        stages[stage], began = time.perf_counter() - began, time.perf_counter()

    click.echo("Generating a corpus in MELD's raw layout: drawn faces, synthetic voices, templated sentences.")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("clips", None) as bar:
        corpus = make_corpus(raw, seed=seed, progress=bar.at)
    click.echo(f"  {counted(sum(corpus.clips.values()), 'clip')}, {corpus.seconds:.0f} s of video and audio in {raw}")
    if corpus.new:  # the features are those of an earlier corpus
        store.unlink(missing_ok=True)
        shutil.rmtree(store.with_name(store.name + ".parts"), ignore_errors=True)
    finish("corpus")
    click.echo(
        "Generating a small, untrained text encoder; the face encoder is untrained too. Real corpora need trained ones."
    )
    make_text_encoder(encoder, _transcripts(raw), seed)
    _call(
        ctx,
        "extract",
        "meld",
        str(raw),
        "--out",
        str(store),
        "--text-model",
        str(encoder),
        "--audio-set",
        "IS10",
        "--visual-model",
        "denseface",
        "--visual-weights",
        "random",
        "--face-detector",
        "haar",
        "--fps",
        "4",
        "--device",
        device,
    )
    finish("extract")
    training = ["train", str(store), "--out", str(run), "--recipe", "demo", "--seed", str(seed), "--device", device]
    _call(ctx, *training, *(["--overwrite"] if run.exists() else []))
    finish("train")
    _call(ctx, "eval", str(run), "--device", device)
    finish("eval")
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    click.echo(f"\nDone in {sum(stages.values()):.0f} s ({spent}).")
    click.echo(f"  raw corpus  {raw}\n  features    {store}\n  trained     {run}")
    click.echo("Next:")
    for line in (
        f"erc-toolkit info {shlex.quote(str(store))}",
        f"erc-toolkit eval {shlex.quote(str(run))} --json",
        f"erc-toolkit train {shlex.quote(str(store))} --out text-only --recipe demo --set data.modalities='[text]'",
        "erc-toolkit extract meld MELD.Raw --out meld.h5",
    ):
        click.echo(f"  {line}")


def _call(ctx: click.Context, *arguments: str) -> None:
    """Prints a command of the toolkit and runs it as if it had been typed."""
    click.secho(f"\n$ erc-toolkit {shlex.join(arguments)}", bold=True)
    typed, sys.argv = sys.argv, ["erc-toolkit", *arguments]  # the store records it as its command line
    try:
        ctx.find_root().command.main(list(arguments), prog_name="erc-toolkit", standalone_mode=False)
    finally:
        sys.argv = typed


def _transcripts(raw: Path) -> list[str]:
    import csv

    with open(raw / "train_sent_emo.csv", encoding="utf-8", newline="") as table:
        return [row["Utterance"] for row in csv.DictReader(table)]
