"""`erc-toolkit demo`: generate the demo corpus and run on it the commands that a user would type."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import click

from ..base.words import counted
from .command import ToolkitCommand
from .options import device_option, log_json_option, overwrite_option
from .typed import run_typed


@click.command("demo", cls=ToolkitCommand)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="erc-demo", metavar="[DIR]")
@click.option(
    "--layout",
    type=click.Choice(["meld", "iemocap"]),
    default="meld",
    show_default=True,
    help="Whose raw layout the corpus has: a clip for each turn, or split-screen dialogues of two.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the corpus and of the training.")
@device_option()
@log_json_option()
@overwrite_option()
@click.pass_context
def demo_command(ctx: click.Context, folder: Path, layout: str, seed: int, device: str, overwrite: bool) -> None:
    """Generate a small corpus, extract its features, train AMB-DSGDN on them and evaluate it.

    Creates DIR/raw (MELD's raw layout, or IEMOCAP's), DIR/store.h5 and DIR/run. Takes a few minutes and downloads
    nothing. [default: erc-demo]
    """
    from ..base.demo_mark import is_demo_corpus
    from ..base.outputs import check_folder
    from ..base.progress import progress_bar
    from ..demo.corpus import make_corpus, make_dialogue_corpus
    from ..demo.encoders import make_text_encoder

    raw, encoder, store, run = folder / "raw", folder / "text-encoder", folder / "store.h5", folder / "run"
    check_folder(folder, [], earlier=lambda _: is_demo_corpus(raw), overwrite=overwrite, option="DIR")
    stages: dict[str, float] = {}
    began = time.perf_counter()

    def finish(stage: str) -> None:
        nonlocal began
        stages[stage], began = time.perf_counter() - began, time.perf_counter()

    whose, unpacked = {"meld": ("MELD", "MELD.Raw"), "iemocap": ("IEMOCAP", "IEMOCAP_full_release")}[layout]
    click.echo(f"Generating a corpus in {whose}'s raw layout: drawn faces, synthetic voices, templated sentences.")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("clips" if layout == "meld" else "dialogues", None) as bar:
        make = make_corpus if layout == "meld" else make_dialogue_corpus
        corpus = make(raw, seed=seed, progress=bar.at)
    turns = counted(sum(corpus.clips.values()), "clip" if layout == "meld" else "turn")
    click.echo(f"  {turns}, {corpus.seconds:.0f} s of speech in {raw}")
    if corpus.new:  # the features are those of an earlier corpus
        store.unlink(missing_ok=True)
        shutil.rmtree(store.with_name(store.name + ".parts"), ignore_errors=True)
    finish("corpus")
    click.echo(
        "Generating a small, untrained text encoder; the face encoder is untrained too. Real corpora need trained ones."
    )
    make_text_encoder(encoder, _transcripts(raw, layout), seed)
    extraction = ["extract", layout, str(raw), "--out", str(store), "--preset", "demo"]
    run_typed(ctx, [*extraction, "--text-model", str(encoder), "--device", device])
    finish("extract")
    training = ["train", str(store), "--out", str(run), "--recipe", "demo", "--seed", str(seed), "--device", device]
    run_typed(ctx, [*training, *(["--overwrite"] if run.exists() else [])])
    finish("train")
    run_typed(ctx, ["eval", str(run), "--device", device])
    finish("eval")
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    click.echo(f"\nDone in {sum(stages.values()):.0f} s ({spent}).")
    click.echo(f"  raw corpus  {raw}\n  features    {store}\n  trained     {run}")
    click.echo("Next:")
    shown_run, shown_store = shlex.quote(str(run)), shlex.quote(str(store))
    for line in (
        f"erc-toolkit info {shown_store}",
        f"erc-toolkit report {shown_run} --out report.html",
        f"erc-toolkit predict {shown_run} scene.mp4 --transcript scene.srt",
        f"erc-toolkit study {shown_store} --study modalities --recipe demo --out modalities",
        "erc-toolkit compare modalities/text modalities/text-+-audio-+-visual",
        f"erc-toolkit extract {layout} {unpacked} --out {layout}.h5",
    ):
        click.echo(f"  {line}")


def _transcripts(raw: Path, layout: str) -> list[str]:
    """The texts of the training split."""
    import csv

    if layout == "meld":
        with open(raw / "train_sent_emo.csv", encoding="utf-8", newline="") as table:
            return [row["Utterance"] for row in csv.DictReader(table)]
    files = sorted(raw.glob("Session[1-4]/dialog/transcriptions/*.txt"))
    return [line.partition("]: ")[2] for file in files for line in file.read_text("utf-8").splitlines()]
