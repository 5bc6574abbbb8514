"""From an open container to samples and images on the clock that begins with it: the way of files and of streams."""

from __future__ import annotations

import math
import time as clocks
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from .errors import MOST_PIXELS, MediaError
from .tracks import PictureTrack, Restarts, SoundTrack

# Only containers of media: no playlists or scripts that name further files, no images.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,loas,"
    "ac3,eac3,amr,amrnb,amrwb,nistsphere,wv,dv,mxf,nut,rm,h264,hevc"
)
# These do not say by how much an encoder's first sound precedes its first picture. Where it is no more than this, the
# first picture is the beginning, as it was in the recording that was encoded.
_UNDECLARED = frozenset({"mpegts", "mpeg", "flv", "asf", "nut"})
_PRIMING_S = Fraction(1, 10)
# Formats whose stamps may start again in the middle.
_RESTARTING = frozenset({"mpegts", "mpeg"})


@dataclass(frozen=True)
class Streams:
    """The tracks of a container that can be decoded.

    Attributes:
        sound: the audio track that is wanted, or None.
        video: the first video track, or None.
    """

    sound: av.AudioStream | None
    video: av.VideoStream | None


def chosen_streams(container: InputContainer, track: int | None = None) -> Streams:
    """The tracks of a container.

    Args:
        container: an open one.
        track: number of the audio track, from 1; None for the one that is marked as the default, else the first.

    Raises:
        MediaError: there is no track of either kind, or not so many of audio.
    """
    audio = [stream for stream in container.streams.audio if stream.codec_context is not None]
    # Cover art is not video.
    video = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and Disposition.attached_pic not in stream.disposition
    ]
    if not (audio or video):
        raise MediaError("unreadable file: neither sound nor moving pictures inside")
    if track is not None and audio and track > len(audio):
        raise MediaError(f"no audio track {track}: the file has {len(audio)}")
    sound = None
    if audio:
        default = (stream for stream in audio if Disposition.default in stream.disposition)
        sound = next(default, audio[0]) if track is None else audio[track - 1]
    return Streams(sound, video[0] if video else None)


class Decoding:
    """One pass over an open container.

    Args:
        container: the container.
        streams: its tracks.
        time_limit: seconds after which decoding is aborted.

    Attributes:
        origin: where it begins, in seconds on its own clock.
        failures: why parts of it could not be decoded.
        broken: why nothing after some place could be read, or "".
        decoded: by index of the track, the end of what was decoded, in seconds from the beginning.
    """

    def __init__(self, container: InputContainer, streams: Streams, time_limit: float = math.inf) -> None:
        self._container, self._streams, self._time_limit = container, streams, time_limit
        self._deadline = clocks.monotonic() + time_limit
        self.origin = _origin(container, streams.video)
        self.failures: list[str] = []
        self.broken = ""
        self._ends: dict[tuple[int, Fraction, Fraction], int] = {}
        self.decoded: dict[int, float] = {}

    @property
    def reached(self) -> dict[int, Fraction]:
        """By index of the track, the end of its last packet in seconds on the container's clock."""
        found: dict[int, Fraction] = {}
        for (index, base, offset), stamp in self._ends.items():
            end = stamp * base + offset
            found[index] = max(found.get(index, end), end)
        return found

    def run(
        self, sounds: Collection[SoundTrack], pictures: Sequence[PictureTrack] = (), threads: int = 1
    ) -> Generator[tuple[int, int, np.ndarray]]:
        """Decodes everything.

        Args:
            sounds: take the audio track.
            pictures: take the video track.
            threads: threads that decode the video; the images are the same with any number.

        Yields:
            The index in `pictures`, and what that one yields: the number of an image, and the image.

        Raises:
            MediaError: decoding took longer than the limit, or what is there would not fit the memory.
        """
        sound = self._streams.sound if sounds else None
        shown = self._streams.video if pictures else None
        if shown is not None:
            shown.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            shown.codec_context.thread_type, shown.codec_context.thread_count = "AUTO", threads
        if sound is not None:
            sound.codec_context.thread_count = 1
        restarts = Restarts()
        joins = self._container.format.name in _RESTARTING
        for packet in self._packets(sound, shown):
            if joins:
                restarts.see(packet)
            self._note_end(packet, restarts.offset)
            offset = restarts.offset - self.origin
            for frame in self._frames_of(packet) if packet.stream in (sound, shown) else ():
                if packet.stream is not sound:
                    for i, one in enumerate(pictures):
                        yield from ((i, k, image) for k, image in one.add(offset, frame))
                else:
                    base = frame.time_base
                    time = None if frame.pts is None or base is None else frame.pts * base + offset
                    for track in sounds:
                        track.add(time, frame)
        for i, one in enumerate(pictures):
            yield from ((i, k, image) for k, image in one.rest())
        if pictures and shown is not None:
            self.decoded[shown.index] = float(pictures[0].end)
        for track in sounds:
            track.end()
            if sound is not None:
                self.decoded[sound.index] = track.seconds

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
                self.broken = reason_of(error)
                self.failures.append(self.broken)
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
            self.failures.append(reason_of(error))
            return []

    def _note_end(self, packet: av.Packet, offset: Fraction) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        # Discarded packets lie outside of what an edit list shows.
        if stamp is not None and packet.time_base is not None and not packet.is_discard:
            # In the units of the stamps: there are many packets, and fractions are slow.
            end, unit = stamp + (packet.duration or 0), (packet.stream.index, packet.time_base, offset)
            self._ends[unit] = max(self._ends.get(unit, end), end)


def reason_of(error: Exception) -> str:
    """What FFmpeg or the system says, without the path."""
    return getattr(error, "strerror", None) or str(error).strip()[:120] or type(error).__name__


def _origin(container: InputContainer, picture: av.VideoStream | None) -> Fraction:
    start = Fraction(container.start_time or 0, 1_000_000)
    if -_PRIMING_S <= start < 0:  # Matroska's codec delay, in some versions of FFmpeg: what comes before 0 is no sound
        start = Fraction(0)
    if picture is not None and picture.start_time is not None and container.format.name in _UNDECLARED:
        first = picture.start_time * (picture.time_base or Fraction(0))
        if start < first <= start + _PRIMING_S:
            return first
    return start
