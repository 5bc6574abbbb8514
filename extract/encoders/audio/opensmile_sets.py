"""Audio features: functionals of openSMILE's feature sets, computed by the `opensmile` package."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from ....toolkit.media import FULL_SCALE, SAMPLE_RATE, library_version
from ..base import AudioSpan, Extracted, Extractor, Provenance, Samples, Setup
from ..selection import Options

LICENCE = "openSMILE is free for private use and research; commercial use needs a licence from audEERING"
# Half a quantisation step of 16-bit audio: anything below is zero for openSMILE.
SILENCE = 2.0**-16


def silence_reason(samples: np.ndarray) -> str:
    """The reason why samples (float32 (n,), within [-1, 1]) cannot be used, or "" if they are not silent."""
    if len(samples) == 0:
        return "no audio samples in this span"
    if float(np.abs(samples).max()) < SILENCE:
        return "silent audio: every sample is zero at 16 bits"
    return ""


class Functionals(Extractor):
    """One openSMILE feature set at the level of functionals.

    Args:
        name: a member of `opensmile.FeatureSet`, e.g. "ComParE_2016" (6373), "IS10" (1582; the package's
            `is09-13/IS10_paraling_compat` configuration), "eGeMAPSv02" (88).
        sequences: keep the set's low-level descriptors as well, a frame every 10 ms.
    """

    modality = "audio"
    Options = Options
    gives_sequences = True

    def __init__(self, name: str, sequences: bool = False):
        import opensmile

        self.name = name
        self.wants = Samples(SAMPLE_RATE, in_workers=functools.partial(extract_span, name, sequences))
        self.frame_names = descriptors(name).names if sequences else []
        self._smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
        self.dimension_names: list[str] = list(self._smile.feature_names)
        self.dim, self.frame_width = len(self.dimension_names), len(self.frame_names)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Functionals:
        """The feature set given with --audio-set."""
        return cls(options.audio_set, setup.sequences)

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray | None, str]:
        """Functionals of one utterance.

        Args:
            samples: float32 (n,), mono, 16 kHz, within [-1, 1 - 2**-15], as from `MediaReader`.

        Returns:
            float32 (dim,) and "", or None and the reason why there are none.
        """
        if reason := silence_reason(samples):
            return None, reason
        with warnings.catch_warnings():  # about a segment that is too short, which becomes the row's reason
            warnings.simplefilter("ignore", UserWarning)
            values = self._smile(samples, SAMPLE_RATE).reshape(-1).astype(np.float32)
        if values.shape != (self.dim,) or not np.isfinite(values).all():
            return None, f"audio too short for {self.name}: {len(samples) / SAMPLE_RATE:.3f} s"
        return values, ""

    def extract(self, utterances: Sequence[AudioSpan], done: Callable[[int], None]) -> Iterator[Extracted]:
        """One result for each utterance; in a run, the worker processes call `extract_span` instead."""
        for span in utterances:
            yield extract_span(self.name, self.frame_width > 0, span)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        return {
            "extractor": "opensmile functionals",
            "model": f"openSMILE feature set {self.name}",
            "versions": {"opensmile": version("opensmile"), "ffmpeg": library_version()},
            "parameters": {
                "feature_set": self.name,
                "level": "functionals",
                "sample_rate_hz": SAMPLE_RATE,
                "channels": "mono mix",
                "clipped_to": [-1, FULL_SCALE],
                **({"sequences": "low-level descriptors"} if self.frame_names else {}),
            },
            "licence": LICENCE,
        }


class Descriptors:
    """One openSMILE feature set at the level of its low-level descriptors (`FeatureLevel.LowLevelDescriptors`)."""

    def __init__(self, name: str):
        import opensmile

        self._smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.LowLevelDescriptors)
        self.names: list[str] = list(self._smile.feature_names)

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples as for `Functionals` to float32 (T, width) and the frames' times in seconds (T,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            table = self._smile.process_signal(samples, SAMPLE_RATE)
        values = table.to_numpy(np.float32)
        whole = np.isfinite(values).all(1)  # a segment too short for one frame results in one row of NaN
        starts: Any = table.index.get_level_values("start")
        return values[whole], starts.total_seconds().to_numpy(np.float64)[whole]


@functools.cache
def descriptors(name: str) -> Descriptors:
    """The feature set, created once in each process."""
    return Descriptors(name)


@functools.cache
def functionals(name: str) -> Functionals:
    """The feature set, created once in each process."""
    return Functionals(name)


def extract_span(name: str, sequences: bool, span: AudioSpan) -> Extracted:
    """Functionals of one utterance at 16 kHz, and its low-level descriptors if sequences are requested."""
    values, reason = functionals(name)(span.samples)
    if values is None or not sequences:
        return Extracted(values, reason)
    return Extracted(values, reason, *descriptors(name)(span.samples))
