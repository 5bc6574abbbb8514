"""Writing arrays as video files with ffmpeg, reproducibly down to the byte."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import ffmpeg
import numpy as np

from ..base.disk import error_in
from ..base.files import atomic_path
from ..base.processes import run_program
from ..media import ffmpeg_binary


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray] | None,
    audio: np.ndarray | None,
    *,
    fps: float = 15,
    sample_rate: int = 48_000,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
) -> None:
    """Writes a media file; the suffix of its name determines the container.

    Args:
        path: the file.
        frames: uint8 (height, width, 3) BGR each, with even height and width; None for a file without a video track.
        audio: float32 (samples,) or (samples, channels) within -1 and 1; None for a file without an audio track.
        fps: frames per second.
        sample_rate: sample rate of the audio, in Hz.
        video_codec, audio_codec: ffmpeg's encoders.

    Raises:
        OSError: the disk is full, or does not let ffmpeg write.
        RuntimeError: ffmpeg could not write the file; the message contains ffmpeg's.
    """
    inputs, options = [], {}
    with tempfile.TemporaryDirectory() as folder, atomic_path(Path(path)) as temporary:
        if frames is not None:
            images = [np.ascontiguousarray(frame) for frame in frames]
            height, width = images[0].shape[:2]
            raw = Path(folder) / "video.raw"
            raw.write_bytes(b"".join(image.tobytes() for image in images))
            inputs.append(
                ffmpeg.input(str(raw), format="rawvideo", pix_fmt="bgr24", s=f"{width}x{height}", framerate=fps)
            )
            options |= {"vcodec": video_codec, "pix_fmt": "yuv420p"}
            if video_codec == "libx264":
                options |= {"preset": "ultrafast", "crf": 20}
        if audio is not None:
            samples = np.asarray(audio, np.float32).reshape(len(audio), -1)
            raw = Path(folder) / "audio.raw"
            raw.write_bytes(samples.tobytes())
            inputs.append(ffmpeg.input(str(raw), format="f32le", ar=sample_rate, ac=samples.shape[1]))
            options["acodec"] = audio_codec
            if audio_codec == "aac":
                options["aac_coder"] = "fast"  # half the time of the default one
        named = temporary.with_name(temporary.name + Path(path).suffix)  # ffmpeg goes by the suffix
        options |= {"threads": 1, "fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact"}
        output = ffmpeg.output(*inputs, f"file:{named}", **options)
        command = output.global_args("-nostdin", "-loglevel", "error", "-y").compile(cmd=ffmpeg_binary())
        try:
            done = run_program(command)
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip()
                raise error_in(said, Path(path)) or RuntimeError(f"{path}: ffmpeg failed: {said[-300:]}")
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
