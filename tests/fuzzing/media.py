"""Damaged media files: what their structure claims, and their decoding."""

from __future__ import annotations

import functools
import random
import struct
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from erc_toolkit.toolkit.media import MediaError, MediaReader, clock, ffmpeg_binary, media_duration, pictures
from erc_toolkit.toolkit.media.containers import read_claim
from erc_toolkit.toolkit.media.streamed import StreamedAudio, StreamedMedia

_BOTH = ["-f", "lavfi", "-i", "testsrc2=s=48x32:r=10:d=0.5", "-f", "lavfi", "-i", "sine=d=0.5:r=8000"]
_FORMS = {
    "mp4": ["-c:v", "mpeg4", "-c:a", "aac", "-movflags", "+faststart"],
    "mkv": ["-c:v", "mjpeg", "-c:a", "pcm_s16le"],
    "webm": ["-c:v", "libvpx", "-c:a", "libvorbis"],
    "avi": ["-c:v", "mpeg4", "-c:a", "mp2", "-ar", "16000"],
    "ts": ["-c:v", "mpeg2video", "-r", "25", "-c:a", "mp2", "-ar", "16000"],
    "mpg": ["-c:v", "mpeg1video", "-r", "25", "-c:a", "mp2", "-ar", "16000"],
    "flv": ["-c:v", "flv1", "-c:a", "pcm_s16le", "-ar", "11025"],
    "wmv": ["-c:v", "wmv2", "-c:a", "wmav2", "-ar", "16000"],
    "ogg": ["-vn", "-c:a", "libvorbis"],
    "wav": ["-vn"],
    "w64": ["-vn"],
    "aiff": ["-vn"],
    "au": ["-vn"],
    "caf": ["-vn", "-c:a", "pcm_s16le"],
    "flac": ["-vn"],
    "mp3": ["-vn", "-c:a", "libmp3lame", "-ar", "16000"],
    "aac": ["-vn", "-c:a", "aac"],
}


@functools.cache
def _whole() -> list[bytes]:
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, options in _FORMS.items():
            path = Path(folder, f"a.{ending}")
            subprocess.run([ffmpeg_binary(), "-v", "error", "-nostdin", *_BOTH, *options, path], check=True)
            files.append(path.read_bytes())
    return files


@functools.cache
def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzzed-media-"), "file")


def _damaged(rng: random.Random) -> Path:
    data = bytearray(rng.choice(_whole()))
    for _ in range(rng.choice((0, 1, 2, 8, 40))):
        # Most often at the beginning, where the claims are.
        at = rng.randrange(min(len(data), rng.choice((64, 400, len(data)))))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)))
        elif kind == 2:
            del data[at : at + rng.randrange(200)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(20))
        if not data:
            data = bytearray(b"\0")
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) + 1 :]
    _place().write_bytes(data)
    return _place()


def claims(rng: random.Random) -> None:
    read_claim(_damaged(rng))


def decoding(rng: random.Random) -> None:
    path = _damaged(rng)
    media_duration(path)
    # An hour of silence may be inserted, which takes seconds; here a minute.
    try:
        with (
            mock.patch.object(clock, "MOST_GAP_S", 60),
            MediaReader(path, fps=rng.choice((None, 5)), channels=(None, 2), time_limit=20) as media,
        ):
            for _ in media.frames():
                pass
            media.finish()
    except MediaError:
        pass


def streaming(rng: random.Random) -> None:
    """A damaged WAV header or samples, as a stream in parts."""
    form = rng.choice(((1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64), (0xFFFE, 16), (6, 8)))
    head = struct.pack("<HHIIHH", form[0], rng.choice((1, 2, 3)), rng.choice((8000, 16000, 44100)), 0, 0, form[1])
    data = bytearray(b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + head + b"data\xff\xff\xff\xff")
    data += rng.randbytes(rng.randrange(4000))
    for _ in range(rng.choice((0, 1, 3))):
        data[rng.randrange(48)] = rng.randrange(256)
    audio = StreamedAudio(rng.choice((None, None, 8000)))
    try:
        while data:
            size = rng.randrange(2000)
            audio.add(bytes(data[:size]))
            del data[:size]
        own, sound = audio.end()
        assert not np.isnan(own).any() and not np.isnan(sound).any()
    except MediaError:
        pass


def streamed_file(rng: random.Random) -> None:
    """A damaged file as a stream in parts, sometimes left before its end."""
    data = _damaged(rng).read_bytes()
    media = StreamedMedia(rates=rng.choice(((), (5.0,), (5.0, 25.0))))
    try:
        with mock.patch.object(clock, "MOST_GAP_S", 60), mock.patch.object(pictures, "MOST_GAP_S", 60):
            while data and rng.random() < 0.99:
                size = rng.randrange(9000)
                for piece in media.add(data[:size]):
                    assert not np.isnan(piece.sound).any()
                data = data[size:]
            if not data:
                for _ in media.end():
                    pass
    except MediaError:
        pass
    finally:
        media.close()


PARSERS = {"media_claims": claims, "media": decoding, "media_stream": streaming, "media_streamed": streamed_file}
