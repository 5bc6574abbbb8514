"""`erc-toolkit info`: show a feature store's contents and provenance, and what is missing and why."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..base.words import counted, layers_in_words
from .command import ToolkitCommand


@click.command("info", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--missing", is_flag=True, help="List every utterance without a feature, with the reason.")
@click.option("--verify", is_flag=True, help="Read everything and check the checksums and the content hash.")
def info_command(store: Path, as_json: bool, missing: bool, verify: bool) -> None:
    """Show the contents and provenance of STORE, and what is missing and why."""
    from ..store import FeatureStore
    from ..store.summary import summarise

    with FeatureStore.open(store) as opened:
        if verify:
            opened.verify()
        else:
            opened.check()
        summary = summarise(opened, missing=missing)
        covered = opened.attributes_covered
    if verify and not covered:
        click.echo(f"{store}: from an earlier version: its attributes, such as the labels, have no checksum", err=True)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False, indent=2))
    else:
        _show(summary, verify)


def _show(summary: dict, verified: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    made = summary["made"]
    console.print(
        f"[bold]{escape(summary['corpus'])}[/]: {counted(summary['utterances'], 'utterance')} in "
        f"{counted(summary['dialogues'], 'dialogue')} by {counted(summary['speakers'], 'speaker')}"
    )
    console.print(escape(f"created {made.get('created', '?')} by erc-toolkit {made.get('toolkit_version', '?')}"))
    if made.get("command"):
        console.print(f"  {escape(str(made['command']))}", soft_wrap=True)
    console.print(f"content sha256 {made['content_sha256'][:16]}…{' (verified)' if verified else ''}")
    table = Table(title="utterances", title_justify="left", box=None)
    table.add_column("label")
    for split, counts in summary["splits"].items():
        table.add_column(f"{split} ({counted(counts['dialogues'], 'dialogue')})", justify="right")
    for label in [*summary["labels"], ""]:
        row = [summary["label_counts"][s][label] for s in summary["splits"]]
        if label or any(row):
            table.add_row(escape(label) or "(no label)", *map(str, row))
    table.add_row("all", *(str(c["utterances"]) for c in summary["splits"].values()), style="bold")
    console.print(table)
    table = Table(title="features", title_justify="left", box=None)
    for column, justify in (("modality/name", "left"), ("dim", "right"), ("present", "right"), ("missing", "left")):
        table.add_column(column, justify=justify)
    for name, feature in summary["features"].items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in feature["reasons"].items())
        table.add_row(escape(name), _width(feature), str(feature["present"]), escape(reasons))
    console.print(table)
    for name, feature in summary["features"].items():
        console.print(f"[bold]{escape(name)}[/]")
        for key, value in feature["made"].items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            console.print(f"  {escape(key)}: {escape(text)}", soft_wrap=True)
        for utterance, reason in feature.get("missing", {}).items():
            console.print(f"  missing {escape(utterance)}: {escape(reason)}", soft_wrap=True)


def _width(feature: dict) -> str:
    layers = feature.get("layers")
    return layers_in_words(layers, feature["dim"]) if layers else str(feature["dim"])
