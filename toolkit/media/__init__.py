"""Decoding of video and audio by PyAV, FFmpeg's libraries: one pass over a file returns its audio and sampled frames.

The libraries are those that the package `av` ships, never a program that happens to be on this machine.
"""

from .errors import MediaError
from .program import ffmpeg_binary
from .reader import MediaReader, check_media, has_pictures, library_version, media_duration
from .streamed import Image, KeptSound, Piece, StreamedMedia
from .tracks import FULL_SCALE, SAMPLE_RATE, Sound

__all__ = [
    "FULL_SCALE",
    "SAMPLE_RATE",
    "Image",
    "KeptSound",
    "MediaError",
    "MediaReader",
    "Piece",
    "Sound",
    "StreamedMedia",
    "check_media",
    "ffmpeg_binary",
    "has_pictures",
    "library_version",
    "media_duration",
]
