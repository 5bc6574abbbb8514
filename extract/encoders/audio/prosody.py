"""Audio features: how loud, how high and how much with voice an utterance is spoken, in six numbers.

They are statistics of two low-level descriptors of openSMILE's eGeMAPSv02, a frame every 10 ms: `Loudness_sma3`, an
auditory model's loudness without a unit (half the amplitude is 0.63 of the loudness), and
`F0semitoneFrom27.5Hz_sma3nz`, the pitch in semitones above 27.5 Hz, which is 0 in frames without voice. Ranges are from
the 20th to the 80th percentile, as in that set's functionals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

import numpy as np

from ....toolkit.media import FULL_SCALE, SAMPLE_RATE, library_version
from ..base import AudioSpan, Extracted, Extractor, Provenance, Samples, Setup
from ..selection import PROSODY, Options
from .opensmile_sets import LICENCE, descriptors, silence_reason

DIMENSIONS = (
    "loudness_median",
    "loudness_spread",
    "pitch_median_semitones",
    "pitch_spread_semitones",
    "voiced_fraction",
    "voiced_segments_per_second",
)
_SET = "eGeMAPSv02"
_COLUMNS = ("Loudness_sma3", "F0semitoneFrom27.5Hz_sma3nz")
_FRAME_S = 0.01
_LOW, _HIGH = 20, 80


class Prosody(Extractor):
    """The six numbers of `DIMENSIONS` of each utterance.

    Loudness over all frames, and pitch in semitones above 27.5 Hz over those with voice, each with its median and its
    range from the 20th to the 80th percentile; the fraction of frames with voice, and the number of stretches of such
    frames per second. An utterance without any voice has 0 in the last four, which its voiced fraction tells from a
    pitch of 27.5 Hz.

    Args:
        sequences: keep loudness and pitch of the frames as well.
    """

    modality = "audio"
    Options = Options
    gives_sequences = True
    name = PROSODY
    dim = len(DIMENSIONS)
    dimension_names = DIMENSIONS

    def __init__(self, sequences: bool = False):
        self.wants = Samples(SAMPLE_RATE, in_workers=functools.partial(prosody_of, sequences))
        self.frame_names = ("loudness", "pitch_semitones") if sequences else ()
        self.frame_width = len(self.frame_names)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Prosody:
        """There is nothing to choose but the sequences."""
        return cls(setup.sequences)

    def extract(self, utterances: Sequence[AudioSpan], done: Callable[[int], None]) -> Iterator[Extracted]:
        """One result for each utterance; in a run, the worker processes call `prosody_of` instead."""
        for span in utterances:
            yield prosody_of(self.frame_width > 0, span)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        return {
            "extractor": "prosody",
            "model": f"statistics of openSMILE's {_SET}",
            "versions": {"opensmile": version("opensmile"), "ffmpeg": library_version()},
            "parameters": {
                "feature_set": _SET,
                "level": "low-level descriptors",
                "descriptors": list(_COLUMNS),
                "statistics": f"median, and {_LOW}th to {_HIGH}th percentile; pitch over frames with voice",
                "sample_rate_hz": SAMPLE_RATE,
                "channels": "mono mix",
                "clipped_to": [-1, FULL_SCALE],
                **({"sequences": "loudness and pitch of each frame"} if self.frame_names else {}),
            },
            "licence": LICENCE,
        }


def prosody_of(sequences: bool, span: AudioSpan) -> Extracted:
    """The numbers of one utterance at 16 kHz, and loudness and pitch of its frames if sequences are requested."""
    if reason := silence_reason(span.samples):
        return Extracted(None, reason)
    of_set = descriptors(_SET)
    table, times = of_set(span.samples)
    if not len(table):
        return Extracted(None, f"audio too short for {PROSODY}: {len(span.samples) / SAMPLE_RATE:.3f} s")
    frames = table[:, [of_set.names.index(column) for column in _COLUMNS]]
    values = statistics(frames)
    return Extracted(values, "", frames, times) if sequences else Extracted(values)


def statistics(frames: np.ndarray) -> np.ndarray:
    """The numbers of `DIMENSIONS`, float32 (6,), from loudness and semitones of T frames, float32 (T, 2)."""
    loudness, pitch = frames.astype(np.float64).T
    voiced = pitch > 0
    segments = int(voiced[0]) + int((voiced[1:] & ~voiced[:-1]).sum())
    height = _median_and_range(pitch[voiced]) if voiced.any() else (0.0, 0.0)
    numbers = (*_median_and_range(loudness), *height, voiced.mean(), segments / (len(voiced) * _FRAME_S))
    return np.array(numbers, np.float32)


def _median_and_range(values: np.ndarray) -> tuple[float, float]:
    low, middle, high = np.percentile(values, [_LOW, 50, _HIGH])
    return middle, high - low
