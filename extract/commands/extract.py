"""`erc-toolkit extract`: from a raw corpus or a manifest to a feature store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import make_device_option
from .corpus_group import CorpusGroup

# The feature sets of the opensmile package; the names stand here so that `--help` need not import it.
AUDIO_SETS = (
    "ComParE_2016",
    "IS09",
    "IS10",
    "IS11",
    "IS12",
    "IS13",
    "GeMAPS",
    "GeMAPSv01b",
    "eGeMAPS",
    "eGeMAPSv01b",
    "eGeMAPSv02",
    "emobase",
)
# Of `erc_toolkit.extract.encoders.face_network.ARCHITECTURES`, for the same reason; a test compares them.
DENSENETS = ("densenet121", "denseface")
OPTIONS = [
    click.Option(
        ["--out"], required=True, type=click.Path(path_type=Path, dir_okay=False), help="The store to write (.h5)."
    ),
    click.Option(
        ["--modalities"], default="text,audio,visual", show_default=True, help="Which to extract, with commas."
    ),
    click.Option(
        ["--text-model"], default="roberta-large", show_default=True, help="Hub name, or a folder with the model."
    ),
    click.Option(
        ["--pooling"],
        type=click.Choice(["cls", "mean", "last4", "last4-mean"]),
        default="mean",
        show_default=True,
        help="How the tokens' vectors become one; last4 stores the last four layers' <s>, a matrix each.",
    ),
    click.Option(
        ["--text-context"],
        type=click.IntRange(0, 100),
        default=0,
        show_default=True,
        metavar="K",
        help="Let the text model read the K utterances before, with speakers' names.",
    ),
    click.Option(
        ["--audio-set"],
        type=click.Choice(AUDIO_SETS),
        default="ComParE_2016",
        show_default=True,
        help="openSMILE feature set; functionals.",
    ),
    click.Option(
        ["--audio-model"],
        metavar="NAME|DIR",
        help="A speech encoder of transformers (wav2vec2, hubert, wavlm, …) "
        "in place of openSMILE: hub name, or a folder.",
    ),
    click.Option(
        ["--visual-model"],
        default="densenet121",
        show_default=True,
        metavar="NAME|DIR",
        help="Network over the "
        "face crops: densenet121 (1024), denseface (the field's 342), vit, or any image encoder of transformers: "
        "hub name, or a folder.",
    ),
    click.Option(
        ["--visual-weights"],
        default="imagenet",
        show_default=True,
        metavar="imagenet|random|FILE",
        help="A DenseNet's weights: torchvision's, untrained from a fixed seed, or a .safetensors or .pt file.",
    ),
    click.Option(
        ["--normalisation"],
        metavar="MEAN,STD",
        help="Of the crops' grey levels, 0 to 255, in place of the "
        "network's own; for denseface also ferplus, iemocap, meld.",
    ),
    click.Option(
        ["--sequences"],
        is_flag=True,
        help="Keep the frames behind each vector as well: low-level descriptors, a "
        "speech model's frames, a vector for each face crop.",
    ),
    click.Option(
        ["--precision"],
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="What the networks run in; features are float32. float32 is exact, the others are fast where the "
        "hardware has them.",
    ),
    click.Option(
        ["--face-detector"],
        type=click.Choice(["yunet", "haar"]),
        default="yunet",
        show_default=True,
        help="YuNet gives landmarks, and so upright crops.",
    ),
    click.Option(
        ["--face-model"],
        type=click.Path(path_type=Path),
        help="The detector's file. Default: YuNet's from the hub; Haar's from OpenCV.",
    ),
    click.Option(
        ["--face-margin"],
        type=click.FloatRange(0, 2),
        default=0.1,
        show_default=True,
        help="Added around the face on each side, as a fraction of its own.",
    ),
    click.Option(
        ["--fps"],
        type=click.FloatRange(0.1, 60),
        default=5.0,
        show_default=True,
        help="Pictures looked at in each second of video.",
    ),
    click.Option(
        ["--save-crops"],
        type=click.Path(path_type=Path, file_okay=False),
        help="Write each utterance's face crops to this folder.",
    ),
    make_device_option("Where the encoders compute; auto takes CUDA where there is any."),
    click.Option(
        ["--shard"],
        callback=lambda ctx, option, value: _shard(value),
        metavar="I/N",
        help="Do share I of N and keep its parts; erc-toolkit merge joins them.",
    ),
    click.Option(
        ["--part-size"],
        type=click.IntRange(1),
        default=32,
        show_default=True,
        help="Utterances that are finished, and written, together.",
    ),
    click.Option(["--strict"], is_flag=True, help="Exit with an error when any row is masked."),
    click.Option(
        ["--time-limit"],
        type=click.FloatRange(1),
        default=1800.0,
        show_default=True,
        help="Seconds after which decoding a file is given up.",
    ),
    click.Option(["--log-json"], is_flag=True, help="Progress as JSON lines on standard error."),
    click.Option(
        ["--workers"], type=click.IntRange(min=0), default=0, help="Processes that decode.  [default: one a core]"
    ),
]


def _shard(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    number, _, of = value.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise click.BadParameter(f"{value!r} is not a share; write 1/4 for the first of four")
    return int(number), int(of)


def _run(manifest, **options) -> None:
    from ...toolkit.base.errors import UserError
    from ...toolkit.manifest import MODALITIES
    from ..encoders.selection import Options
    from ..run.engine import extract

    out, shard, strict = (options.pop(name) for name in ("out", "shard", "strict"))
    modalities = tuple(dict.fromkeys(m.strip() for m in options.pop("modalities").split(",") if m.strip()))
    if not modalities or set(modalities) - set(MODALITIES):
        raise click.UsageError(f"--modalities: choose from {', '.join(MODALITIES)}, with commas between")
    given = {
        name
        for name in options
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if options["audio_model"] is not None and "audio_set" in given:
        raise click.UsageError(
            "--audio-model stands in place of --audio-set; give one of them, and run again for the other"
        )
    if options["visual_model"] not in DENSENETS and "visual_weights" in given:
        raise click.UsageError(
            f"--visual-weights are a DenseNet's ({', '.join(DENSENETS)}); {options['visual_model']} brings its own"
        )
    click.echo(f"{manifest.corpus}: {len(manifest.utterances)} utterances under {manifest.root}")
    for note in manifest.notes:
        click.echo(f"  note: {note}")
    command = shlex.join(["erc-toolkit", *sys.argv[1:]])
    summary = extract(
        manifest, out, Options(modalities=modalities, **options), command=command, shard=shard, notify=click.echo
    )
    if summary.store is not None:
        _report(summary)
        masked = sum(sum(reasons.values()) for _, _, reasons in summary.features.values())
        if strict and masked:
            raise UserError(f"--strict: {masked} rows of {out} are masked; erc-toolkit info {out} --missing lists them")


def _report(summary) -> None:
    """The closing summary: what is present, what is masked and why, and where the time went."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

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
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a log's lines may be longer than 80
    console.print(table)
    for note in summary.notes:
        click.echo(f"note: {note}")
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stages.items())
    click.echo(
        f"{summary.utterances} utterances, {summary.dialogues} dialogues in {summary.seconds:.1f} s ({stages}); "
        f"{summary.utterances / summary.seconds:.1f} utterances and {summary.media_seconds / summary.seconds:.1f} s of "
        "media a second"
    )
    click.echo(f"wrote {summary.store}")


extract_group = CorpusGroup(
    "extract",
    run=_run,
    shared=OPTIONS,
    verb="Extract the features of",
    help="Turn a raw corpus into a feature store: one HDF5 file that any program can read.",
)


def _extract_manifest(file: Path, **options) -> None:
    from ...toolkit.manifest import read_manifest

    _run(read_manifest(file), **options)


extract_group.add_command(
    ToolkitCommand(
        "manifest",
        callback=_extract_manifest,
        params=[click.Argument(["file"], type=click.Path(path_type=Path)), *OPTIONS],
        help="Extract the features of any corpus that the manifest FILE describes (docs/reference/manifest.md).",
    )
)
