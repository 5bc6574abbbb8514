"""Where the bytes of a stream come from: standard input, or a file that still grows."""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..base.errors import UserError

PART = 4096  # bytes that are read at once: 128 ms of mono audio at 16 kHz
# Parts that are read ahead, then the other end of a pipe waits: 16 MB, seconds of video.
_WAITING = 4096
_POLL_S = 0.1
_UNKNOWN = 0x7FFF_0000  # a size in a WAV header that says nothing, or more


def read_pipe(stream: BinaryIO, stop: threading.Event) -> Iterator[bytes]:
    """The bytes of a pipe as they arrive, until it ends or `stop` is set. A thread reads it, as reading may block.

    Raises:
        UserError: it cannot be read.
    """
    parts: queue.Queue[bytes | OSError] = queue.Queue(_WAITING)
    read = getattr(stream, "read1", stream.read)

    def fill() -> None:
        while True:
            try:
                part: bytes | OSError = read(PART)
            except (OSError, ValueError) as error:  # ValueError: closed at the end of the process
                part = error if isinstance(error, OSError) else b""
            parts.put(part)
            if not isinstance(part, bytes) or not part:
                return

    threading.Thread(target=fill, name="reads the stream", daemon=True).start()
    while not stop.is_set():
        try:
            part = parts.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if not isinstance(part, bytes):
            raise UserError(f"-: standard input cannot be read: {part.strerror or part}") from None
        if not part:
            return
        yield part


def read_growing(
    path: Path,
    stop: threading.Event,
    idle_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None,
) -> Iterator[bytes]:
    """The bytes of a file, also those that are appended meanwhile, until it has not grown for a while.

    What follows the audio of a WAV file is left out, as soon as its header has the final size.

    Args:
        path: the file.
        stop: ends it.
        idle_s: seconds without growth after which the file is complete.
        clock: seconds.
        sleep: waits for some seconds; None to wait for `stop`.

    Raises:
        UserError: the file cannot be read, or was cut while it was read.
    """
    wait = stop.wait if sleep is None else sleep
    try:
        with open(path, "rb", buffering=0) as file:
            at, last = 0, clock()
            while not stop.is_set():
                limit = _audio_end(file)
                file.seek(at)
                part = file.read(PART if limit is None else max(0, min(PART, limit - at)))
                if part:
                    at, last = at + len(part), clock()
                    yield part
                elif clock() - last >= idle_s:
                    return
                else:
                    wait(_POLL_S)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _audio_end(file: BinaryIO) -> int | None:
    """Where the audio of a WAV file ends by its header, if there is as much by now; None otherwise."""
    file.seek(0)
    head = file.read(4096)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    place = 12
    while place + 8 <= len(head):
        name, size = head[place : place + 4], struct.unpack_from("<I", head, place + 4)[0]
        if name == b"data":
            end = place + 8 + size
            return end if 0 < size < _UNKNOWN and end <= file.seek(0, 2) else None
        place += 8 + size + size % 2
    return None
