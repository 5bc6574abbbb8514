"""`erc-toolkit predict`: classify the emotion of each turn of a new recording."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ..base.words import counted
from .command import ToolkitCommand, command_line
from .options import device_option, log_json_option, overwrite_option
from .predict_live import turn_line

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
@click.argument("recording", type=click.Path(path_type=Path), metavar="VIDEO_OR_AUDIO_OR_-")
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
@click.option(
    "--past",
    type=click.IntRange(min=0),
    show_default="all",
    help="With --causal or --live: number of turns before it that a turn is classified from.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Read a stream, and print each turn's emotion as soon as it has ended: WAV, PCM (16 bits, mono, 16 kHz), "
    "or video and audio (Matroska, MPEG-TS…) from standard input (-), or a file that grows. Causal.",
)
@click.option("--pcm-rate", type=click.IntRange(1000, 1_000_000), help="With --live: rate of PCM without a header, Hz.")
@click.option(
    "--idle",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="With --live: seconds without growth after which a file is complete.",
)
@click.option(
    "--pause",
    type=click.FloatRange(min=0.25, max=10),
    show_default="0.5",
    help="With --live and no transcript: seconds of silence that end a turn.",
)
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
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print turns.json, or with --live a line of JSON for each turn; everything else goes to standard error.",
)
def predict_command(
    run: Path,
    recording: Path,
    transcript: Path | None,
    out: Path | None,
    causal: bool,
    past: int | None,
    live: bool,
    pcm_rate: int | None,
    idle: float,
    pause: float | None,
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
    the command again. With --live the recording is a stream of audio, or of audio and video. Use --text-model and
    similar options if the run's own models have moved.
    """
    _check_stream_options(str(recording), live, causal, pcm_rate, pause, past, transcript, audio_track)
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
    out = out or Path(f"{'live' if str(recording) == '-' else recording.stem}-emotions")
    predictor = Predictor(run, device, {k: v for k, v in models.items() if v is not None}, notify)
    allowed, order = (
        [name.strip() for name in option.split(",") if name.strip()] if option else [] for option in (speakers, columns)
    )
    if live:
        from ..predict.live import LiveOptions
        from .predict_live import predict_stream

        how = LiveOptions(transcript, past, chosen, allowed, time_unit, order, given, pause, pcm_rate)
        predict_stream(predictor, recording, out, how, idle=idle, overwrite=overwrite, as_json=as_json)
        return
    turns = predictor.predict(
        recording,
        transcript,
        out,
        causal=causal,
        past=past,
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
        click.echo(turn_line(t))
    if len(turns) > 20:
        click.echo(f"… and {counted(len(turns) - 20, 'more turn')}")
    click.echo(f"wrote {out}: turns.json, turns.csv, turns.srt, turns.vtt, {REPORT}")


def _check_stream_options(
    recording: str,
    live: bool,
    causal: bool,
    pcm_rate: int | None,
    pause: float | None,
    past: int | None,
    transcript: Path | None,
    audio_track: int | None,
) -> None:
    if not live:
        if recording == "-":
            raise click.UsageError("-: is standard input, which is read with --live only")
        for option, value in (("--pcm-rate", pcm_rate), ("--pause", pause)):
            if value is not None:
                raise click.UsageError(f"{option}: is for --live")
        if past is not None and not causal:
            raise click.UsageError("--past: is for --causal and --live")
    elif audio_track is not None:
        raise click.UsageError("--audio-track: of a stream the default one is read; choose it where the stream is made")
    elif pause is not None and transcript is not None:
        raise click.UsageError("--pause: is for finding the turns, which --transcript gives; leave one of them out")


for _name, _what in _MODELS.items():
    predict_command.params.append(click.Option([f"--{_name.replace('_', '-')}"], help=f"The run's {_what}, if moved."))
