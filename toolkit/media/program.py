"""The ffmpeg program. It writes the demo corpus and the benchmarks' recordings; nothing is read with it."""

from __future__ import annotations

import functools


@functools.cache
def ffmpeg_binary() -> str:
    """Path of the program that the package imageio-ffmpeg brings; another one on PATH is not looked at."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
