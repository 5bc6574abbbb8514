"""The interfaces that prediction needs from extraction and trained models, and the only place that names their modules.

`toolkit` imports neither `extract` nor `train`, and they do not import each other. The modules are imported by name
when a prediction starts, as the command line does with its subcommands, and must implement these protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from ..manifest import Manifest
from ..store import FeatureStore
from .turns import Media, SpokenTurn, Turn, TurnFeatures

EXTRACTION_MODULE = "erc_toolkit.extract.recording"
LIVE_MODULE = "erc_toolkit.extract.live"
MODEL_MODULE = "erc_toolkit.train.inference.turn_classifier"


class Extraction(Protocol):
    """The functions of `EXTRACTION_MODULE`."""

    def read_recording(
        self,
        recording: Path,
        transcript: Path,
        labels: Sequence[str],
        speakers: Sequence[str] = (),
        /,
        *,
        time_unit: Literal["s", "ms"] | None = None,
        columns: Sequence[str] = (),
    ) -> Manifest:
        """Returns a recording and the turns of its transcript as a manifest of one dialogue."""
        ...

    def transcribe_recording(
        self,
        recording: Path,
        out: Path,
        options: Mapping[str, Any],
        /,
        *,
        overwrite: bool = False,
        command: str = "",
        notify: Callable[[str], None] = print,
    ) -> None:
        """Finds the turns of a recording and writes them as JSON, which `read_recording` reads."""
        ...

    def extract_recording(
        self,
        manifest: Manifest,
        out: Path,
        made: Mapping[str, Mapping[str, object]],
        /,
        *,
        device: str = "auto",
        audio_track: int | None = None,
        alone: bool = False,
        command: str = "",
        notify: Callable[[str], None] = print,
    ) -> dict[str, list[str]]:
        """Extracts features into the store `out`; returns each absent modality with the reason of every turn."""
        ...


class LiveRecording(Protocol):
    """A stream of audio or of audio and video, and the turns that have ended in it, with their features."""

    features: dict[str, dict[str, object]]
    absent: dict[str, str]
    names: list[str]

    @property
    def seconds(self) -> float:
        """Seconds of the stream so far."""
        ...

    @property
    def most_kept_s(self) -> float:
        """Seconds of audio that were ever kept at once."""
        ...

    def add(self, data: bytes, /) -> Iterator[tuple[SpokenTurn, TurnFeatures]]:
        """Takes bytes of the stream; yields the turns that end in them."""
        ...

    def end(self) -> Iterator[tuple[SpokenTurn, TurnFeatures]]:
        """Yields the turns that are open at the end of the stream."""
        ...

    def close(self) -> None:
        """Ends the decoding of a stream that has not ended."""
        ...


class LiveExtraction(Protocol):
    """The class of `LIVE_MODULE`."""

    def LiveRecording(
        self,
        made: Mapping[str, Mapping[str, object]],
        labels: Sequence[str],
        /,
        *,
        transcript: Path | None = None,
        name: str = "live",
        finding: Mapping[str, Any] | None = None,
        pause: float | None = None,
        speakers: Sequence[str] = (),
        time_unit: Literal["s", "ms"] | None = None,
        columns: Sequence[str] = (),
        pcm_rate: int | None = None,
        to_end: bool = True,
        device: str = "auto",
        notify: Callable[[str], None] = print,
    ) -> LiveRecording:
        """Loads the extractors of a run, and reads the transcript or loads the models that find turns."""
        ...


class LiveClassifier(Protocol):
    """A trained model that has the turns of a stream so far."""

    def add(self, spoken: SpokenTurn, features: TurnFeatures, /) -> Turn:
        """Classifies the next turn."""
        ...


class TrainedModel(Protocol):
    """A trained model that is ready for features of recordings."""

    @property
    def description(self) -> dict[str, object]:
        """The facts about the model that are written to turns.json."""
        ...

    def speakers(self, names: Sequence[str], chosen: Mapping[str, str], /) -> tuple[str, dict[str, object]]:
        """Returns how the model takes the speakers of turns, as a line and for turns.json; `chosen` by the user."""
        ...

    @property
    def most_speakers(self) -> int | None:
        """How many people a dialogue may have at most; None for any number."""
        ...

    def live(
        self, features: Mapping[str, Mapping[str, object]], chosen: Mapping[str, str], past: int | None = None, /
    ) -> LiveClassifier:
        """Returns the same model for the turns of a stream, whose features have these attributes."""
        ...

    def turns(
        self,
        store: FeatureStore,
        causal: bool = False,
        chosen: Mapping[str, str] | None = None,
        absent: Mapping[str, Sequence[str]] | None = None,
        past: int | None = None,
        /,
    ) -> tuple[list[Turn], Any]:
        """Returns the turns of a store, and the batch of its dialogues, to pass to `page`."""
        ...

    def page(self, media: Media, turns: list[Turn], batch: Any, facts: list[tuple[str, str]], causal: bool, /) -> str:
        """Returns the report about a recording as HTML."""
        ...


class Models(Protocol):
    """The functions and the class of `MODEL_MODULE`."""

    def extraction_of(
        self, folder: Path, replaced: Collection[str] = (), /
    ) -> tuple[dict[str, dict[str, object]], list[str]]:
        """Returns the extraction options by modality, and the labels, of a run or a package."""
        ...

    def TurnClassifier(self, folder: Path, device: str, notify: Callable[[str], None], /) -> TrainedModel:
        """Loads the model of a run or a package."""
        ...


def load_extraction() -> Extraction:
    """Imports the extraction."""
    return cast(Extraction, import_module(EXTRACTION_MODULE))


def load_live() -> LiveExtraction:
    """Imports the extraction of streams."""
    return cast(LiveExtraction, import_module(LIVE_MODULE))


def load_models() -> Models:
    """Imports the trained models."""
    return cast(Models, import_module(MODEL_MODULE))
