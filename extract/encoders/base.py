"""The contract of extractors: the input they declare for an utterance, and the result they return for the store.

An extractor is a subclass of `Extractor`. It is registered by a line in `registry.EXTRACTORS`, or by another package
through the entry-point group `erc_toolkit.extractors`. docs/how-to/extractors.md has a complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, TypedDict

import numpy as np

from .option import CheckedOptions, option

if TYPE_CHECKING:  # worker processes import this file and do not need torch
    import torch

__all__ = [
    "AudioSpan",
    "CheckedOptions",
    "Crops",
    "Extracted",
    "Extractor",
    "FrameSeries",
    "Frames",
    "Provenance",
    "Samples",
    "Setup",
    "Texts",
    "Turn",
    "Wants",
    "option",
]

# -- an extractor's input for one utterance


@dataclass(frozen=True)
class Turn:
    """The input of a text extractor for one utterance: transcript, speaker, and the preceding turns, oldest first;
    `described` is a sentence about how it is said, if one is asked for.
    """

    text: str
    speaker: str = ""
    before: tuple[str, ...] = ()
    described: str = ""


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


# -- the kinds of input that an extractor can declare


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
        rate: sampling rate in Hz. 16000 is converted by the decoder; any other rate is resampled from the track's own
            rate by `torchaudio.functional.resample`; None keeps the track's own rate.
        in_workers: a module-level function (or a `functools.partial` of one) from an `AudioSpan` to `Extracted`, which
            runs in the worker processes instead of `Extractor.extract`, so that the work is spread over the cores. It
            needs a rate of 16000 or None.
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
        "speaker_score": np.float32,
        "second_score": np.float32,
        "scored_frames": np.int32,
    }
    side: int
    grey: bool = False


@dataclass(frozen=True)
class Frames:
    """Video: a `FrameSeries` of whole frames (or of the speaker's region, if the manifest gives one), resized, RGB.

    Args:
        width, height: of the images, in pixels.
        fit: "stretch" resizes a frame to the size, whatever its own proportions; "crop" keeps them: the frame is
            resized so that it just covers the size, and its centre is taken.
        border: pixels by which a frame is resized larger than `width` and `height`, of which the centre is then taken.

    Raises:
        ValueError: another `fit`, or a size or border that is not possible.
    """

    modality: ClassVar[str] = "visual"
    details: ClassVar[dict[str, type]] = {"frames": np.int32}
    width: int
    height: int
    fit: str = "stretch"
    border: int = 0

    def __post_init__(self) -> None:
        if self.fit not in ("stretch", "crop"):
            raise ValueError(f"Frames: fit must be stretch or crop, not {self.fit!r}")
        if min(self.width, self.height) < 1 or self.border < 0:
            raise ValueError("Frames: width and height must be positive, and border not negative")


Wants = Texts | Samples | Crops | Frames

# -- an extractor's result


@dataclass(frozen=True)
class Extracted:
    """The result for one utterance: values, or the reason why there are none.

    Attributes:
        values: float32 (matrices * dim,), or None.
        reason: empty if there are values; otherwise a few words, which the store keeps. Reasons with the same text
            before a colon are counted together.
        frames: float32 (T, frame_width), the sequence from which the values were computed; kept if sequences are
            requested.
        times: float64 (T,), times of the frames in seconds from the start of the utterance.
        details: a number for each of the extractor's own `details`.
    """

    values: np.ndarray | None
    reason: str = ""
    frames: np.ndarray | None = None
    times: np.ndarray | None = None
    details: Mapping[str, float] = field(default_factory=dict)


class Provenance(TypedDict):
    """How the features were computed, as the store records it. It must contain everything that changes the values:
    features with different provenance are treated as different.
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
    """The settings of a run for all extractors: device, precision, and whether to keep sequences."""

    device: torch.device
    precision: str = "float32"
    sequences: bool = False


class Extractor(ABC):
    """An extractor of one modality. A subclass sets the attributes below and defines `extract` and `provenance`.

    Attributes:
        modality: "text", "audio" or "visual"; a class attribute.
        Options: a dataclass of `option` fields, the extractor's own options; a class attribute.
        gives_sequences: whether it can return the frames behind a vector; a class attribute. Requesting sequences from
            any other extractor is an error.
        name: name of the matrix in the store.
        wants: `Texts`, `Samples`, `Crops` or `Frames`.
        dim: number of columns of a matrix.
        details: its own numeric columns in addition to the matrix, name to numpy type.
        frame_width: number of columns of a frame if sequences are requested; else 0.
        layer_count: number of a network's layers whose vectors follow one another in a row, each of `dim / layer_count`
            columns, so that training can weigh them; 0 if a row is one vector.
        dimension_names, frame_names: names of the columns, if they have any.
    """

    modality: ClassVar[str]
    Options: ClassVar[type] = CheckedOptions
    gives_sequences: ClassVar[bool] = False
    name: str
    wants: Wants
    dim: int
    details: Mapping[str, Any] = {}
    frame_width: int = 0
    layer_count: int = 0
    dimension_names: Sequence[str] = ()
    frame_names: Sequence[str] = ()

    @classmethod
    def build(cls, options: Any, setup: Setup) -> Extractor:
        """Builds the extractor for a run.

        Args:
            options: an instance of `cls.Options`.
            setup: the settings of the run.

        Raises:
            UserError: a model that cannot be loaded, or incompatible options.
        """
        return cls(options, setup)  # pyright: ignore[reportCallIssue]

    @property
    def matrices(self) -> Mapping[str, Mapping[str, Any]]:
        """Names of the matrices that it returns side by side, each with its own attributes; by default one matrix,
        called `name`.
        """
        return {self.name: {}}

    @abstractmethod
    def extract(self, utterances: Sequence[Any], done: Callable[[int], None]) -> Iterable[Extracted]:
        """Extracts the features of some utterances.

        Args:
            utterances: `Turn`s, `AudioSpan`s or `FrameSeries`, according to `wants`.
            done: may be called with the number of utterances just finished, for the progress bar of texts.

        Returns:
            One result for each utterance, in order.
        """

    @abstractmethod
    def provenance(self) -> Provenance:
        """How the features are computed."""
