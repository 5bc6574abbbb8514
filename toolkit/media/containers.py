"""What a media file says about its own end, compared with where it really ends.

Names, titles and comments are never looked at. An estimate (ADTS, MP3 without a Xing header, MPEG's streams) is no
promise. A file's structure is one: a chunk that is longer than what is left of the file has lost its end.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.stream import Disposition

from . import chunks, streams

# Writers count their own headers differently; nothing that anyone hears fits into so few bytes.
_SLACK = 64
# Formats in which FFmpeg's duration is a guess from bit rate or from the stamps that are there, or what some writer
# noted down without being held to it.
_GUESSED = frozenset(
    "aac ac3 eac3 mpeg mpegts mpegvideo h264 hevc dv loas dts truehd amr flv live_flv asf rm m4v obu gif".split()
)
# A cover picture has no duration that anyone could miss.
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Claim:
    """What the structure says.

    Attributes:
        cut_off: what is incomplete at the end of the file, for a message; "" if nothing is.
        seconds: how long the whole file would last, or None.
        stated: whether an MP3 states its length.
    """

    cut_off: str = ""
    seconds: float | None = None
    stated: bool = False


def read_claim(path: Path) -> Claim:
    """The claim of a file; an empty one where its format makes none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 16:
            return Claim()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _reader(data)
            if reader is None:
                return Claim(stated=streams.mp3_states_its_length(data))
            try:
                end, seconds, what = reader(data)
            except (struct.error, IndexError, OverflowError, ZeroDivisionError):
                return Claim()
    return Claim(what if end > size + _SLACK else "", seconds)


def declared_duration(container: Any, claim: Claim) -> float | None:
    """Seconds that the container states, None where it states none or estimates."""
    if claim.seconds is not None:
        return claim.seconds
    return container.duration / 1e6 if container.duration and _states(container.format.name, claim) else None


def is_short(read: float, stated: float) -> bool:
    """Whether so much is missing that it is no rounding: a quarter of a second or 5 %, at most 2 s."""
    return read < stated - max(0.25, min(0.05 * stated, 2.0))


def short_stream(container: Any, claim: Claim, reached: Mapping[int, Fraction]) -> tuple[float, float] | None:
    """(seconds read, seconds stated) of a track that ends before its time, or None.

    Args:
        container: an open container, read to its end.
        claim: from `read_claim`.
        reached: by index of the stream, the end of its last packet in seconds on the container's clock.
    """
    if not _states(container.format.name, claim) or not reached:
        return None
    if container.format.name.startswith("matroska"):
        # One duration for all tracks, subtitles included, on the container's own clock.
        found = [(float(max(reached.values())), (container.duration or 0) / 1e6)]
    else:
        found = []
        for stream in (*container.streams.audio, *container.streams.video):
            if stream.duration is None or stream.time_base is None or stream.disposition & _STILL:
                continue
            start = (stream.start_time or 0) * stream.time_base
            end = reached.get(stream.index, start)
            found.append((float(end - start), float(stream.duration * stream.time_base)))
    return next(((max(read, 0.0), stated) for read, stated in found if is_short(read, stated)), None)


def _states(name: str, claim: Claim) -> bool:
    if name == "mp3":
        return claim.stated
    return name not in _GUESSED


# Each returns (offset at which the file should end, seconds or None, what is incomplete if it ends before).
_Reader = Callable[[mmap.mmap], tuple[int, float | None, str]]


def _reader(data: mmap.mmap) -> _Reader | None:
    head = data[:16]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return chunks.wave
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return chunks.avi
    if head == chunks.W64:
        return chunks.wave64
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return chunks.aiff
    if head[:4] == b".snd":
        return chunks.au
    if head[:4] == b"caff":
        return chunks.caf
    if head == chunks.ASF:
        return chunks.asf
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return chunks.iso_media
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return streams.matroska
    if head[:4] == b"OggS":
        return streams.ogg
    if head[:3] == b"FLV":
        return streams.flv
    if head[:4] == b"\x00\x00\x01\xba":
        return streams.program_stream
    if streams.packet_size(data):
        return streams.transport_stream
    return None
