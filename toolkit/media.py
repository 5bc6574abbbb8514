"""Decoding of video and audio: one pass of one ffmpeg process returns a file's audio and sampled frames.

The binary is the `ffmpeg` on PATH, otherwise the one of the package imageio-ffmpeg. Only local files in container
formats are opened, never playlists or scripts that name further files.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import ffmpeg
import numpy as np

SAMPLE_RATE = 16_000
# The largest value of 16 bits. opensmile multiplies by 2**15 and casts without clipping, so that a sample of
# 1.0 would come out as -1.0.
FULL_SCALE = 1 - 2.0**-15
_CONTAINERS = (
    "mov",
    "mp4",
    "m4a",
    "3gp",
    "3g2",
    "mj2",
    "avi",
    "matroska",
    "webm",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "flv",
    "asf",
    "ogg",
    "wav",
    "w64",
    "aiff",
    "au",
    "flac",
    "mp3",
    "aac",
    "ac3",
    "eac3",
    "dv",
    "mxf",
    "nut",
    "rm",
    "h264",
    "hevc",
)


class MediaError(Exception):
    """A file cannot be used; the message is the reason that is written to the store."""


@functools.cache
def ffmpeg_binary() -> str:
    """Path of the ffmpeg program: the one on PATH, otherwise imageio-ffmpeg's."""
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return found


@functools.cache
def ffmpeg_version() -> str:
    """The first line of `ffmpeg -version`, reduced to the version itself."""
    out = subprocess.run([ffmpeg_binary(), "-version"], capture_output=True, text=True, check=True).stdout
    return out.split()[2]


class MediaReader:
    """One pass over one media file.

    Args:
        path: the file.
        audio: decode the first audio track to mono at 16 kHz.
        own_rate: also decode the track at its original rate, for callers that resample by other means.
        fps: sample the video at this rate (frames per second of playing time); None for no frames.
        time_limit: seconds after which decoding is aborted.

    Use it in a `with` statement: iterate `frames()`, call `finish()`, then read `samples`, `duration` and, with
    `own_rate`, `own_samples` and `rate`. `has_audio` and `has_video` are then set as well.

    Raises:
        MediaError: the file is missing, empty or unreadable, or decoding exceeded the time limit; from `__enter__`,
            `frames` or `finish`.
    """

    def __init__(
        self,
        path: Path,
        *,
        audio: bool = True,
        fps: float | None = None,
        own_rate: bool = False,
        time_limit: float = 1800,
    ):
        self.path = Path(path)
        self._want_own, self.own_samples, self.rate = own_rate, None, SAMPLE_RATE
        self._want_audio, self._fps, self._time_limit = audio, fps, time_limit
        self.has_audio = self.has_video = False
        self.frame_count = 0
        self.samples: np.ndarray | None = None
        self._timed_out = False

    def __enter__(self) -> MediaReader:
        self._check_file()
        self._start(self._want_audio, self._fps)
        if self._failed_for_a_missing_track():
            # ffmpeg exits at once when a requested track is missing, and logs which tracks there are.
            self._stop()
            self._start(self._want_audio and self.has_audio, self._fps if self.has_video else None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (time in seconds, image uint8 (height, width, 3) in RGB) at the sampling rate."""
        if self._video is None or self._fps is None:
            return
        while (frame := _read_ppm(self._video)) is not None:
            yield self.frame_count / self._fps, frame
            self.frame_count += 1

    def finish(self) -> None:
        """Waits for the end of decoding and sets `samples`: float32 (n,), mono, 16 kHz, clipped; None without a track.

        Raises:
            MediaError: nothing could be decoded, or decoding exceeded the time limit.
        """
        for _ in self.frames():
            pass
        self._join()
        if self._process is not None:
            self.has_audio, self.has_video = self._tracks()
        if self._timed_out:
            raise MediaError(f"decoding took longer than {self._time_limit:g} s")
        if self._decodes_audio:
            self.samples = _samples(self._audio_parts)
        if self._decodes_audio and self._want_own:
            self.own_samples = _samples(self._own_parts)
            rates = re.findall(r"Audio: pcm_f32le\b.*?, (\d+) Hz", self._text().rpartition("Output #1")[2])
            self.rate = int(rates[0]) if rates else SAMPLE_RATE
        errors = self._lines("error", "fatal")
        if self.duration == 0:
            if not (self.has_audio or self.has_video):
                raise MediaError(f"unreadable file: {_shorten(errors)}")
            if self._decodes_audio or self._video is not None:
                raise MediaError(f"nothing could be decoded: {_shorten(errors)}")

    @property
    def truncated(self) -> str:
        """After `finish`: the reason to reject the whole file because its end is missing, or an empty string."""
        decoded, declared = self.duration, self.declared_duration
        errors = self._lines("error", "fatal")
        # Without an error one track may legitimately be shorter than the container, so both must have been decoded.
        judged = errors or (self._decodes_audio == self.has_audio and (self._video is not None) == self.has_video)
        short = declared is not None and judged and decoded < declared - max(0.25, 0.05 * declared)
        if short or any("partial file" in line for line in errors):
            return f"truncated: {decoded:.2f} of {declared or 0:.2f} s could be decoded"
        return ""

    @property
    def duration(self) -> float:
        """Decoded duration in seconds: the longer of audio and video."""
        audio = 0.0 if self.samples is None else len(self.samples) / SAMPLE_RATE
        return max(audio, self.frame_count / self._fps if self._fps else 0.0)

    @property
    def declared_duration(self) -> float | None:
        """Duration in seconds according to the container, or None."""
        match = re.search(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", self._text())
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None

    def _check_file(self) -> None:
        try:
            size = self.path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise MediaError("missing file") from None
        except OSError as error:  # no permission, a loop of symbolic links, too long a name
            raise MediaError(f"unreadable file: {error.strerror}") from None
        if not self.path.is_file():
            raise MediaError("not a regular file")
        if size == 0:
            raise MediaError("empty file")

    def _start(self, audio: bool, fps: float | None) -> None:
        self._decodes_audio = audio
        self._process: subprocess.Popen[bytes] | None = None
        self._video: io.BufferedReader | None = None
        self._log: list[bytes] = []
        self._audio_parts: list[bytes] = []
        self._own_parts: list[bytes] = []
        self._threads: list[threading.Thread] = []
        if not audio and fps is None:
            return
        source = ffmpeg.input(
            f"file:{self.path}", protocol_whitelist="file,pipe", format_whitelist=",".join(_CONTAINERS), threads=1
        )
        outputs, video_write, own_write = [], None, None
        if audio:
            # In floating point ffmpeg mixes stereo to mono as (left + right) / sqrt 2, 3 dB above what it writes to a
            # WAV file, and loud clips exceed full scale. rematrix_maxval=1 yields the WAV file's mix, an average.
            outputs.append(
                ffmpeg.output(source["a:0"], "pipe:1", format="f32le", ac=1, ar=SAMPLE_RATE, rematrix_maxval=1)
            )
        if audio and self._want_own:
            own_read, own_write = os.pipe()
            outputs.append(ffmpeg.output(source["a:0"], f"pipe:{own_write}", format="f32le", ac=1, rematrix_maxval=1))
        if fps is not None:
            video_read, video_write = os.pipe()
            # V, not v: cover art is not video. Frame k is the one on screen at k / fps seconds.
            sampled = source["V:0"].filter("fps", fps=fps, start_time=0, round="up")
            options = {"format": "image2pipe", "vcodec": "ppm", "pix_fmt": "rgb24", "threads": 1}
            outputs.append(ffmpeg.output(sampled, f"pipe:{video_write}", **options))
        merged = ffmpeg.merge_outputs(*outputs).global_args(
            "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-filter_threads", "1"
        )
        self._process = subprocess.Popen(
            merged.compile(cmd=ffmpeg_binary()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[end for end in (video_write, own_write) if end is not None],
        )
        # Popen declares its pipes as plain binary files, but they are buffered readers.
        streams = [
            (cast(io.BufferedReader, self._process.stdout), self._audio_parts),
            (cast(io.BufferedReader, self._process.stderr), self._log),
        ]
        if own_write is not None:
            os.close(own_write)
            streams.append((_open_pipe(own_read), self._own_parts))
        if video_write is not None:
            os.close(video_write)
            self._video = _open_pipe(video_read)
        for stream, parts in streams:
            self._threads.append(threading.Thread(target=_drain, args=(stream, parts), daemon=True))
            self._threads[-1].start()
        self._timer = threading.Timer(self._time_limit, self._abort)
        self._timer.daemon = True
        self._timer.start()

    def _failed_for_a_missing_track(self) -> bool:
        # A failed start closes the pipes, so waiting for their first bytes distinguishes it from a successful one.
        if self._video is not None and self._video.peek(1):
            return False
        self._join()
        self.has_audio, self.has_video = self._tracks()
        missing = (self._want_audio and not self.has_audio) or (self._fps is not None and not self.has_video)
        failed = self._process is not None and self._process.returncode != 0
        return failed and missing and (self.has_audio or self.has_video)

    def _tracks(self) -> tuple[bool, bool]:
        """Whether ffmpeg found an audio and a video track in the input (not in its output)."""
        seen = self._text().split("Output #0")[0].split("Stream mapping:")[0]
        streams = re.findall(r"Stream #0:\d+.*?: (Video|Audio): .*", seen)
        covers = len(re.findall(r"Stream #0:\d+.*?: Video: .*\(attached pic\)", seen))
        return "Audio" in streams, streams.count("Video") > covers

    def _abort(self) -> None:
        self._timed_out = True
        if self._process is not None:
            self._process.kill()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        if self._process is not None:
            self._process.wait()
            self._timer.cancel()

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._video is not None:
            self._video.close()
        self._join()

    def _text(self) -> str:
        return b"".join(self._log).decode("utf-8", "replace")

    def _lines(self, *levels: str) -> list[str]:
        """ffmpeg's messages of these levels, without their prefixes."""
        pattern = re.compile(rf"^(?:\[[^\]]*\] )?\[(?:{'|'.join(levels)})\] (.*)$", re.MULTILINE)
        return pattern.findall(self._text())


def _open_pipe(descriptor: int) -> io.BufferedReader:
    return io.BufferedReader(io.FileIO(descriptor, "rb"), buffer_size=1 << 20)


def _drain(stream: io.BufferedReader, parts: list[bytes]) -> None:
    with stream:
        while part := stream.read1(1 << 20):
            parts.append(part)


def _samples(parts: list[bytes]) -> np.ndarray:
    data = b"".join(parts)
    samples = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    return np.clip(np.nan_to_num(samples), -1.0, np.float32(FULL_SCALE)).astype(np.float32)


def _read_ppm(stream: io.BufferedReader) -> np.ndarray | None:
    """The next image of a stream of binary PPM files, or None at its end (even in the middle of an image)."""
    if stream.readline() != b"P6\n":
        return None
    size, depth = stream.readline().split(), stream.readline()
    if len(size) != 2 or depth != b"255\n":
        return None
    width, height = int(size[0]), int(size[1])
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _shorten(errors: list[str]) -> str:
    """The first non-empty message, on one line and without absolute paths."""
    for line in errors:
        line = re.sub(r"(file:)?/\S+", "…", line).strip(" .")
        if line:
            return line[:120]
    return "no reason given by ffmpeg"


def media_duration(path: Path) -> float | None:
    """Seconds that a file lasts according to its container; None if it does not say so, or cannot be opened."""
    import av

    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            return None if container.duration is None else container.duration / 1_000_000
    except (OSError, ValueError):
        return None
