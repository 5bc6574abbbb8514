"""`erc-toolkit reproduce`: a paper's tables and figures from raw files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..base.words import counted
from ..reproduce.paper import FULL, load_paper, paper_names
from .command import ToolkitCommand
from .options import device_option, engine_options, log_json_option, overwrite_option

PAGE = "paper.html"
# What the worker processes of the steps import: once, before the first step starts their server with its own alone.
_WORKERS = ("erc_toolkit.extract.run.media.worker", "erc_toolkit.train.studies.runs")


def _source_option(corpus: str):
    text = f"{corpus.upper()}: its raw folder, a feature store (.h5), or a feature pickle."
    return click.option(f"--{corpus}", type=click.Path(path_type=Path), metavar="ROOT|FILE", help=text)


@click.command("reproduce", cls=ToolkitCommand)
@click.argument("name", type=click.Choice(paper_names()), metavar="PAPER")
@_source_option("iemocap")
@_source_option("meld")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of everything.")
@click.option(
    "--budget",
    type=click.Choice(["full", "quick"]),
    default=FULL,
    show_default=True,
    help="quick trains small models for a few epochs, to see that everything runs; its numbers mean nothing.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Runs of each variant.  [default: 5; 1 with --budget quick]",
)
@click.option(
    "--text-model",
    default="roberta-large",
    show_default=True,
    help="Text encoder, hub name or folder; fine-tuned on each corpus.",
)
@click.option("--no-finetune", is_flag=True, help="Use the text encoder as it is.")
@click.option(
    "--faces",
    type=click.Path(path_type=Path, exists=True),
    metavar="FACES",
    help="Labelled faces, such as FER+, on which the face network is trained (see train-face).",
)
@click.option("--visual-weights", metavar="FILE|DIR|random", help="Weights of the face network, instead of --faces.")
@click.option(
    "--face-model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Model file of the face detector.  [default: YuNet's, from the hub]",
)
@click.option("--preset", metavar="NAME|FILE.yaml", help="Preset of the features.  [default: the paper's]")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Parallel runs of a study.")
@device_option()
@engine_options()
@click.option("--dry-run", is_flag=True, help="Print the plan, with time and disk estimated by samples, and exit.")
@log_json_option()
@overwrite_option()
@click.pass_context
def reproduce_command(
    ctx: click.Context,
    name: str,
    out: Path,
    budget: str,
    seeds: int | None,
    text_model: str,
    no_finetune: bool,
    faces: Path | None,
    visual_weights: str | None,
    face_model: Path | None,
    preset: str | None,
    jobs: int,
    device: str,
    engine: str,
    shared: Path | None,
    dry_run: bool,
    overwrite: bool,
    **given: Path | None,
) -> None:
    """Make the tables and figures of PAPER again, from raw corpora: features, training, studies, one page.

    Every step is a command of the toolkit, which is printed. The same command continues what was interrupted. A corpus
    that is not given leaves its columns empty. OUT/paper.html shows our results beside the published ones.
    """
    from ..base.cluster import parse_engine
    from ..base.device import pick_device
    from ..base.errors import UserError
    from ..base.interrupt import explained
    from ..base.lock import locked
    from ..base.processes import preload
    from ..reproduce.page import write_page
    from ..reproduce.record import check_out, new_record, write_record
    from ..reproduce.run import run_steps
    from ..reproduce.sources import find_source
    from ..reproduce.steps import Choices, make_steps, write_study_files
    from .typed import run_typed

    paper = load_paper(name)
    pick_device(device)
    parse_engine(engine, shared)
    sources = [find_source(corpus, path) for corpus in paper.corpora if (path := given[corpus]) is not None]
    if not sources:
        raise click.UsageError(f"give at least one of {', '.join(f'--{corpus}' for corpus in paper.corpora)}")
    chosen = paper.budget(budget)
    choices = Choices(
        out=out,
        budget=chosen,
        seeds=seeds or chosen.seeds,
        text_model=text_model,
        finetune=not no_finetune,
        faces=faces,
        visual_weights=visual_weights,
        face_model=face_model,
        preset=preset or paper.preset,
        jobs=jobs,
        device=device,
        engine="local" if dry_run else engine,  # samples are measured here
        shared=None if dry_run else shared,
    )
    steps = make_steps(paper, sources, choices)
    check_out(out, name, choices, sources, overwrite)

    def run(arguments: Sequence[str], show: bool = True) -> None:
        preload(*_WORKERS)
        run_typed(ctx, arguments, show=show)

    if dry_run:
        from ..reproduce.rehearsal import rehearse

        rehearse(paper, sources, choices, steps, lambda arguments: run(arguments, show=False), click.echo)
        return
    kept = f"interrupted; finished steps are kept in {out}; continue with the same command"
    with explained(kept), locked(out, "reproduce", parents=True):
        out.mkdir(parents=True, exist_ok=True)
        record = new_record(out, name, choices, sources, overwrite)
        write_record(out, record)
        write_study_files(paper, choices)
        failed = run_steps(steps, record, out, run, click.echo)
        page = write_page(paper, choices, sources, record, failed)
    click.echo(f"\nwrote {page}")
    if failed:
        raise UserError(
            f"{out}: {counted(len(failed), 'step')} of {len(steps)} failed or were left out; the page names them, and "
            "the same command tries them again"
        )
