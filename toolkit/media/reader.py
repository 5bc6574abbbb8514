"""One pass over a media file: its audio and its sampled frames, both on the clock that begins with the file."""

from __future__ import annotations

import time as clocks
from collections.abc import Container, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ..base.reading.file_kinds import file_kind
from . import containers
from .errors import MOST_PIXELS, MediaError
from .tracks import SAMPLE_RATE, PictureTrack, Restarts, Sound, SoundTrack

# Only containers of media: no playlists or scripts that name further files, no images.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,loas,"
    "ac3,eac3,amr,amrnb,amrwb,nistsphere,wv,dv,mxf,nut,rm,h264,hevc"
)
# These do not say by how much an encoder's first sound precedes its first picture. Where it is no more than this, the
# first picture is the beginning, as it was in the recording that was encoded.
_UNDECLARED = frozenset({"mpegts", "mpeg", "flv", "asf", "nut"})
_PRIMING_S = Fraction(1, 10)
# Formats whose stamps may start again in the middle.
_RESTARTING = frozenset({"mpegts", "mpeg"})


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
        self._failures: list[str] = []
        self._reached: dict[int, Fraction] = {}  # by stream: the end of its last packet
        self._decoded: dict[int, float] = {}  # by stream: the end of what was decoded, on our clock
        self._sounds: dict[int | None, SoundTrack] = {}

    def __enter__(self) -> MediaReader:
        self._deadline = clocks.monotonic() + self._time_limit
        self._container, self._claim = _open(self.path)
        try:
            self._images = self._decode(*self._choose())
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
            why = self._failures[0] if self._failures else "the file ends before the first sample or frame"
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
            short = containers.short_stream(self._container, self._claim, self._reached) or self._undecoded()
            if short is None:
                return ""
            read, whole = short
        if self._claim.cut_off and whole < read + 0.05:
            return f"truncated: the file ends in the middle of {self._claim.cut_off}; {read:.2f} s could be decoded"
        return f"truncated: {read:.2f} of {whole:.2f} s could be decoded"

    def _undecoded(self) -> tuple[float, float] | None:
        """(seconds decoded, seconds there are packets for) of a track whose last packets hold nothing, as where a
        download has reserved the space."""
        for stream, decoded in self._decoded.items():
            there = float(self._reached.get(stream, self._origin) - self._origin)
            if containers.is_short(decoded, there):
                return decoded, there
        return None

    def _choose(self) -> tuple[av.AudioStream | None, av.VideoStream | None]:
        """The tracks to decode."""
        streams = self._container.streams
        audio = [stream for stream in streams.audio if stream.codec_context is not None]
        # Cover art is not video.
        video = [
            s for s in streams.video if s.codec_context is not None and Disposition.attached_pic not in s.disposition
        ]
        self.has_audio, self.has_video = bool(audio), bool(video)
        if not (audio or video):
            raise MediaError("unreadable file: neither sound nor moving pictures inside")
        self._declared = containers.declared_duration(self._container, self._claim)
        self._origin = _origin(self._container, video[0] if video else None)
        sound = shown = None
        if self._want_audio and audio:
            sound = self._wanted(audio)
            self._sounds = {channel: SoundTrack(self._want_own, channel) for channel in self._channels}
        if self._fps is not None and video:
            shown = video[0]
            shown.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            shown.codec_context.thread_type, shown.codec_context.thread_count = "AUTO", self._threads
        if sound is not None:
            sound.codec_context.thread_count = 1
        return sound, shown

    def _wanted(self, audio: list[av.AudioStream]) -> av.AudioStream:
        if self._track is None:
            return next((stream for stream in audio if Disposition.default in stream.disposition), audio[0])
        if self._track > len(audio):
            raise MediaError(f"no audio track {self._track}: the file has {len(audio)}")
        return audio[self._track - 1]

    def _decode(
        self, sound: av.AudioStream | None, shown: av.VideoStream | None
    ) -> Generator[tuple[float, np.ndarray]]:
        """Decodes everything; yields the sampled frames with their times."""
        pictures = (
            PictureTrack(shown, self._fps, self._wanted_frames) if shown is not None and self._fps is not None else None
        )
        restarts = Restarts()
        joins = self._container.format.name in _RESTARTING
        for packet in self._packets(sound, shown):
            if joins:
                restarts.see(packet)
            self._note_end(packet, restarts.offset)
            offset = restarts.offset - self._origin
            for frame in self._frames_of(packet) if packet.stream in (sound, shown) else ():
                if packet.stream is not sound:
                    assert pictures is not None
                    yield from self._timed(pictures.add(offset, frame))
                else:
                    time = (
                        None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base + offset
                    )
                    for track in self._sounds.values():
                        track.add(time, frame)
        if pictures is not None and shown is not None:
            yield from self._timed(pictures.rest())
            self._decoded[shown.index] = float(pictures.end)
        for track in self._sounds.values():
            track.end()
            if sound is not None:
                self._decoded[sound.index] = track.seconds

    def _timed(self, images: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
        assert self._fps is not None
        for k, image in images:
            self.frame_count += 1
            self.frame_end = (k + 1) / self._fps
            yield k / self._fps, image

    def _packets(self, *wanted: av.AudioStream | av.VideoStream | None) -> Iterator[av.Packet]:
        """All packets, then empty ones with which the decoders give what they still hold."""
        if not any(wanted):
            return
        packets = self._container.demux()
        while True:
            if clocks.monotonic() > self._deadline:
                raise MediaError(f"decoding took longer than {self._time_limit:g} s")
            try:
                packet = next(packets, None)
            # The end of what can be read of a damaged file. PyAV's IndexError: damage looks like one more track.
            except (FFmpegError, OSError, IndexError) as error:
                self._failures.append(_reason(error))
                for stream in wanted:
                    if stream is not None:
                        flush = av.Packet()
                        flush.stream = stream
                        yield flush
                return
            if packet is None:
                return
            yield packet

    def _frames_of(self, packet: av.Packet) -> list:
        try:
            return packet.decode()
        except (FFmpegError, ValueError) as error:  # a damaged packet; the next may be sound
            self._failures.append(_reason(error))
            return []

    def _note_end(self, packet: av.Packet, offset: Fraction) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        # Discarded packets lie outside of what an edit list shows.
        if stamp is not None and packet.time_base is not None and not packet.is_discard:
            end = (stamp + (packet.duration or 0)) * packet.time_base + offset
            index = packet.stream.index
            self._reached[index] = max(self._reached.get(index, end), end)


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
            container_options={"protocol_whitelist": "file", "format_whitelist": _CONTAINERS},
        )
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing file") from None
    except (FFmpegError, OSError, ValueError) as error:  # also a loop of links, too long a name, no permission
        kind = file_kind(path)
        what = "" if kind.name in ("unknown", "unreadable") else f"{kind.description}; "
        raise MediaError(f"unreadable file: {what}{_reason(error)}") from None
    return container, claim


def _origin(container: InputContainer, picture: av.VideoStream | None) -> Fraction:
    """Where the file begins, in seconds on the container's clock."""
    start = Fraction(container.start_time or 0, 1_000_000)
    if -_PRIMING_S <= start < 0:  # Matroska's codec delay, in some versions of FFmpeg: what comes before 0 is no sound
        start = Fraction(0)
    if picture is not None and picture.start_time is not None and container.format.name in _UNDECLARED:
        first = picture.start_time * (picture.time_base or Fraction(0))
        if start < first <= start + _PRIMING_S:
            return first
    return start


def _reason(error: Exception) -> str:
    """What FFmpeg or the system says, without the path."""
    return getattr(error, "strerror", None) or str(error).strip()[:120] or type(error).__name__
