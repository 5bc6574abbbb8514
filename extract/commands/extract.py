"""`erc-toolkit extract`: from a raw corpus or a manifest to a feature store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...toolkit.base.reading.plain_numbers import parse_whole
from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand, command_line
from ...toolkit.commands.options import make_device_option, make_overwrite_option
from ...toolkit.commands.tables import wide_console
from ..encoders.option import option_specs
from ..encoders.selection import DENSENETS, NAMING, Options
from .corpus_group import CorpusGroup, make_overlay_option


def click_option(name: str) -> click.Option:
    """A field of `Options` as a command-line option."""
    spec = option_specs(Options)[name]
    shared: dict[str, Any] = {"help": spec.help, "metavar": spec.metavar}
    if spec.kind is bool:
        return click.Option([spec.flag, name], is_flag=True, **shared)
    if spec.default_text is not None:  # click would show the value
        shared["help"] += f"  [default: {spec.default_text}]"
    else:
        shared["show_default"] = not spec.optional
    kind: Any = None
    if spec.choices:
        kind = click.Choice(spec.choices)
    elif spec.kind is int:
        kind = click.IntRange(spec.low, spec.high)  # pyright: ignore[reportArgumentType]
    elif spec.kind is float:
        kind = click.FloatRange(spec.low, spec.high)
    elif spec.kind is Path:
        kind = click.Path(path_type=Path, file_okay=not spec.folder)
    return click.Option([spec.flag, name], type=kind, default=spec.default, **shared)


def _repeated(flag: str, name: str) -> click.Option:
    spec = option_specs(Options)[name]
    return click.Option([flag, name], multiple=True, metavar=spec.metavar, help=spec.help)


def _options() -> list[click.Option]:
    modalities = option_specs(Options)["modalities"]
    special = {
        "modalities": click.Option(
            ["--modalities"], default=",".join(modalities.default), show_default=True, help=modalities.help
        ),
        "device": make_device_option(option_specs(Options)["device"].help),
        "features": _repeated("--feature", "features"),
        "extractors": _repeated("--extractor", "extractors"),
        "extractor_options": _repeated("--extractor-option", "extractor_options"),
    }
    options = [
        click.Option(
            ["--out"], required=True, type=click.Path(path_type=Path, dir_okay=False), help="The store to write (.h5)."
        )
    ]
    options += [
        make_overlay_option(),
        click.Option(
            ["--preset"],
            metavar="NAME|FILE.yaml",
            help="Options from a preset; those given here come first. paper: the features of AMB-DSGDN's paper, as far "
            "as they can be made again.",
        ),
        click.Option(
            ["--show-preset"],
            metavar="NAME|FILE.yaml",
            is_eager=True,
            expose_value=False,
            callback=_show_preset,
            help="Print a preset and exit.",
        ),
    ]
    for name, spec in option_specs(Options).items():
        if name == "part_size":
            options.append(
                click.Option(
                    ["--shard"],
                    callback=lambda ctx, option, value: _shard(value),
                    metavar="I/N",
                    help="Process shard I of N and keep its parts; erc-toolkit merge joins them.",
                )
            )
        elif name == "time_limit":
            options += [
                click.Option(
                    ["--dry-run"],
                    is_flag=True,
                    help="Extract a few dialogues in a temporary folder and print what the corpus will take on this "
                    "machine: time, memory and disk, by feature.",
                ),
                click.Option(["--strict"], is_flag=True, help="Exit with an error when any row is masked."),
                make_overwrite_option(),
            ]
        if spec.on_command_line:
            options.append(special.get(name) or click_option(name))
    return options


def _show_preset(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        from ..presets import preset_text

        click.echo(preset_text(value).rstrip())
        ctx.exit()


def _shard(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    number, _, of = value.partition("/")
    i, n = parse_whole(number), parse_whole(of)
    if i is None or n is None or not 1 <= i <= n:
        raise click.BadParameter(f"{value!r} is not a shard; write 1/4 for the first of four")
    return i, n


OPTIONS = _options()


def _run(manifest, **options) -> None:
    from ...toolkit.base.errors import UserError
    from ..api import estimate, extract

    out, shard, strict, overwrite, dry = (
        options.pop(name) for name in ("out", "shard", "strict", "overwrite", "dry_run")
    )
    preset_name = options.pop("preset")
    if (overlay := options.pop("overlay")) is not None:
        from ..alignment.overlay import apply_overlay

        manifest = apply_overlay(manifest, overlay)
    try:
        options["modalities"] = option_specs(Options)["modalities"].parsed(options["modalities"])
    except ValueError as error:
        raise click.UsageError(f"--modalities: {error}") from None
    options["extractor_options"] = dict(map(_key_and_value, options["extractor_options"]))
    given = {
        name
        for name in options
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    preset = None
    if preset_name is not None:
        from ..presets import load_preset

        preset = load_preset(preset_name, manifest.corpus)
        chosen = preset.chosen(given)
        options |= chosen
        preset.check_corpus(manifest, options["modalities"])
        manifest = dataclasses.replace(manifest, notes=[*manifest.notes, preset.describe(chosen)])
    if options["features"] or options["feature_set"] is not None:
        for name in NAMING:
            if name in given:
                flag = "--extractor" if name == "extractors" else option_specs(Options)[name].flag
                raise click.UsageError(f"{flag} and --feature exclude each other; write it as a --feature")
    if options["audio_model"] is not None and "audio_set" in given:
        raise click.UsageError("--audio-model replaces --audio-set; use only one of them, and run again for the other")
    if options["visual_model"] not in DENSENETS and "visual_weights" in given:
        raise click.UsageError(
            f"--visual-weights applies to the DenseNets only ({', '.join(DENSENETS)}); {options['visual_model']} has "
            "its own weights"
        )
    if options["extractors"]:
        from ..run.extractors import replaced_options

        for spec, other in replaced_options(Options(**options), given):
            raise click.UsageError(
                f"{spec.flag} applies to a built-in extractor, which --extractor {other} replaces; leave it out"
            )
    click.echo(f"{manifest.corpus}: {counted(len(manifest.utterances), 'utterance')} under {manifest.root}")
    for note in manifest.notes:
        click.echo(f"  note: {note}")
    if dry:
        if shard is not None:
            raise click.UsageError("--dry-run measures for the whole corpus; leave --shard out and divide its time")
        from .dry_run import show

        show(estimate(manifest, notify=click.echo, **options))
        return
    command = command_line()
    summary = extract(
        manifest, out, shard=shard, strict=strict, overwrite=overwrite, command=command, notify=click.echo, **options
    )
    if summary.store is not None:
        _report(summary)
        for step in preset.reduce if preset is not None else ():
            _reduce(summary.store, step)
        masked = sum(sum(reasons.values()) for _, _, reasons in summary.features.values())
        if strict and masked:
            rows = counted(masked, "masked row")
            raise UserError(f"--strict: {rows} in {out}; erc-toolkit info {out} --missing lists the reasons")


def _reduce(store: Path, step: dict[str, Any]) -> None:
    """A preset's reduction, unless the store has it: extraction keeps it as long as its source is unchanged."""
    from ...toolkit.store import FeatureStore
    from ...toolkit.store.reduction import reduced_name
    from ..reduce import reduce_store

    method, name = step.get("method", "anova"), step.get("name")
    with FeatureStore.open(store) as opened:
        made = reduced_name(step["feature"], step["to"], method, name)
        if made in opened.feature_names():
            click.echo(f"{made}: unchanged")
            return
        if step["feature"] not in opened.feature_names():
            click.echo(f"note: {made} is not made: the store has no {step['feature']}")
            return
    new, fitted = reduce_store(store, step["feature"], step["to"], method, name, command_line())
    click.echo(f"{new}: {step['to']} dimensions by {method}, fitted on {fitted.rows} labelled training rows")


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.rpartition(".")[0]:
        raise click.UsageError(f"--extractor-option {text}: write NAME.KEY=VALUE")
    return key, value


def _report(summary) -> None:
    """Prints the closing summary: present and masked rows, the reasons, and the time of each stage."""
    from rich.markup import escape
    from rich.table import Table

    from ...toolkit.base.progress import rate_in_words

    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("feature", "left"),
        ("dim", "right"),
        ("present", "right"),
        ("masked", "right"),
        ("reasons", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")
    for name, (dim, present, reasons) in summary.features.items():
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        table.add_row(escape(name), str(dim), str(present), str(summary.utterances - present), escape(why))
    console = wide_console()
    console.print(table)
    for note in summary.notes:
        click.echo(f"note: {note}")
    if summary.costs.work:
        console.print(_costs(summary.costs))
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.costs.stages.items())
    utterances = rate_in_words(summary.utterances / summary.seconds)
    media = summary.media_seconds / summary.seconds
    click.echo(
        f"{counted(summary.utterances, 'utterance')}, {counted(summary.dialogues, 'dialogue')} in "
        f"{summary.seconds:.1f} s ({stages}); {utterances}"
        + (f", {media:.2g} times as fast as the media" if media else "")
    )
    click.echo(f"wrote {summary.store}")


def _costs(costs) -> Any:
    """The work of a run as a table: seconds, and share of the whole."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("work", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, seconds, share in costs.shares():
        table.add_row(escape(name), f"{seconds:.1f}", f"{share:.0%}")
    return table


def _check(inputs: list[Path], out: Path, overwrite: bool, overlay: Path | None, **_: object) -> None:
    from ...toolkit.base.outputs import check_output
    from ...toolkit.store import is_extracted

    check_output(out, [*inputs, *([overlay] if overlay else [])], earlier=is_extracted, overwrite=overwrite)


extract_group = CorpusGroup(
    "extract",
    run=_run,
    check=_check,
    shared=OPTIONS,
    verb="Extract the features of",
    help="Extract the features of a raw corpus into a feature store, an HDF5 file that any program can read.",
)


def _extract_manifest(file: Path, **options) -> None:
    from ...toolkit.manifest import load_manifest

    _check([file], **options)
    _run(load_manifest(file), **options)


extract_group.add_command(
    ToolkitCommand(
        "manifest",
        callback=_extract_manifest,
        params=[click.Argument(["file"], type=click.Path(path_type=Path)), *OPTIONS],
        help="Extract the features of the corpus described by the manifest FILE (docs/reference/manifest.md).",
    )
)
