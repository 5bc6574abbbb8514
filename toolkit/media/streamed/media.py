"""The bytes of a stream of any kind: WAV, bare samples, or a media file that can be read from its beginning on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..tracks import SAMPLE_RATE
from .container import HEAD_BYTES, Piece, StreamedContainer, is_container
from .wav import StreamedAudio


class StreamedMedia:
    """Takes the bytes of a stream in parts of any size; what comes out does not depend on how it is divided.

    Args:
        pcm_rate: as for `StreamedAudio`; a stream for which it is given is no media file.
        to_end: as for `StreamedAudio`.
        rates: as for `StreamedContainer`.
    """

    def __init__(self, pcm_rate: int | None = None, to_end: bool = True, rates: Sequence[float] = ()) -> None:
        self._plain, self._rates = StreamedAudio(pcm_rate, to_end), rates
        self._file: StreamedContainer | None = None
        self._head: bytes | None = b"" if pcm_rate is None else None  # what has come of the beginning

    @property
    def rate(self) -> int:
        """The sampling rate of the sound in Hz."""
        if self._file is not None:
            return self._file.rate
        return SAMPLE_RATE if self._plain.form is None else self._plain.form.rate

    @property
    def has_audio(self) -> bool | None:
        """Whether there is sound; None until that is known."""
        return self._file.has_audio if self._file is not None else None if self._head is not None else True

    @property
    def has_video(self) -> bool | None:
        """Whether there is video; None until that is known."""
        return self._file.has_video if self._file is not None else None if self._head is not None else False

    @property
    def decided(self) -> float:
        """Seconds before which every frame has been given."""
        return 0.0 if self._file is None else self._file.decided

    @property
    def shown_until(self) -> float:
        """The end of the last frame so far, in seconds."""
        return 0.0 if self._file is None else self._file.shown_until

    def add(self, data: bytes) -> Iterator[Piece]:
        """Takes the next bytes; yields what they complete. The iterator has to be used up.

        Raises:
            MediaError: the stream cannot be read.
        """
        if self._head is not None:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return
            data = self._begin()
        yield from self._taken(data)

    def end(self) -> Iterator[Piece]:
        """Yields what is left at the end.

        Raises:
            MediaError: the stream cannot be read, or ended before its sound began.
        """
        if self._head is not None:
            yield from self._taken(self._begin())
        if self._file is not None:
            yield from self._file.end()
        else:
            yield Piece(*self._plain.end())

    def close(self) -> None:
        """Ends the decoding before the stream has ended."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> bytes:
        data, self._head = self._head or b"", None
        if is_container(data):
            self._file = StreamedContainer(self._rates)
        return data

    def _taken(self, data: bytes) -> Iterator[Piece]:
        if self._file is not None:
            yield from self._file.add(data)
        else:
            yield Piece(*self._plain.add(data))
