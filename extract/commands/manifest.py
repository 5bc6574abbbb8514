"""`erc-toolkit manifest`: build, validate, stats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitGroup
from .corpus_group import CorpusGroup


@click.group("manifest", cls=ToolkitGroup)
def manifest_group() -> None:
    """Build, check and count manifests: a line for each utterance, the only thing extraction sees (docs/reference/manifest.md)."""


def _build(manifest, out: Path) -> None:
    from ...toolkit.manifest import write_manifest

    write_manifest(manifest, out)
    dialogues = sum(1 for _ in manifest.dialogues())
    click.echo(f"{manifest.corpus}: {len(manifest.utterances)} utterances, {dialogues} dialogues under {manifest.root}")
    for note in manifest.notes:
        click.echo(f"  note: {note}")
    click.echo(f"wrote {out}")


_OUT = click.Option(
    ["--out"], required=True, type=click.Path(path_type=Path, dir_okay=False), help="The manifest to write (.jsonl)."
)
manifest_group.add_command(
    CorpusGroup(
        "build", run=_build, shared=[_OUT], verb="Write a manifest of", help="Write a manifest of a raw corpus."
    )
)


@manifest_group.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--media", is_flag=True, help="Decode every media file in full, not only look whether it is there.")
@click.option("--strict", is_flag=True, help="Exit with status 1 when there is any problem.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Files under way at once.  [default: one a core]"
)
def validate_command(file: Path, media: bool, strict: bool, as_json: bool, workers: int) -> None:
    """Check the manifest FILE and the media files that it names.

    A mistake in the manifest itself ends with status 1. Defects of media files are reported, and extraction masks what
    they spoil, so that they end with status 0 unless --strict is given.
    """
    from ...toolkit.manifest import load_manifest
    from ..validate import validate

    report = validate(load_manifest(file), media=media, workers=workers)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "counts": report.counts()}, ensure_ascii=False, indent=2))
    else:
        for problem in report.problems:
            others = f" and {len(problem.utterances) - 1} more" if len(problem.utterances) > 1 else ""
            detail = f": {problem.detail}" if problem.detail else ""
            click.echo(f"{problem.kind}: {problem.file} ({problem.utterances[0]}{others}){detail}")
        for kind, n in report.counts().items():
            click.echo(f"  {n} {kind}")
        looked = "decoded" if media else "looked for (--media decodes them)"
        click.echo(
            f"{report.utterances} utterances, {report.files} media files {looked}, {len(report.problems)} problems"
        )
    if strict and report.problems:
        raise SystemExit(1)


@manifest_group.command("stats")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def stats_command(file: Path, as_json: bool) -> None:
    """Count what the manifest FILE holds, and name what differs from the corpus's published counts."""
    from ...toolkit.manifest import load_manifest
    from ..stats import compare, count

    manifest = load_manifest(file)
    counted, compared = count(manifest), compare(manifest)
    if as_json:
        click.echo(json.dumps({**counted, "compared": compared}, ensure_ascii=False, indent=2))
        return
    _show(counted)
    if compared is None:
        click.echo(f"no published counts are known for {manifest.corpus!r} with these labels")
    elif compared["differences"]:
        click.echo(f"differs from the published counts of {compared['published']}:")
        for line in compared["differences"]:
            click.echo(f"  {line}")
    else:
        click.echo(f"agrees with the published counts of {compared['published']}")


def _show(counted: dict) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    splits = counted["splits"]
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(counted['corpus'])}[/]: {counted['utterances']} utterances in {counted['dialogues']} dialogues "
        f"by {counted['speakers']} speakers",
        soft_wrap=True,
    )
    table = Table(box=None)
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for what in ("dialogues", "utterances", "speakers"):
        table.add_row(what, *(str(one[what]) for one in splits.values()))
    for label in [*counted["labels"], ""]:
        row = [one["labels"][label] for one in splits.values()]
        if label or any(row):
            table.add_row(f"  {escape(label) or '(no label)'}", *map(str, row))
    console.print(table)
