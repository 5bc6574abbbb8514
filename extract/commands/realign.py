"""`erc-toolkit realign`: where the words of a corpus really are in its audio."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import make_device_option, make_overwrite_option
from .corpus_group import CorpusGroup

_OPTIONS = [
    click.Option(
        ["--out"], required=True, type=click.Path(path_type=Path, dir_okay=False), help="The overlay to write (.jsonl)."
    ),
    click.Option(
        ["--ctc-model"],
        default="facebook/wav2vec2-base-960h",
        show_default=True,
        help="CTC model of letters of the corpus's language: hub name or folder.",
    ),
    click.Option(
        ["--margin"],
        type=click.FloatRange(0, 60),
        default=2.0,
        show_default=True,
        help="Seconds searched before and after a span in a longer file.",
    ),
    click.Option(
        ["--padding"],
        type=click.FloatRange(0, 5),
        default=0.1,
        show_default=True,
        help="Seconds added before the first and after the last word.",
    ),
    click.Option(
        ["--least-score"],
        type=click.FloatRange(0, 1),
        default=0.2,
        show_default=True,
        help="Below this probability per token a span is flagged and not applied.",
    ),
    click.Option(["--audio-track"], type=click.IntRange(min=1), help="Number of the audio track, from 1."),
    make_device_option(),
    make_overwrite_option(),
]


def _check(inputs: list[Path], out: Path, overwrite: bool, **_: object) -> None:
    from ..alignment.realign import check

    check(out, tuple(inputs), overwrite)


def _run(manifest, out: Path, ctc_model: str, device: str, overwrite: bool, **options) -> None:
    from ...toolkit.base.device import pick_device
    from ..alignment import ctc
    from ..alignment.realign import Options, realign

    emitter = ctc.CtcModel(ctc_model, pick_device(device))
    lines = realign(manifest, out, emitter, Options(**options), overwrite=overwrite, notify=click.echo)
    click.echo(f"{manifest.corpus}: {counted(sum(line.sure for line in lines), 'span')} of {len(lines)} found")
    for flag, count in Counter(flag for line in lines for flag in line.flags).most_common():
        click.echo(f"  {count} {flag}")
    click.echo(f"wrote {out}")


realign_group = CorpusGroup(
    "realign",
    run=_run,
    check=_check,
    shared=_OPTIONS,
    verb="Align the words of",
    help="Find the words of a corpus in its audio, and write an overlay of corrected spans for `extract --overlay`.",
)


def _manifest(file: Path, **options) -> None:
    from ...toolkit.manifest import load_manifest

    _check([file], **options)
    _run(load_manifest(file), **options)


realign_group.add_command(
    ToolkitCommand(
        "manifest",
        callback=_manifest,
        params=[click.Argument(["file"], type=click.Path(path_type=Path)), *_OPTIONS],
        help="Align the words of the corpus described by the manifest FILE.",
    )
)
