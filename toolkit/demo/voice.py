"""The demo's voices: a glottal source filtered by formant resonators, with prosody that depends on the emotion.

Mean pitch, its range and contour, loudness, spectral tilt, breath, tremor and attack depend on the displayed emotion;
speakers differ in pitch and in vocal tract length. Speech rate and duration are set by the script.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, lfilter, resample_poly

from .script import FPS

RATE = 16_000
OUT_RATE = 48_000
_BLOCK = 160  # samples over which formants are constant: 10 ms
_EDGE_S = 0.08


@dataclass(frozen=True)
class Manner:
    """How an emotion is spoken.

    Attributes:
        pitch: mean pitch relative to the speaker's own.
        span: pitch range in octaves over the utterance.
        contour: pitch at the end minus pitch at the start, in octaves.
        level: loudness in decibels relative to neutral.
        tilt: coefficient of the low-pass filter on the source, 0 (bright) to 1 (dark).
        breath: noise in the source, relative to the pulses.
        tremor: depth of a 6 Hz wobble of the pitch, in octaves.
        attack: how abruptly syllables start, 0 to 1.
    """

    pitch: float = 1.0
    span: float = 0.12
    contour: float = -0.10
    level: float = 0.0
    tilt: float = 0.80
    breath: float = 0.04
    tremor: float = 0.0
    attack: float = 0.3


MANNERS = {
    "neutral": Manner(),
    "surprise": Manner(pitch=1.35, span=0.40, contour=0.55, level=3, tilt=0.72, attack=0.5),
    "fear": Manner(pitch=1.30, span=0.10, contour=0.05, level=-1, tilt=0.86, breath=0.22, tremor=0.10),
    "sadness": Manner(pitch=0.86, span=0.06, contour=-0.28, level=-7, tilt=0.92, breath=0.12, attack=0.05),
    "joy": Manner(pitch=1.25, span=0.45, contour=0.05, level=3, tilt=0.66, attack=0.4),
    "disgust": Manner(pitch=0.82, span=0.18, contour=-0.35, level=0, tilt=0.88, breath=0.02, tremor=0.02, attack=0.6),
    "anger": Manner(pitch=1.12, span=0.22, contour=-0.20, level=7, tilt=0.45, breath=0.06, attack=0.9),
}

# First three formants of vowels of a male voice, in Hz.
_VOWELS = np.array(
    [
        [730, 1090, 2440],
        [530, 1840, 2480],
        [270, 2290, 3010],
        [570, 840, 2410],
        [300, 870, 2240],
        [490, 1350, 1690],
        [640, 1190, 2390],
        [660, 1720, 2410],
    ]
)
_BANDWIDTHS = (80, 100, 140, 250)
_PITCHES = {"Alma": 205.0, "Boris": 108.0, "Clara": 225.0, "Duncan": 122.0, "Edda": 190.0, "Farid": 135.0}


def speak(
    speaker: str, emotion: str, syllables: int, frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Synthesizes the audio of one utterance.

    Args:
        speaker: one of the script's speakers.
        emotion: the emotion that the voice displays.
        syllables: number of syllables.
        frames: length in frames of 1 / FPS seconds.
        rng: draws vowels, consonants and the intensity of the emotion.

    Returns:
        Audio, float32 (samples,) at OUT_RATE, within -1 and 1; and its loudness per frame, float (frames,), 0 to 1.
    """
    manner = _varied(MANNERS[emotion], rng)
    count = round(frames / FPS * RATE)
    starts = np.linspace(_EDGE_S, frames / FPS - _EDGE_S, max(1, syllables) + 1)
    envelope, hiss = _syllables(starts, count, manner.attack, rng)
    source = _source(_PITCHES[speaker], manner, envelope, rng)
    tract = 1.16 if _PITCHES[speaker] > 160 else 1.0
    audio = _resonate(source * envelope, starts, tract, rng) + hiss
    level = 10 ** (manner.level / 20)
    audio *= 0.085 * level / max(1e-6, float(np.sqrt(np.mean(audio**2))))
    audio = np.tanh(audio) + rng.normal(0, 0.0015, count)  # background noise
    loudness = np.sqrt(np.array([np.mean(part**2) for part in np.array_split(audio, frames)]))
    out = resample_poly(audio, OUT_RATE // RATE, 1).astype(np.float32)
    return np.clip(out, -0.95, 0.95), np.clip(loudness / 0.22, 0, 1)


def _varied(manner: Manner, rng: np.random.Generator) -> Manner:
    """The manner with random intensity and small deviations."""
    neutral, strength = MANNERS["neutral"], rng.uniform(0.75, 1.15)
    values = {
        name: (base := getattr(neutral, name)) + strength * (getattr(manner, name) - base) for name in vars(manner)
    }
    values["pitch"] *= float(np.exp(rng.normal(0, 0.05)))
    values["level"] += rng.normal(0, 1.2)
    values["contour"] += rng.normal(0, 0.06)
    values["tilt"] = float(np.clip(values["tilt"] + rng.normal(0, 0.02), 0.2, 0.97))
    for name in ("span", "breath", "tremor"):
        values[name] = max(0.0, values[name])
    values["attack"] = float(np.clip(values["attack"], 0.02, 0.95))
    return Manner(**values)


def _syllables(
    starts: np.ndarray, count: int, attack: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The amplitude of the voice over time, and the noise of the consonants: float (count,) each."""
    envelope, hiss = np.zeros(count), np.zeros(count)
    time = np.arange(count) / RATE
    for start, end in itertools.pairwise(starts):
        here = (time >= start) & (time < end)
        place = (time[here] - start) / (end - start)
        rise = np.clip(place / (0.35 - 0.3 * attack), 0, 1)
        envelope[here] = rise * np.clip((1 - place) / 0.3, 0, 1) ** 0.7 * rng.uniform(0.7, 1.0)
        if rng.random() < 0.55:  # the syllable starts with an unvoiced consonant
            low = rng.uniform(1800, 4200)
            b, a = butter(2, [low / (RATE / 2), min(0.95, 1.6 * low / (RATE / 2))], "band")
            burst = (place < 0.25) * np.sin(np.pi * np.clip(place / 0.25, 0, 1))
            hiss[here] += 0.25 * lfilter(b, a, rng.normal(0, 1, here.sum())) * burst
            envelope[here] *= np.clip((place - 0.12) / 0.1, 0, 1)
    return envelope, hiss


def _source(base: float, manner: Manner, envelope: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glottal pulses (derivative of Rosenberg's) and breath, filtered by the tilt: float (count,)."""
    count = len(envelope)
    place = np.linspace(0, 1, count)
    wave = np.sin(2 * np.pi * (place * rng.uniform(1.2, 2.2) + rng.random()))
    wobble = manner.tremor * np.sin(2 * np.pi * 6.2 * np.arange(count) / RATE)
    jitter = np.repeat(rng.normal(0, 0.012, count // 80 + 1), 80)[:count]
    octaves = manner.span / 2 * wave + manner.contour * (place - 0.5) + wobble + jitter
    phase = np.cumsum(base * manner.pitch * 2**octaves / RATE) % 1
    opening = np.where(phase < 0.4, 0.5 * (1 - np.cos(np.pi * phase / 0.4)), 0)
    closing = np.where((phase >= 0.4) & (phase < 0.56), np.cos(np.pi / 2 * (phase - 0.4) / 0.16), 0)
    flow = opening + closing
    pulses = np.diff(flow, prepend=0) * 8
    breath = manner.breath * rng.normal(0, 1, count) * (0.3 + flow)
    return lfilter([1 - manner.tilt], [1, -manner.tilt], pulses + breath)


def _resonate(source: np.ndarray, starts: np.ndarray, tract: float, rng: np.random.Generator) -> np.ndarray:
    """The source filtered by four formants that glide from vowel to vowel: float (count,)."""
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=len(starts))] * tract
    blocks = (np.arange(0, len(source), _BLOCK) + _BLOCK / 2) / RATE
    tracks = [np.interp(blocks, starts, vowels[:, k]) for k in range(3)] + [np.full(len(blocks), 3400 * tract)]
    audio = source
    for track, width in zip(tracks, _BANDWIDTHS, strict=True):
        out, state = np.empty_like(audio), np.zeros(2)
        radius = np.exp(-np.pi * width / RATE)
        for k, frequency in enumerate(track):
            a = [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
            part = slice(k * _BLOCK, (k + 1) * _BLOCK)
            out[part], state = lfilter([sum(a)], a, audio[part], zi=state)
        audio = out
    return audio
