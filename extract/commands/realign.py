"""`erc-toolkit realign`: where the words of a corpus really are in its audio."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import make_device_option, make_log_json_option, make_overwrite_option
from .corpus_group import CorpusGroup
from .extract import click_option

# Options of extraction, with the same meaning here.
_FACE_OPTIONS = ("face_detector", "face_model", "smallest_face", "lips_model", "fps", "workers", "time_limit")
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
    click_option("audio_track"),
    click.Option(
        ["--faces"],
        type=click.Choice(["auto", "yes", "no"]),
        default="auto",
        show_default=True,
        help="Look for the face that speaks, by lips; auto does if the models are there or can be fetched.",
    ),
    *map(click_option, _FACE_OPTIONS),
    make_device_option(),
    make_log_json_option(),
    make_overwrite_option(),
]


def _check(
    inputs: list[Path],
    out: Path,
    faces: str,
    face_model: Path | None,
    lips_model: Path | None,
    overwrite: bool,
    **_: object,
) -> None:
    if faces == "no" and (face_model is not None or lips_model is not None):
        raise click.UsageError("--face-model and --lips-model: --faces no does not use them")
    from ..alignment.realign import check

    check(out, (*inputs, *(path for path in (face_model, lips_model) if path is not None)), overwrite)


def _run(manifest, out: Path, ctc_model: str, faces: str, device: str, overwrite: bool, **options) -> None:
    from ...toolkit.base.device import pick_device
    from ..alignment import ctc
    from ..alignment.faces import face_search
    from ..alignment.realign import Options, realign
    from ..encoders import selection

    given = {name: options.pop(name) for name in _FACE_OPTIONS}
    search, line = face_search(faces, selection.Options(**given, audio_track=options["audio_track"]))
    emitter = ctc.CtcModel(ctc_model, pick_device(device))
    if line:
        click.echo(line)
    lines = realign(manifest, out, emitter, Options(**options), faces=search, overwrite=overwrite, notify=click.echo)
    click.echo(f"{manifest.corpus}: {counted(sum(line.sure for line in lines), 'span')} of {len(lines)} found")
    if search is not None:
        there = sum(line.face is not None and bool(line.face.boxes) for line in lines)
        click.echo(f"{manifest.corpus}: {counted(there, 'speaking face')} of {len(lines)} found")
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
