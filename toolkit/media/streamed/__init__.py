"""Media that arrive as a stream of bytes, read from the beginning on."""

from .container import Image, Piece, StreamedContainer
from .kept import KeptSound
from .media import StreamedMedia
from .wav import StreamedAudio

__all__ = ["Image", "KeptSound", "Piece", "StreamedAudio", "StreamedContainer", "StreamedMedia"]
