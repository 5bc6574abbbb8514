"""Formats made of chunks that state their size: WAV, Wave64, AIFF, AU, CAF, AVI, ASF, MP4 and QuickTime.

Each reader returns (offset at which the file should end, seconds of the whole file or None, what is incomplete if the
file ends before). Source: the formats' specifications.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_W64_DATA, _W64_FMT = b"data", b"fmt "
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
# PCM, floats, A-law, µ-law, and the extensible form of these: the others' bytes do not all last equally long.
_UNCOMPRESSED = frozenset({1, 3, 6, 7, 0xFFFE})
# A program that writes into a pipe does not know the size yet, and writes the largest number or one near it.
_UNKNOWN = 0x7FFF_0000
_BOXES = frozenset(b"ftyp moov mdat free skip wide pnot moof mfra sidx styp uuid meta udta emsg prft pdin".split())


def wave(data: mmap.mmap) -> tuple[int, float | None, str]:
    """WAV, also big-endian, RF64 and BW64."""
    order = ">" if data[:4] == b"RIFX" else "<"
    wide, second, large = data[:4] in (b"RF64", b"BW64"), 0, None
    for name, size, start in _riff(data, 12, len(data), order):
        if name == b"ds64" and wide:
            (large,) = struct.unpack_from("<Q", data, start + 8)
        elif name == b"fmt ":
            form, _, rate, _, block = struct.unpack_from(order + "HHIIH", data, start)
            second = rate * block if form in _UNCOMPRESSED else 0  # bytes
        elif name == b"data":
            if wide and size == 0xFFFF_FFFF and large is not None:
                size = large
            elif size == 0 or size >= _UNKNOWN:
                break
            return start + size, size / second if second else None, "its sound"
    return 0, None, ""


def wave64(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Sony Wave64."""
    place, second = 40, 0
    while place + 24 <= len(data):
        (size,) = struct.unpack_from("<Q", data, place + 16)
        if data[place : place + 4] == _W64_FMT:
            form, _, rate, _, block = struct.unpack_from("<HHIIH", data, place + 24)
            second = rate * block if form in _UNCOMPRESSED else 0
        if data[place : place + 4] == _W64_DATA:
            if size < 24 or size >> 62:
                break
            return place + size, (size - 24) / second if second else None, "its sound"
        if size < 24:
            break
        place += (size + 7) // 8 * 8
    return 0, None, ""


def aiff(data: mmap.mmap) -> tuple[int, float | None, str]:
    """AIFF and AIFF-C."""
    end, seconds = 0, None
    for name, size, start in _riff(data, 12, len(data), ">"):
        if name == b"COMM":
            (frames,) = struct.unpack_from(">I", data, start + 2)
            rate = _extended(data[start + 8 : start + 18])
            seconds = frames / rate if rate else None
        elif name == b"SSND" and 0 < size < _UNKNOWN:
            end = start + size
    return end, seconds, "its sound"


def au(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Sun's and NeXT's audio."""
    start, size = struct.unpack_from(">II", data, 4)
    return (0, None, "") if size >= _UNKNOWN else (start + size, None, "its sound")


def caf(data: mmap.mmap) -> tuple[int, float | None, str]:
    """Apple's Core Audio Format."""
    place, second = 8, 0.0
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">q", data, place + 4)
        if data[place : place + 4] == b"desc":
            rate, _, _, packet, frames = struct.unpack_from(">dIIII", data, place + 12)
            second = rate * packet / frames if frames else 0.0  # bytes
        if data[place : place + 4] == b"data" and size >= 0:
            return place + 12 + size, (size - 4) / second if second else None, "its sound"
        if size < 0:
            break
        place += 12 + size
    return 0, None, ""


def avi(data: mmap.mmap) -> tuple[int, float | None, str]:
    """AVI, with OpenDML's further chunks; the header counts the frames of the first one only, so that how long a whole
    file lasts is left to FFmpeg's libraries."""
    end, place = 0, 0
    while place + 12 <= len(data) and data[place : place + 4] == b"RIFF":
        (size,) = struct.unpack_from("<I", data, place + 4)
        if not 4 < size < 0xFFFF_0000:
            break
        end = place = place + 8 + size + size % 2
    seconds, header = None, data.find(b"avih", 0, 4096)
    if end > len(data) and header >= 0:
        interval, frames = struct.unpack_from("<I12xI", data, header + 8)
        seconds = interval * frames / 1e6 or None
    return end, seconds, "its frames"


def asf(data: mmap.mmap) -> tuple[int, float | None, str]:
    """WMV and WMA."""
    place, properties = 30, None
    (header,) = struct.unpack_from("<Q", data, 16)
    while place + 24 <= min(header, len(data)):
        (size,) = struct.unpack_from("<Q", data, place + 16)
        if data[place : place + 16] == _ASF_FILE:
            # packets, duration (100 ns), preroll (ms), flags, size of a packet
            packets, duration, _, preroll, flags, packet = struct.unpack_from("<QQQQII", data, place + 56)
            properties = None if flags & 1 else (packets, duration / 1e7 - preroll / 1e3, packet)
        if size < 24:
            break
        place += size
    if properties is None or data[header : header + 16] != _ASF_DATA:
        return 0, None, ""
    packets, seconds, packet = properties
    return header + 50 + packets * packet, seconds if seconds > 0 else None, "its packets"


def iso_media(data: mmap.mmap) -> tuple[int, float | None, str]:
    """MP4, QuickTime and their kin. How long a track lasts, FFmpeg's libraries read as well."""
    place, end = 0, 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        if name not in _BOXES:
            break  # something that was appended
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, place + 8)
        if size < 8:  # 0: up to the end of the file
            break
        end = place = place + size
    return end, None, "its data"


def _riff(data: mmap.mmap, place: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, size, offset of the content) of each chunk, also of one that the file is too short for."""
    while place + 8 <= end:
        name = data[place : place + 4]
        (size,) = struct.unpack_from(order + "I", data, place + 4)
        yield name, size, place + 8
        place += 8 + size + size % 2


def _extended(number: bytes) -> float:
    """A float of 80 bits."""
    exponent, mantissa = struct.unpack(">HQ", number)
    return mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
