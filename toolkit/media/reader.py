"""One pass over a media file: its audio and its sampled frames, both on the clock that begins with the file."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ..base.reading.file_kinds import file_kind
from . import containers
from .decoding import CONTAINERS, Decoding, chosen_streams, reason_of
from .errors import MediaError
from .tracks import SAMPLE_RATE, PictureTrack, Sound, SoundTrack


def library_version() -> str:
    """The version of FFmpeg's libraries, and that of PyAV, which ships them."""
    return f"{av.ffmpeg_version_info} of PyAV {av.__version__}"


class MediaReader:
    """One pass over one media file.

    Time 0 is where the file begins: the first stamp of sound or picture. A track that begins later begins later here as
    well: its sound is preceded by silence, and there is no frame before its first picture.

    Args:
        path: the file.
        audio: decode an audio track to mono at 16 kHz.
        own_rate: also decode the track at its original rate, for callers that resample by other means.
        fps: sample the video at this rate (frames per second of playing time); None for no frames.
        wanted: numbers k of the frames at k / fps seconds that are wanted; the others are not converted to images. None
            for all.
        time_limit: seconds after which decoding is aborted.
        track: number of the audio track, from 1; None for the one that the file marks as the default, else the first.
        channels: the signals wanted of that track: the number of a channel, from 1, or None for the mix of all.
        threads: threads that decode the video; the frames are the same with any number.

    Use it in a `with` statement: iterate `frames()`, call `finish()`, then read `sound`, `duration`, and, for the first
    of `channels`, `samples`, `own_samples` and `rate`. `has_audio` and `has_video` say which tracks the file has,
    `truncated` why the whole file must be rejected since its end is missing, or "".

    Raises:
        MediaError: the file is missing, empty or unreadable, lacks the track, would not fit the memory, or
            decoding exceeded the time limit; from `__enter__`, `frames` or `finish`.
    """

    def __init__(
        self,
        path: Path,
        *,
        audio: bool = True,
        fps: float | None = None,
        wanted: Container[int] | None = None,
        own_rate: bool = False,
        time_limit: float = 1800,
        track: int | None = None,
        channels: Sequence[int | None] = (None,),
        threads: int = 1,
    ):
        self.path = Path(path)
        self._want_audio, self._fps, self._wanted_frames, self._time_limit = audio, fps, wanted, time_limit
        self._want_own, self._track, self._channels, self._threads = own_rate, track, channels, threads
        self.has_audio = self.has_video = False
        self.sound: dict[int | None, Sound] = {}
        self.truncated = ""
        self.frame_count = 0
        self.frame_end = 0.0  # when the frame after the last one would come, in seconds
        self._sounds: dict[int | None, SoundTrack] = {}

    def __enter__(self) -> MediaReader:
        self._container, self._claim = _open(self.path)
        try:
            self._images = self._start()
        except BaseException:
            self._container.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._images.close()
        self._container.close()

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (time in seconds, image uint8 (height, width, 3) in RGB) at the sampling rate.

        Each image has the size that the file gives it at that time. An image that stays on screen is yielded again as
        the same array."""
        # A caller who stops early must not end the decoding, as he would if this were `yield from`.
        while (one := next(self._images, None)) is not None:
            yield one

    def finish(self) -> None:
        """Decodes the rest and sets `sound`, by channel; it is empty without a track.

        Raises:
            MediaError: nothing could be decoded, or decoding exceeded the time limit.
        """
        for _ in self._images:
            pass
        self.sound = {channel: track.result() for channel, track in self._sounds.items()}
        decodes = bool(self._sounds) or (self._fps is not None and self.has_video)
        if decodes and self.duration == 0:
            failures = self._decoding.failures
            why = failures[0] if failures else "the file ends before the first sample or frame"
            raise MediaError(f"nothing could be decoded: {why}")
        self.truncated = self._missing_end()

    @property
    def samples(self) -> np.ndarray | None:
        """The sound of the first of `channels`: float32 (n,), 16 kHz, clipped; None without a track."""
        return self.sound[self._channels[0]].samples if self.sound else None

    @property
    def own_samples(self) -> np.ndarray | None:
        """The same at its original rate, `rate`; None if that is not wanted."""
        return self.sound[self._channels[0]].own_samples if self.sound else None

    @property
    def rate(self) -> int:
        """The sampling rate of `own_samples` in Hz."""
        return self.sound[self._channels[0]].rate if self.sound else SAMPLE_RATE

    @property
    def duration(self) -> float:
        """Decoded duration in seconds: the longer of audio and video."""
        return max([self.frame_end, *(len(one.samples) / SAMPLE_RATE for one in self.sound.values())])

    @property
    def declared_duration(self) -> float | None:
        """Duration in seconds according to the container, or None where it says none or estimates it."""
        return self._declared

    def _missing_end(self) -> str:
        if self._claim.cut_off:
            read, whole = self.duration, self.declared_duration or 0.0
        else:
            short = containers.short_stream(self._container, self._claim, self._decoding.reached) or self._undecoded()
            if short is None:
                return ""
            read, whole = short
        if self._claim.cut_off and whole < read + 0.05:
            return f"truncated: the file ends in the middle of {self._claim.cut_off}; {read:.2f} s could be decoded"
        return f"truncated: {read:.2f} of {whole:.2f} s could be decoded"

    def _undecoded(self) -> tuple[float, float] | None:
        """(seconds decoded, seconds there are packets for) of a track whose last packets hold nothing, as where a
        download has reserved the space."""
        origin = self._decoding.origin
        for stream, decoded in self._decoding.decoded.items():
            there = float(self._decoding.reached.get(stream, origin) - origin)
            if containers.is_short(decoded, there):
                return decoded, there
        return None

    def _start(self) -> Generator[tuple[float, np.ndarray]]:
        """The images of the chosen tracks, which decode the sound as well."""
        streams = chosen_streams(self._container, self._track if self._want_audio else None)
        self.has_audio, self.has_video = streams.sound is not None, streams.video is not None
        self._declared = containers.declared_duration(self._container, self._claim)
        self._decoding = Decoding(self._container, streams, self._time_limit)
        if self._want_audio and streams.sound is not None:
            self._sounds = {channel: SoundTrack(self._want_own, channel) for channel in self._channels}
        pictures = []
        if self._fps is not None and streams.video is not None:
            pictures = [PictureTrack(streams.video, self._fps, self._wanted_frames)]
        return self._timed(self._decoding.run(self._sounds.values(), pictures, self._threads))

    def _timed(self, images: Iterator[tuple[int, int, np.ndarray]]) -> Generator[tuple[float, np.ndarray]]:
        for _, k, image in images:
            assert self._fps is not None
            self.frame_count += 1
            self.frame_end = (k + 1) / self._fps
            yield k / self._fps, image


def media_duration(path: Path) -> float | None:
    """Seconds that a file states it lasts, without decoding it; None where it states none or cannot be read."""
    try:
        container, claim = _open(path)
    except MediaError:
        return None
    with container:
        return containers.declared_duration(container, claim)


def check_media(path: Path) -> None:
    """Checks that a file can be opened and has sound or pictures, without decoding it.

    Raises:
        MediaError: it cannot, or has none.
    """
    container, _ = _open(path)
    with container:
        if not (container.streams.audio or container.streams.video):
            raise MediaError("has neither sound nor pictures")


def has_pictures(path: Path) -> bool:
    """Whether a file can be opened and has a video track that is not a picture of its cover."""
    try:
        container, _ = _open(path)
    except MediaError:
        return False
    with container:
        return any(Disposition.attached_pic not in stream.disposition for stream in container.streams.video)


def _open(path: Path) -> tuple[InputContainer, containers.Claim]:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MediaError("not a regular file")
        if size == 0:
            raise MediaError("empty file")
        claim = containers.read_claim(path)
        container = av.open(
            f"file:{path}",
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
        )
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing file") from None
    except (FFmpegError, OSError, ValueError) as error:  # also a loop of links, too long a name, no permission
        kind = file_kind(path)
        what = "" if kind.name in ("unknown", "unreadable") else f"{kind.description}; "
        raise MediaError(f"unreadable file: {what}{reason_of(error)}") from None
    return container, claim
