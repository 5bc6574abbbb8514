"""`erc-toolkit compare`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand


@click.command("compare", cls=ToolkitCommand)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR RUN_DIR...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare_command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show differences between runs, in settings and in test results, and whether they are significant.

    Each run is compared with the first one. A folder written by `train --seeds` counts as one run: the mean over its
    seeds.
    """
    from ..reports.comparison import compare

    if len(runs) < 2:
        raise click.UsageError("at least two runs are needed")
    comparison = compare(list(runs))
    if as_json:
        click.echo(json.dumps(_plain(comparison), ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    from ..reports.comparison_text import print_comparison

    print_comparison(comparison, Console())


def _plain(comparison) -> dict[str, object]:
    return {
        "runs": [
            {"run": str(r.path), "seeds": r.seeds, "measures": r.measures, "intervals": r.intervals}
            for r in comparison.runs
        ],
        "settings": comparison.settings,
        "differences": [{k: dataclasses.asdict(d) for k, d in row.items()} for row in comparison.differences],
        "mcnemar": [
            None if m is None else dict(zip(("only_first", "only_second", "p"), m, strict=True))
            for m in comparison.mcnemar
        ],
        "warning": comparison.warning,
    }
