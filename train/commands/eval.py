"""`erc-toolkit eval`: a trained model's results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option


@click.command("eval", cls=ToolkitCommand)
@click.argument("run_dir", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="STORE.h5",
    show_default="the store used for training",
    help="Feature store to evaluate on.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Dialogues to evaluate on.",
)
@device_option()
@click.option(
    "--by",
    type=click.Choice(["length", "position", "speaker", "modalities", "shift"]),
    multiple=True,
    help="Also report results by dialogue length, position in the dialogue, speaker, available modalities, or whether "
    "the speaker's emotion changed. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; everything else goes to standard error.")
def eval_command(
    run_dir: Path, store: Path | None, split: str, device: str, by: tuple[str, ...], as_json: bool
) -> None:
    """Evaluate the trained model in RUN_DIR: precision, recall and F1 per class, and overall."""
    from ..api import evaluate

    result = evaluate(
        run_dir, store, split=split, device=device, by=by, notify=lambda line: click.echo(line, err=as_json)
    )
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        show_result(result)


def show_result(result: Mapping[str, Any]) -> None:
    """Prints the usual table of results."""
    from rich.console import Console

    from ..scores.results_table import print_report

    print_report(result, Console())
