"""Audio features: functionals of openSMILE's feature sets, by the `opensmile` package."""

from __future__ import annotations

import functools
import warnings
from importlib.metadata import version

import numpy as np

from toolkit.media import FULL_SCALE, SAMPLE_RATE, ffmpeg_version

# Half a step of 16 bits: below it every sample is zero for openSMILE.
SILENCE = 2.0**-16


class Functionals:
    """One openSMILE feature set at the level of functionals.

    Args:
        name: a member of `opensmile.FeatureSet`, e.g. "ComParE_2016" (6373), "IS10" (1582; the package's
            `is09-13/IS10_paraling_compat` configuration), "eGeMAPSv02" (88).
    """

    modality = "audio"

    def __init__(self, name: str):
        import opensmile

        self.name = name
        self._smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
        self.dimension_names: list[str] = list(self._smile.feature_names)

    @property
    def dim(self) -> int:
        return len(self.dimension_names)

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray | None, str]:
        """Functionals of one utterance.

        Args:
            samples: float32 (n,), mono, 16 kHz, within [-1, 1 - 2**-15] as `MediaReader` gives them.

        Returns:
            float32 (dim,) and "", or None and the reason why there are none.
        """
        if len(samples) == 0:
            return None, "no audio samples in this span"
        if float(np.abs(samples).max()) < SILENCE:
            return None, "silent audio: every sample is zero at 16 bits"
        with warnings.catch_warnings():  # of a segment that is too short: that becomes the row's reason
            warnings.simplefilter("ignore", UserWarning)
            values = self._smile(samples, SAMPLE_RATE).reshape(-1).astype(np.float32)
        if values.shape != (self.dim,) or not np.isfinite(values).all():
            return None, f"audio too short for {self.name}: {len(samples) / SAMPLE_RATE:.3f} s"
        return values, ""

    def provenance(self) -> dict[str, object]:
        """What made the features, for the store."""
        return {
            "extractor": "opensmile functionals",
            "model": f"openSMILE feature set {self.name}",
            "versions": {"opensmile": version("opensmile"), "ffmpeg": ffmpeg_version()},
            "parameters": {
                "feature_set": self.name, "level": "functionals", "sample_rate_hz": SAMPLE_RATE, "channels": "mono mix",
                "clipped_to": [-1, FULL_SCALE],
            },
            "licence": "openSMILE is free for private use and research; commercial use needs a licence from audEERING",
        }  # fmt: skip


@functools.cache
def functionals(name: str) -> Functionals:
    """The feature set, made once in each process."""
    return Functionals(name)
