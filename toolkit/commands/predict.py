"""`erc-toolkit predict`: classify the emotion of each turn of a new recording."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ..base.words import counted
from .command import ToolkitCommand, command_line
from .options import device_option, log_json_option, overwrite_option

_MODELS = {
    "text_model": "text encoder",
    "audio_model": "speech encoder",
    "visual_model": "face encoder",
    "visual_weights": "DenseNet weights",
    "face_model": "face detector",
    "lips_model": "weights of LR-ASD, which chooses the speaker's face",
}


@click.command("predict", cls=ToolkitCommand)
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN_OR_PACKAGE")
@click.argument("recording", type=click.Path(path_type=Path), metavar="VIDEO_OR_AUDIO")
@click.option(
    "--transcript",
    type=click.Path(path_type=Path),
    show_default="found as by `erc-toolkit transcribe`",
    help="Turns of the recording: subtitles (.srt, .vtt, .ass, .ttml, .smi, .sbv, .sub), or .csv, .tsv or .json with "
    "start, end, speaker and text.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="the recording's name with -emotions appended",
    help="Folder for turns.json, .csv, .srt and .vtt, report.html and the features.",
)
@click.option("--causal", is_flag=True, help="Classify each turn from the turns up to it.")
@click.option("--speakers", help="The only names recognised as speakers in texts, as written, comma-separated.")
@click.option(
    "--speaker",
    "learned",
    multiple=True,
    metavar="NAME=LEARNED",
    help="Apply what the model learned about its speaker LEARNED to NAME, e.g. Ann=F. Repeatable; the other names take "
    "the model's speakers of the same name, or the free ones in order of appearance.",
)
@click.option(
    "--time-unit",
    type=click.Choice(["s", "ms"]),
    show_default="as the transcript's form says, otherwise s",
    help="Unit of the transcript's times that are plain numbers.",
)
@click.option("--columns", help="Names of a table's columns in order, comma-separated, if it has no header.")
@click.option(
    "--audio-track",
    type=click.IntRange(min=1),
    show_default="the recording's default one",
    help="Number of the audio track, from 1, if the recording has several.",
)
@click.option(
    "--speaker-count", type=click.IntRange(min=1, max=100), help="Without a transcript: number of people who speak."
)
@click.option("--names", help="Without a transcript: names of the people in order of appearance, comma-separated.")
@click.option("--language", help="Without a transcript: code of the language, such as en.")
@click.option("--asr-model", help="Without a transcript: Whisper model for faster-whisper: size, hub name or folder.")
@click.option("--speaker-model", help="Without a transcript: the model that tells voices apart, as for transcribe.")
@device_option()
@log_json_option()
@overwrite_option()
@click.option("--json", "as_json", is_flag=True, help="Print turns.json; everything else goes to standard error.")
def predict_command(
    run: Path,
    recording: Path,
    transcript: Path | None,
    out: Path | None,
    causal: bool,
    speakers: str | None,
    learned: tuple[str, ...],
    time_unit: Literal["s", "ms"] | None,
    columns: str | None,
    audio_track: int | None,
    speaker_count: int | None,
    names: str | None,
    language: str | None,
    asr_model: str | None,
    speaker_model: str | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    **models: str | None,
) -> None:
    """Classify the emotion of every turn of a recording with a trained run.

    Features are extracted exactly as for training; other models are refused. What is missing from the recording (video,
    a face, audio) is treated as absent. Without --transcript the turns are found (pip install
    'erc-toolkit[recordings]') and written to transcript.json, .srt and others in --out; correct one of these and run
    the command again. Use --text-model and similar options if the run's own models have moved.
    """
    from ..predict.predictor import REPORT, Predictor

    def notify(line: str) -> None:
        click.echo(line, err=as_json)

    chosen = {}
    for text in learned:
        name, equals, value = text.rpartition("=")
        if not (equals and name.strip() and value.strip()):
            raise click.UsageError(f"--speaker {text}: write NAME=LEARNED, e.g. Ann=F")
        if name.strip() in chosen:
            raise click.UsageError(f"--speaker {text}: {name.strip()} is given twice")
        chosen[name.strip()] = value.strip()
    people = tuple(name.strip() for name in (names or "").split(",") if name.strip())
    given = {
        "speakers": speaker_count,
        "names": people or None,
        "language": language,
        "asr_model": asr_model,
        "speaker_model": speaker_model,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if transcript is not None and given:
        option = {"speakers": "speaker-count"}.get(first := next(iter(given)), first.replace("_", "-"))
        raise click.UsageError(f"--{option}: is for finding the turns, which --transcript gives; leave one of them out")
    out = out or Path(f"{recording.stem}-emotions")
    predictor = Predictor(run, device, {k: v for k, v in models.items() if v is not None}, notify)
    allowed, order = (
        [name.strip() for name in option.split(",") if name.strip()] if option else [] for option in (speakers, columns)
    )
    turns = predictor.predict(
        recording,
        transcript,
        out,
        causal=causal,
        speakers=allowed,
        learned_speakers=chosen,
        time_unit=time_unit,
        columns=order,
        audio_track=audio_track,
        transcription=given,
        overwrite=overwrite,
        command=command_line(),
    )
    if as_json:
        click.echo((out / "turns.json").read_text(encoding="utf-8"), nl=False)
        return
    for t in turns[:20]:
        own = ", ".join(f"{m} {o[0]}" for m, o in t.opinions.items() if o)
        own = f" ({own})" if own else ""  # not every model predicts from single modalities
        text = t.text if len(t.text) <= 60 else t.text[:59] + "…"
        click.echo(f"{t.start:8.2f} s  {t.emotion} {round(100 * t.probability)} %{own}  {t.speaker}: {text}")
    if len(turns) > 20:
        click.echo(f"… and {counted(len(turns) - 20, 'more turn')}")
    click.echo(f"wrote {out}: turns.json, turns.csv, turns.srt, turns.vtt, {REPORT}")


for _name, _what in _MODELS.items():
    predict_command.params.append(click.Option([f"--{_name.replace('_', '-')}"], help=f"The run's {_what}, if moved."))
