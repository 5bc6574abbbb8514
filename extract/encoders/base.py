"""The contract of extractors: what one wants of an utterance, and what it gives for the store.

An extractor is a subclass of `Extractor`. It is registered by a line in `registry.EXTRACTORS`, or by another package
through the entry-point group `erc_toolkit.extractors`. docs/how-to/extractors.md shows a whole one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, TypedDict

import numpy as np

from .option import CheckedOptions, option

if TYPE_CHECKING:  # the processes that decode import this file, and need no torch
    import torch

__all__ = [
    "AudioSpan",
    "CheckedOptions",
    "Crops",
    "Extracted",
    "Extractor",
    "FrameSeries",
    "Frames",
    "MediaRequest",
    "Provenance",
    "Samples",
    "Setup",
    "Texts",
    "Turn",
    "Wants",
    "option",
]

# -- what an utterance gives to an extractor


@dataclass(frozen=True)
class Turn:
    """What a text extractor is to read for one utterance: its transcript, who speaks, and the turns before, oldest
    first.
    """

    text: str
    speaker: str = ""
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class AudioSpan:
    """An utterance's samples, float32 (n,), mono, within [-1, 1 - 2**-15], and their rate in Hz."""

    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class FrameSeries:
    """An utterance's images, uint8 (n, height, width, 3) RGB or (n, height, width) grey, and their times in seconds
    (n,).
    """

    images: np.ndarray
    times: np.ndarray


# -- what an extractor may want


@dataclass(frozen=True)
class Texts:
    """Transcripts: a `Turn` for each utterance, with up to `context` turns of its dialogue before it."""

    modality: ClassVar[str] = "text"
    details: ClassVar[dict[str, type]] = {}
    context: int = 0


@dataclass(frozen=True)
class Samples:
    """Audio: an `AudioSpan` for each utterance that is not silent.

    Args:
        rate: in Hz. 16000 is the decoder's own conversion, any other rate is resampled from the track's own by
            `torchaudio.functional.resample`; None gives the track's own rate.
        in_workers: a function (of a module, or a `functools.partial` of one) from an `AudioSpan` to `Extracted` that
            is run in the processes that decode, in place of `Extractor.extract`, so that the cores share the work. It needs a
            rate of 16000 or None.
    """

    modality: ClassVar[str] = "audio"
    details: ClassVar[dict[str, type]] = {"seconds": np.float64}
    rate: int | None = None
    in_workers: Callable[[AudioSpan], Extracted] | None = None


@dataclass(frozen=True)
class Crops:
    """Video: a `FrameSeries` of the speaker's face, crops of `side` pixels, RGB or grey; at least one."""

    modality: ClassVar[str] = "visual"
    details: ClassVar[dict[str, type]] = {
        "frames": np.int32,
        "faces": np.int32,
        "tracks": np.int32,
        "speaker_confidence": np.float32,
    }
    side: int
    grey: bool = False


@dataclass(frozen=True)
class Frames:
    """Video: a `FrameSeries` of whole frames (of the speaker's region where the manifest gives one), resized, RGB."""

    modality: ClassVar[str] = "visual"
    details: ClassVar[dict[str, type]] = {"frames": np.int32}
    width: int
    height: int


Wants = Texts | Samples | Crops | Frames

# -- what it gives


@dataclass(frozen=True)
class Extracted:
    """What an extractor gives for one utterance: values, or the reason why there are none.

    Attributes:
        values: float32 (matrices * dim,), or None.
        reason: empty where there are values; else a few words, which the store keeps. What stands before a colon is
            counted as one kind of reason.
        frames: float32 (T, frame_width), the sequence behind the values; kept where sequences are asked for.
        times: float64 (T,), of the frames, in seconds from the utterance's start.
        details: a number for each of the extractor's own `details`.
    """

    values: np.ndarray | None
    reason: str = ""
    frames: np.ndarray | None = None
    times: np.ndarray | None = None
    details: Mapping[str, float] = field(default_factory=dict)


class Provenance(TypedDict):
    """What made the features, as the store records it. Whatever changes the numbers must be in it: features with
    another provenance are not taken for the same.
    """

    model: str
    extractor: NotRequired[str]
    weights: NotRequired[str]
    weights_sha256: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    parameters: NotRequired[dict[str, Any]]
    device: NotRequired[str]
    licence: NotRequired[str]
    fine_tuning: NotRequired[Any]


@dataclass(frozen=True)
class Setup:
    """What a run tells every extractor: where to compute, in what precision, and whether to keep sequences."""

    device: torch.device
    precision: str = "float32"
    sequences: bool = False


class Extractor(ABC):
    """An extractor of one modality. A subclass sets the attributes below and defines `extract` and `provenance`.

    Attributes:
        modality: "text", "audio" or "visual"; of the class.
        Options: a dataclass made of `option` fields, the extractor's own; of the class.
        gives_sequences: whether it can give the frames behind a vector; of the class. Asking another for them is an
            error.
        name: what the store calls the matrix.
        wants: `Texts`, `Samples`, `Crops` or `Frames`.
        dim: columns of a matrix.
        details: its own columns of numbers beside the matrix, name to numpy type.
        frame_width: columns of a frame where sequences are asked for; else 0.
        dimension_names, frame_names: of the columns, where they have names.
    """

    modality: ClassVar[str]
    Options: ClassVar[type] = CheckedOptions
    gives_sequences: ClassVar[bool] = False
    name: str
    wants: Wants
    dim: int
    details: Mapping[str, Any] = {}
    frame_width: int = 0
    dimension_names: Sequence[str] = ()
    frame_names: Sequence[str] = ()

    @classmethod
    def build(cls, options: Any, setup: Setup) -> Extractor:
        """The extractor as a run needs it.

        Args:
            options: an instance of `cls.Options`.

        Raises:
            UserError: a model that cannot be had, or options that do not go together.
        """
        return cls(options, setup)  # pyright: ignore[reportCallIssue]

    @property
    def matrices(self) -> Mapping[str, Mapping[str, Any]]:
        """Names of the matrices that it gives side by side, each with what sets it apart; by default one, of its own
        name.
        """
        return {self.name: {}}

    @abstractmethod
    def extract(self, utterances: Sequence[Any], done: Callable[[int], None]) -> Iterable[Extracted]:
        """The features of some utterances.

        Args:
            utterances: `Turn`s, `AudioSpan`s or `FrameSeries`, by what it wants.
            done: may be called with how many more utterances are finished, for the progress bar of texts.

        Returns:
            One result for each, in order.
        """

    @abstractmethod
    def provenance(self) -> Provenance:
        """What made the features."""


# -- what a run asks of the processes that decode


@dataclass(frozen=True)
class MediaRequest:
    """What to make of each media file, the same for every file. None leaves a modality out.

    Attributes:
        audio, visual: what the extractors want.
        detector, detector_model: kind and file of the face detector, for `Crops`.
        fps: frames a second of video.
        margin: around a face, as a fraction of its side.
        most_frames: kept of an utterance, up to twice as many.
        time_limit: seconds for decoding one file.
    """

    audio: Samples | None
    visual: Crops | Frames | None
    detector: str
    detector_model: Path | None
    fps: float
    margin: float
    most_frames: int
    time_limit: float
