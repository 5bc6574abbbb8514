"""`erc-toolkit manifest`: build, validate, stats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitGroup
from ...toolkit.commands.options import log_json_option, make_overwrite_option
from .corpus_group import CorpusGroup, make_overlay_option


@click.group("manifest", cls=ToolkitGroup)
def manifest_group() -> None:
    """Build, check and count manifests, which describe a corpus utterance by utterance (docs/reference/manifest.md)."""


_COMMAND = "manifest build"


def _check(inputs: list[Path], out: Path, overlay: Path | None, overwrite: bool) -> None:
    from ...toolkit.base.outputs import check_output
    from ...toolkit.manifest import is_unchanged

    inputs = [*inputs, *([overlay] if overlay else [])]
    check_output(out, inputs, earlier=lambda path: is_unchanged(path, _COMMAND), overwrite=overwrite)


def _build(manifest, out: Path, overlay: Path | None, overwrite: bool) -> None:  # `_check` has used it
    from ...toolkit.manifest import write_manifest
    from ..spans import check_spans

    if overlay is not None:
        from ..alignment.overlay import apply_overlay

        manifest = apply_overlay(manifest, overlay)
    beyond = check_spans(manifest)
    write_manifest(manifest, out, _COMMAND)
    dialogues = sum(1 for _ in manifest.dialogues())
    counts = f"{counted(len(manifest.utterances), 'utterance')}, {counted(dialogues, 'dialogue')}"
    click.echo(f"{manifest.corpus}: {counts} under {manifest.root}")
    for note in [*manifest.notes, *beyond]:
        click.echo(f"  note: {note}")
    click.echo(f"wrote {out}")


_OUT = click.Option(
    ["--out"], required=True, type=click.Path(path_type=Path, dir_okay=False), help="The manifest to write (.jsonl)."
)
manifest_group.add_command(
    CorpusGroup(
        "build",
        run=_build,
        check=_check,
        shared=[_OUT, make_overlay_option(), make_overwrite_option()],
        verb="Write a manifest of",
        help="Write a manifest of a raw corpus.",
    )
)


@manifest_group.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--media", is_flag=True, help="Decode every media file in full instead of only checking that it exists.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if there is any problem.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Number of files checked at once.  [default: one per core]"
)
@log_json_option()
def validate_command(file: Path, media: bool, strict: bool, as_json: bool, workers: int) -> None:
    """Check the manifest FILE and the media files that it names.

    A mistake in the manifest itself exits with status 1. Defects of media files are reported; since extraction masks
    the utterances they affect, the exit status is 0 unless --strict is given.
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
        checked = "decoded" if media else "checked for existence (--media decodes them)"
        click.echo(
            f"{counted(report.utterances, 'utterance')}, {counted(report.files, 'media file')} {checked}, "
            f"{counted(len(report.problems), 'problem')}"
        )
    if strict and report.problems:
        raise SystemExit(1)


@manifest_group.command("stats")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def stats_command(file: Path, as_json: bool) -> None:
    """Count the manifest FILE's dialogues, utterances, speakers and labels, and compare with the published counts."""
    from ...toolkit.manifest import load_manifest
    from ..stats import compare, count

    manifest = load_manifest(file)
    counts, compared = count(manifest), compare(manifest)
    if as_json:
        click.echo(json.dumps({**counts, "compared": compared}, ensure_ascii=False, indent=2))
        return
    _show(counts)
    if compared is None:
        click.echo(f"there are no published counts for {manifest.corpus!r} with these labels")
    elif compared["differences"]:
        click.echo(f"differs from the published counts of {compared['published']}:")
        for line in compared["differences"]:
            click.echo(f"  {line}")
    else:
        click.echo(f"agrees with the published counts of {compared['published']}")


def _show(counts: dict) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    splits = counts["splits"]
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(counts['corpus'])}[/]: {counted(counts['utterances'], 'utterance')} in "
        f"{counted(counts['dialogues'], 'dialogue')} by {counted(counts['speakers'], 'speaker')}",
        soft_wrap=True,
    )
    table = Table(box=None)
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for what in ("dialogues", "utterances", "speakers"):
        table.add_row(what, *(str(one[what]) for one in splits.values()))
    for label in [*counts["labels"], ""]:
        row = [one["labels"][label] for one in splits.values()]
        if label or any(row):
            table.add_row(f"  {escape(label) or '(no label)'}", *map(str, row))
    console.print(table)
