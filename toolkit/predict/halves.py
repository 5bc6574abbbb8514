"""What prediction needs of extraction and of the trained models, and the only place that names where they are.

`toolkit` imports neither `extract` nor `train`, and they do not import each other. The two modules are found by name
when a prediction begins, as the command line finds its subcommands, and have to offer what the protocols here say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from ..manifest import Manifest
from ..store import FeatureStore
from .turns import Turn

EXTRACTION_MODULE = "erc_toolkit.extract.recording"
MODEL_MODULE = "erc_toolkit.train.inference.turns"


class Extraction(Protocol):
    """The functions of `EXTRACTION_MODULE`."""

    def read_recording(
        self, recording: Path, transcript: Path, labels: Sequence[str], speakers: Sequence[str] = (), /
    ) -> Manifest:
        """A recording and the turns of its transcript as a manifest of one dialogue."""
        ...

    def extract_recording(
        self,
        manifest: Manifest,
        out: Path,
        made: Mapping[str, Mapping[str, object]],
        /,
        *,
        device: str = "auto",
        command: str = "",
        notify: Callable[[str], None] = print,
    ) -> dict[str, str]:
        """Extracts features into the store `out`; returns each absent modality with the reason."""
        ...


class TrainedModel(Protocol):
    """A trained model that is ready for the features of recordings."""

    @property
    def description(self) -> dict[str, object]:
        """What is written about the model into turns.json."""
        ...

    def turns(self, store: FeatureStore, causal: bool = False, /) -> tuple[list[Turn], Any]:
        """The turns of a store, and the batch of its dialogues, which `page` takes."""
        ...

    def page(self, title: str, turns: list[Turn], batch: Any, facts: list[tuple[str, str]], causal: bool, /) -> str:
        """The report about a recording, as HTML."""
        ...


class Models(Protocol):
    """The functions and the class of `MODEL_MODULE`."""

    def extraction_of(self, folder: Path, /) -> tuple[dict[str, dict[str, object]], list[str]]:
        """Modality to the options of its extraction, and the labels, of a run or a package."""
        ...

    def TurnClassifier(self, folder: Path, device: str, notify: Callable[[str], None], /) -> TrainedModel:
        """Loads the model of a run or a package."""
        ...


def load_extraction() -> Extraction:
    """The extraction, imported."""
    return cast(Extraction, import_module(EXTRACTION_MODULE))


def load_models() -> Models:
    """The trained models, imported."""
    return cast(Models, import_module(MODEL_MODULE))
