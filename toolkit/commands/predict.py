"""`erc-toolkit predict`: the emotion of each turn of a new recording."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from .command import ToolkitCommand
from .options import device_option

_MODELS = {
    "text_model": "text encoder",
    "audio_model": "speech encoder",
    "visual_model": "network over the face crops",
    "visual_weights": "weights of a DenseNet",
    "face_model": "face detector",
}


@click.command("predict", cls=ToolkitCommand)
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN_OR_PACKAGE")
@click.argument("recording", type=click.Path(path_type=Path), metavar="VIDEO_OR_AUDIO")
@click.option(
    "--transcript",
    required=True,
    type=click.Path(path_type=Path),
    help="Its turns: .srt, .vtt, or .csv or .json with start, end, speaker and text.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="the recording's name and -emotions",
    help="Folder for turns.json, .csv, .srt and .vtt, report.html and the features.",
)
@click.option("--causal", is_flag=True, help="Judge each turn by what was said up to it.")
@click.option("--speakers", help="The only names taken for speakers in subtitles, with commas.")
@device_option()
@click.option("--json", "as_json", is_flag=True, help="Print turns.json; all else goes to standard error.")
def predict_command(
    run: Path,
    recording: Path,
    transcript: Path,
    out: Path | None,
    causal: bool,
    speakers: str | None,
    device: str,
    as_json: bool,
    **models: str | None,
) -> None:
    """Say the emotion of every turn of a recording, by a trained run.

    Features are extracted as the run's were; another model's are refused. What the recording lacks (no picture, nobody's
    face, no sound) is treated as absent. --text-model and its like name the run's own models where they have moved.
    """
    from ..predict.predictor import REPORT, Predictor

    def notify(line: str) -> None:
        click.echo(line, err=as_json)

    out = out or Path(f"{recording.stem}-emotions")
    predictor = Predictor(run, device, {k: v for k, v in models.items() if v is not None}, notify)
    names = [name.strip() for name in speakers.split(",") if name.strip()] if speakers else []
    command = shlex.join(["erc-toolkit", *sys.argv[1:]])
    turns = predictor.predict(recording, transcript, out, causal=causal, speakers=names, command=command)
    if as_json:
        click.echo((out / "turns.json").read_text(encoding="utf-8"), nl=False)
        return
    for t in turns[:20]:
        own = ", ".join(f"{m} {o[0]}" for m, o in t.opinions.items() if o)
        own = f" ({own})" if own else ""  # not every model has opinions of its modalities
        text = t.text if len(t.text) <= 60 else t.text[:59] + "…"
        click.echo(f"{t.start:8.2f} s  {t.emotion} {round(100 * t.probability)} %{own}  {t.speaker}: {text}")
    if len(turns) > 20:
        click.echo(f"… and {len(turns) - 20} more turns")
    click.echo(f"wrote {out}: turns.json, turns.csv, turns.srt, turns.vtt, {REPORT}")


for _name, _what in _MODELS.items():
    predict_command.params.append(
        click.Option([f"--{_name.replace('_', '-')}"], help=f"The run's {_what}, where it has moved.")
    )
