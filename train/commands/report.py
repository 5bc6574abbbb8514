"""`erc-toolkit report`."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, overwrite_option


@click.command("report", cls=ToolkitCommand)
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_OR_STUDY_DIR")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    metavar="FILE.html",
    help="Page to write.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="STORE.h5",
    show_default="the store used for training",
    help="Feature store with the run's texts and features.",
)
@device_option("Device on which attention is recomputed.")
@overwrite_option()
def report_command(folder: Path, out: Path, store: Path | None, device: str, overwrite: bool) -> None:
    """Write a page about a run or a study: numbers, tables, figures, and every dialogue with its predictions.

    FILE.html is self-contained and needs no network. FILE_files, next to it, contains every figure (PNG, SVG) and table
    (CSV, LaTeX).
    """
    from ..reports.page import check_page, write_page
    from ..reports.run_page import run_page
    from ..studies.record import STUDY, read_study
    from ..studies.study_page import study_page

    check_page(out, [folder, *([] if store is None else [store])], overwrite)
    if (folder / STUDY).is_file():
        page = study_page(read_study(folder))
    else:
        page = run_page(folder, store, device, lambda line: click.echo(line, err=True))
    write_page(page, out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB; figures and tables in {out.with_name(out.stem + '_files')}")
