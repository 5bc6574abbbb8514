"""`erc-toolkit transcribe`: who speaks when in a recording, and what they say."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand, command_line
from ...toolkit.commands.options import device_option, log_json_option, overwrite_option
from ..diarization.requirements import ASR_MODEL, SPEAKER_MODEL


@click.command("transcribe", cls=ToolkitCommand)
@click.argument("recording", type=click.Path(path_type=Path), metavar="VIDEO_OR_AUDIO_OR_FOLDER")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The JSON file to write; .srt, .vtt, .rttm and a manifest (.jsonl) get the same name. For a folder of "
    "recordings a folder.",
)
@click.option(
    "--speakers",
    type=click.IntRange(min=1, max=100),
    show_default="found by the distances between voices",
    help="Number of people who speak.",
)
@click.option("--names", help="Names of the people in order of appearance, comma-separated.  [default: speaker_1, …]")
@click.option("--language", show_default="detected in the first voices", help="Code of the language, such as en.")
@click.option(
    "--asr-model",
    default=ASR_MODEL,
    show_default=True,
    help="Whisper model for faster-whisper: size, hub name or folder.",
)
@click.option(
    "--speaker-model",
    default=SPEAKER_MODEL,
    show_default=True,
    help="Model that tells voices apart: hub name or folder of a WavLM with x-vectors, or another package's encoder.",
)
@click.option(
    "--pause",
    type=click.FloatRange(min=0.1, max=60),
    default=1.0,
    show_default=True,
    help="Seconds of silence after which the same person's speech is another turn.",
)
@click.option(
    "--corrected",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Corrected .json, .srt, .vtt or .rttm of the turns at --out.  [default: the one there that was changed]",
)
@click.option(
    "--audio-track",
    type=click.IntRange(min=1),
    show_default="the recording's default one",
    help="Number of the audio track, from 1, if the recording has several.",
)
@click.option(
    "--faces",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Link the voices of a video with the faces that speak; auto does if the models are there or can be fetched.",
)
@click.option("--face-model", type=click.Path(path_type=Path), help="YuNet's model file.  [default: the hub's]")
@click.option(
    "--lips-model",
    type=click.Path(path_type=Path),
    help="LR-ASD's weights.  [default: its authors' file for AVA, fetched once]",
)
@device_option()
@log_json_option()
@overwrite_option()
def transcribe_command(
    recording: Path,
    out: Path,
    speakers: int | None,
    names: str | None,
    language: str | None,
    asr_model: str,
    speaker_model: str,
    pause: float,
    corrected: Path | None,
    audio_track: int | None,
    faces: str,
    face_model: Path | None,
    lips_model: Path | None,
    device: str,
    overwrite: bool,
) -> None:
    """Find the turns of a recording: who speaks when, and what they say.

    Needs pip install 'erc-toolkit[recordings]'. Correct any of the files that are written, and run the same command
    again: what is unchanged stays, and only spans without words are recognised again. A run that was stopped continues.
    docs/how-to/recordings.md describes it, docs/reference/turns.md the JSON.
    """
    from ...toolkit.base.errors import UserError
    from ...toolkit.media import has_pictures
    from ..diarization.folders import transcribe_folder
    from ..diarization.loading import Options
    from ..diarization.transcribe import transcribe
    from ..run.media.recording_faces import face_finder, finder_for

    people = tuple(name.strip() for name in (names or "").split(",") if name.strip())
    if speakers is not None and len(people) > speakers:
        raise click.UsageError(f"--names: {len(people)} names for --speakers {speakers}")
    options = Options(speakers, language, asr_model, speaker_model, people, audio_track, pause, device)
    if faces == "no" and (face_model is not None or lips_model is not None):
        raise click.UsageError("--face-model and --lips-model: --faces no does not use them")
    if not recording.is_dir() and not has_pictures(recording):  # a file that is missing is reported below
        if faces == "yes" and recording.is_file():
            raise UserError(f"{recording}: has no video track; leave --faces yes out")
        faces = "no"
    finder, line = face_finder(faces, "yunet", face_model, lips_model, audio_track)
    if line:
        click.echo(line)
    if recording.is_dir():
        if corrected is not None:
            raise click.UsageError(
                "--corrected: is for one recording; in the folder, change the files of --out in place"
            )
        done = transcribe_folder(
            recording,
            out,
            options,
            overwrite=overwrite,
            faces=lambda path: finder_for(finder, path),
            command=command_line(),
            notify=click.echo,
        )
        done.finish(click.echo)
        return
    result = transcribe(
        recording,
        out,
        options,
        corrected=corrected,
        overwrite=overwrite,
        faces=finder,
        command=command_line(),
        notify=click.echo,
    )
    for line in result.lines:
        click.echo(line)
    document = result.document
    marked = sum(bool(turn.marks) for turn in document.turns)
    for turn in document.turns[:20]:
        text = turn.text if len(turn.text) <= 60 else turn.text[:59] + "…"
        why = f"  ({', '.join(turn.marks)})" if turn.marks else ""
        click.echo(f"{turn.start:8.2f} s  {turn.speaker}: {text}{why}")
    if len(document.turns) > 20:
        click.echo(f"… and {counted(len(document.turns) - 20, 'more turn')}")
    if marked:
        click.echo(f"{marked} of {counted(len(document.turns), 'turn')} marked as unsure")
    if result.written:
        click.echo(f"wrote {out}, and .srt, .vtt, .rttm and .jsonl of the same name")
    if document.reason:
        from ...toolkit.base.errors import FaultError

        raise FaultError(f"{recording}: {document.reason}; {out} has no turns")
