"""Prosody in words: how an utterance is spoken, compared with how its speaker usually speaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .prosody import DIMENSIONS

LEAST_UTTERANCES = 3
# A difference from the speaker's median is divided by the speaker's interquartile range. Within half of it, where the
# middle half of the utterances of a symmetric speaker are, is as usual; beyond the whole of it is "much". Of normally
# distributed utterances 50 % are as usual, 16 % higher and 9 % much higher, and as many lower.
_USUAL, _MUCH = 0.5, 1.0
# The least range that counts, so that nobody who hardly varies is "much louder" by what no one hears. Differences of
# less than half of it are as usual: a tenth of the loudness, a semitone, a tenth of the rate. They are choices, of the
# order of what listeners notice, not results of a measurement.
_LEAST_RANGES = (2 * np.log2(1.1), 2.0, 2 * np.log2(1.1))
_LOUDNESS = {-2: "much more quietly", -1: "more quietly", 1: "louder", 2: "much louder"}
_PITCH = {-2: "a much lower pitch", -1: "a lower pitch", 1: "a higher pitch", 2: "a much higher pitch"}
_RATE = {-2: "much more slowly", -1: "more slowly", 1: "faster", 2: "much faster"}


def describe(
    values: np.ndarray, present: np.ndarray, speakers: Sequence[str], seconds: np.ndarray, texts: Sequence[str]
) -> list[str]:
    """A sentence for each utterance, e.g. "Ann speaks louder and much faster than usual, with a higher pitch."

    Loudness (as a ratio), pitch (in semitones) and speaking rate (letters and digits per second of audio, as a ratio;
    letters serve scripts without spaces as well) are compared with the median of the same speaker's utterances among
    those given, in five steps from much lower to much higher; see `_USUAL`. What is as usual is not mentioned, and if
    everything is, the sentence is "Ann speaks as usual." Pitch is left out where there is no voice, loudness where most
    of the frames are silent, and the rate where there is no text.

    What a speaker's usual voice is cannot be known from few utterances, and other people's voices do not tell: the
    sentence is empty for speakers with fewer than `LEAST_UTTERANCES` present utterances, and a quantity that fewer of
    their utterances have is left out. The order of the utterances has no influence.

    Args:
        values: float (N, 6), the columns of `prosody.DIMENSIONS`.
        present: bool (N,), which utterances have them.
        speakers: N names; an empty one is a speaker too, called "The speaker".
        seconds: float (N,), lengths of the utterances' audio in seconds.
        texts: N transcripts.

    Returns:
        N sentences; empty where `present` is False or there is nothing to compare with.

    Raises:
        ValueError: the arguments have different lengths, or values is not (N, 6).
    """
    present, seconds = np.asarray(present, bool), np.asarray(seconds, np.float64)
    count = len(speakers)
    if np.shape(values) != (count, len(DIMENSIONS)) or not len(present) == len(seconds) == len(texts) == count:
        raise ValueError(
            f"values {np.shape(values)}, {len(present)} present, {count} speakers, {len(seconds)} seconds "
            f"and {len(texts)} texts do not fit together"
        )
    quantities = _quantities(np.asarray(values, np.float64), seconds, texts)
    quantities[~present] = np.nan
    sentences = [""] * count
    for speaker in set(speakers):
        rows = np.array([row for row in range(count) if speakers[row] == speaker and present[row]], np.int64)
        if len(rows) < LEAST_UTTERANCES:
            continue
        steps = [_steps(quantities[rows, k], least) for k, least in enumerate(_LEAST_RANGES)]
        for place, row in enumerate(rows):
            known = [step[place] for step in steps]
            if any(step is not None for step in known):
                sentences[row] = _sentence(speaker or "The speaker", *known)
    return sentences


def _quantities(values: np.ndarray, seconds: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Loudness and rate as base-2 logarithms, pitch in semitones: float64 (N, 3), NaN where there is none."""
    column = {name: values[:, k] for k, name in enumerate(DIMENSIONS)}
    letters = np.array([sum(letter.isalnum() for letter in text) for text in texts], np.float64)
    found = np.full((len(texts), 3), np.nan)
    loud, voiced = column["loudness_median"] > 0, column["voiced_fraction"] > 0
    said = (letters > 0) & (seconds > 0)
    found[loud, 0] = np.log2(column["loudness_median"][loud])
    found[voiced, 1] = column["pitch_median_semitones"][voiced]
    found[said, 2] = np.log2(letters[said] / seconds[said])
    return found


def _steps(quantity: np.ndarray, least_range: float) -> list[int | None]:
    """One speaker's quantity (n,) in steps from -2 to 2; None where it is NaN, or everywhere if too few have it."""
    known = quantity[~np.isnan(quantity)]
    if len(known) < LEAST_UTTERANCES:
        return [None] * len(quantity)
    low, middle, high = np.percentile(known, [25, 50, 75])
    # Rounded, as evenly spaced utterances are exactly at a threshold and should not depend on the last bit.
    distance = np.round((quantity - middle) / max(high - low, least_range), 6)
    return [
        None if np.isnan(one) else int(np.sign(one)) * (int(abs(one) > _USUAL) + int(abs(one) > _MUCH))
        for one in distance
    ]


def _sentence(name: str, loudness: int | None, pitch: int | None, rate: int | None) -> str:
    manner = " and ".join(words[step] for words, step in ((_LOUDNESS, loudness), (_RATE, rate)) if step)
    height = f"with {_PITCH[pitch]}" if pitch else ""
    if manner and height:
        return f"{name} speaks {manner} than usual, {height}."
    return f"{name} speaks {manner or height} than usual." if manner or height else f"{name} speaks as usual."
