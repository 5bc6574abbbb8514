"""Formats made of packets: Matroska and WebM, Ogg, FLV, MPEG's program and transport streams, MP3.

Each reader returns (offset at which the file should end, seconds of the whole file or None, what is incomplete if the
file ends before). Source: the formats' specifications.
"""

from __future__ import annotations

import mmap
import struct

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_FAR = 1 << 62
_TAIL = 1 << 18
# What one cut loses of a stream whose last packet is incomplete is little, but it says that the rest is missing too.
_CERTAIN = 1 << 16


def matroska(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Matroska and WebM. A live recording's segment has no size: then its last block must be complete."""
    _, size, place = _element(data, 0)
    name, size, start = _element(data, place + size)
    if name != _SEGMENT:
        return 0, None, ""
    if size < _FAR:
        return start + size, None, "its segment"
    place = start
    while place + 2 < len(data):
        name, size, inside = _element(data, place)
        if name == _CLUSTER and size >= _FAR:
            place = inside  # of unknown size as well: its blocks follow
            continue
        if not name or size >= _FAR:
            break
        place = inside + size
    return (place + _CERTAIN if place > len(data) else place), None, "a block"


def ogg(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Ogg with Opus, Vorbis, FLAC, Theora or Speex."""
    place = 0
    while place + 4 <= len(data) and data[place : place + 4] == b"OggS":
        if place + 27 > len(data) or place + 27 + data[place + 26] > len(data):
            return len(data) + _CERTAIN, None, "a page"
        count = data[place + 26]
        place += 27 + count + sum(data[place + 27 : place + 27 + count])
    return (place + _CERTAIN if place > len(data) else place), None, "a page"


def flv(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Flash video."""
    (place,) = struct.unpack_from(">I", data, 5)
    place += 4
    while place + 11 <= len(data):
        if data[place] & 0x1F not in (8, 9, 18):
            return 0, None, ""  # something that was appended, or damage
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    return (place + _CERTAIN if place > len(data) + 4 else place), None, "a tag"


def transport_stream(data: mmap.mmap) -> tuple[int, float | None, str]:
    """MPEG transport stream, with packets of 188, 192 or 204 bytes."""
    size = packet_size(data)
    rest = len(data) % size
    return (len(data) + _CERTAIN if rest else 0), None, "a packet"


def packet_size(data: mmap.mmap) -> int:
    """The size of a transport stream's packets, 0 for another format."""
    for size, first in ((188, 0), (192, 4), (204, 0)):
        if len(data) >= 4 * size and all(data[first + i * size] == 0x47 for i in range(4)):
            return size
    return 0


def program_stream(data: mmap.mmap) -> tuple[int, float | None, str]:
    """MPEG program stream: .mpg and .vob. Its last packs are followed to the end of the file."""
    place = data.find(b"\x00\x00\x01\xba", max(0, len(data) - _TAIL))
    while 0 <= place < len(data) - 4:
        if data[place : place + 3] != b"\x00\x00\x01":
            if not any(data[place : place + 64]):
                return 0, None, ""  # padding
            place = data.find(b"\x00\x00\x01\xba", place + 1)
            continue
        code = data[place + 3]
        if code == 0xB9:
            place += 4
        elif code == 0xBA:
            mpeg2 = place + 14 <= len(data) and data[place + 4] >> 6 == 1
            place += 14 + (data[place + 13] & 7) if mpeg2 else 12
        elif code >= 0xBB:
            place += 6 + int.from_bytes(data[place + 4 : place + 6], "big")
        else:
            return 0, None, ""  # not a pack, but part of the video
    return (place + _CERTAIN if place > len(data) else max(place, 0)), None, "a packet"


def mp3_states_its_length(data: mmap.mmap) -> bool:
    """Whether the first frame of an MP3 is a Xing, Info or VBRI header."""
    place = 0
    if data[:3] == b"ID3":
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        place = 10 + size
    first = data[place : place + 4096]
    at = first.find(b"\xff")
    frame = first[at : at + 200] if at >= 0 else b""
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _element(data: mmap.mmap, place: int) -> tuple[int, int, int]:
    """(id, size, offset of the content) of an EBML element; id 0 for what is none, an enormous size if unknown."""
    first = data[place]
    length = 9 - first.bit_length()
    if first == 0 or length > 4:
        return 0, 0, place
    name = int.from_bytes(data[place : place + length], "big")
    place += length
    first = data[place]
    if first == 0:
        return 0, 0, place
    length = 9 - first.bit_length()
    size = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    if size == (1 << 7 * length) - 1:
        size = _FAR
    return name, size, place + length
