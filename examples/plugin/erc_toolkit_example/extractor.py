"""A text extractor without a network: counts how often each letter occurs in an utterance.

`erc-toolkit extract CORPUS ROOT --modalities text --extractor letters --extractor-option letters.scale=length` runs it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from erc_toolkit.extract.encoders.base import (
    CheckedOptions,
    Extracted,
    Extractor,
    Provenance,
    Setup,
    Texts,
    Turn,
    option,
)


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of the extractor."""

    scale: str = option(
        "counts", choices=("counts", "length"), help="Raw counts, or counts divided by the number of letters."
    )


class Letters(Extractor):
    """26 letter counts for each utterance; a text without letters is absent."""

    modality = "text"
    Options = Options

    def __init__(self, options: Options, setup: Setup) -> None:
        self.options = options
        self.name = "letters"
        self.wants = Texts()
        self.dim = len(string.ascii_lowercase)
        self.dimension_names = list(string.ascii_lowercase)

    def extract(self, utterances: Sequence[Turn], done: Callable[[int], None]) -> Iterable[Extracted]:
        for turn in utterances:
            counts = np.array([turn.text.lower().count(letter) for letter in string.ascii_lowercase], np.float32)
            if not counts.any():
                yield Extracted(None, "no letters")
                continue
            yield Extracted(counts / counts.sum() if self.options.scale == "length" else counts)

    def provenance(self) -> Provenance:
        """Everything that affects the values, so that different features are never treated as the same."""
        return {"model": "letter counts", "parameters": {"scale": self.options.scale}}
