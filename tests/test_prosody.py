"""Prosody: tones of known pitch, opensmile's own descriptors and functionals, and what the sentences depend on."""

from __future__ import annotations

import numpy as np
import opensmile
import pytest
import torch
from click.testing import CliRunner

from erc_toolkit.extract.encoders.audio.prosody import DIMENSIONS, Prosody, prosody_of
from erc_toolkit.extract.encoders.audio.prosody_words import describe
from erc_toolkit.extract.encoders.base import AudioSpan, Setup
from erc_toolkit.extract.encoders.registry import find_extractor
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.media import MediaReader
from erc_toolkit.toolkit.store import FeatureStore

SECOND = np.arange(16_000) / 16_000


def voice(pitch, loudness: float = 0.1) -> np.ndarray:
    """A buzz like that of vocal folds, of a pitch in Hz for each sample or for a second of them, float32."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(pitch, np.shape(pitch) or SECOND.shape)) / 16_000
    return (loudness * sum(np.sin(k * phase) / k for k in range(1, 9))).astype(np.float32)


def numbers(samples: np.ndarray) -> dict[str, float]:
    values = prosody_of(False, AudioSpan(samples, 16_000)).values
    assert values is not None and values.dtype == np.float32 and np.isfinite(values).all()
    return dict(zip(DIMENSIONS, values.tolist(), strict=True))


@pytest.mark.parametrize("hertz", [110, 220, 440])
def test_a_tone_has_its_pitch_in_semitones(hertz):
    found = numbers(voice(hertz))
    assert found["pitch_median_semitones"] == pytest.approx(12 * np.log2(hertz / 27.5), abs=0.1)
    assert found["pitch_spread_semitones"] < 0.1 and found["voiced_fraction"] == 1
    assert found["voiced_segments_per_second"] == pytest.approx(1, abs=0.06)  # 96 frames fit into the second


def test_a_glide_and_pauses_are_measured():
    """Two voiced stretches with a pause of the same length; of a glide over an octave 60 % are 7.2 semitones."""
    pause = np.random.default_rng(0).normal(0, 1e-4, 16_000).astype(np.float32)
    found = numbers(np.concatenate([voice(150), pause, voice(150)]))
    assert found["voiced_fraction"] == pytest.approx(2 / 3, abs=0.03)
    assert found["voiced_segments_per_second"] == pytest.approx(2 / 3, abs=0.02)
    assert numbers(voice(120 * 2 ** (np.arange(64_000) / 64_000)))["pitch_spread_semitones"] == pytest.approx(
        7.2, abs=0.15
    )


def test_loudness_rises_with_amplitude_and_pitch_does_not():
    quiet, loud = numbers(voice(200, 0.05)), numbers(voice(200, 0.2))
    assert loud["loudness_median"] > 1.8 * quiet["loudness_median"]
    assert loud["pitch_median_semitones"] == pytest.approx(quiet["pitch_median_semitones"], abs=0.02)


def test_the_numbers_are_near_opensmiles_own_functionals():
    """Not equal: openSMILE computes its functionals on three frames fewer than it gives as descriptors."""
    t = np.arange(48_000) / 16_000
    wave = voice(180 * 2 ** (0.4 * np.sin(2 * np.pi * 0.7 * t))) * (0.5 + 0.4 * np.sin(2 * np.pi * 3 * t))
    wave = wave * (np.sin(2 * np.pi * 1.1 * t) > -0.3) + np.random.default_rng(0).normal(0, 0.002, len(t))
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    own = smile.process_signal(wave.astype(np.float32), 16_000).iloc[0]
    found = numbers(wave.astype(np.float32))
    for name, functional, tolerance in (
        ("loudness_median", "loudness_sma3_percentile50.0", 0.02),
        ("loudness_spread", "loudness_sma3_pctlrange0-2", 0.02),
        ("pitch_median_semitones", "F0semitoneFrom27.5Hz_sma3nz_percentile50.0", 0.2),
        ("pitch_spread_semitones", "F0semitoneFrom27.5Hz_sma3nz_pctlrange0-2", 0.2),
        ("voiced_segments_per_second", "VoicedSegmentsPerSec", 0.03),
    ):
        assert found[name] == pytest.approx(own[functional], abs=tolerance), name
    assert own["loudness_sma3_percentile50.0"] > 0.2 and own["F0semitoneFrom27.5Hz_sma3nz_pctlrange0-2"] > 5


def test_sequences_are_opensmiles_own_descriptors():
    wave = voice(120 * 2**SECOND)
    encoder = Prosody.build(Options(audio_set="prosody"), Setup(torch.device("cpu"), sequences=True))
    (found,) = encoder.extract([AudioSpan(wave, 16_000)], lambda count: None)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    own = smile.process_signal(wave, 16_000)[["Loudness_sma3", "F0semitoneFrom27.5Hz_sma3nz"]].to_numpy(np.float32)
    assert found.frames is not None and found.values is not None
    np.testing.assert_array_equal(found.frames, own)
    assert found.values[0] == np.median(own[:, 0]) and found.values[2] == np.median(own[own[:, 1] > 0, 1])
    assert encoder.frame_width == len(encoder.frame_names) == 2 and found.times == pytest.approx(
        0.01 * np.arange(len(own))
    )


def test_utterances_without_voice_or_frames():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    found = numbers(noise)
    assert list(found.values())[2:] == [0, 0, 0, 0] and found["loudness_median"] > 0
    encoder = Prosody()
    spans = [AudioSpan(noise[:n], 16_000) for n in (16_000, 500)] + [AudioSpan(np.zeros(9, np.float32), 16_000)]
    reasons = [result.reason for result in encoder.extract(spans, lambda count: None)]
    assert reasons == ["", "audio too short for prosody: 0.031 s", "silent audio: every sample is zero at 16 bits"]


def test_prosody_is_registered_and_says_how_it_is_made():
    registered = find_extractor("prosody")
    encoder = registered.build(Options(audio_set="prosody"), Setup(torch.device("cpu")))
    made = encoder.provenance()
    assert encoder.name == "prosody" and encoder.dim == len(encoder.dimension_names) == 6
    assert "audEERING" in made.get("licence", "") and made.get("versions", {})["opensmile"]
    assert made.get("parameters", {})["feature_set"] == "eGeMAPSv02"


def test_extracting_prosody_of_a_corpus(raw, tmp_path):
    """The whole command, in worker processes."""
    arguments = ["extract", "meld", str(raw), "--out", str(tmp_path / "s.h5")]
    result = CliRunner().invoke(main, [*arguments, "--modalities", "audio", "--audio-set", "prosody"])
    assert result.exit_code == 0, result.output
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("audio/prosody")
        values, present = feature.values(), feature.present()
        assert feature.dim == 6 and present.sum() > 10 and (values[present, 0] > 0).all()
        row = int(np.flatnonzero(present)[3])
        with MediaReader(raw / store.column("media")[row]) as media:
            media.finish()
        own = smile.process_signal(media.samples, 16_000)["Loudness_sma3"].to_numpy(np.float32)
        assert values[row, 0] == pytest.approx(float(np.median(own)), rel=1e-6)


# -- sentences


def rows(loudness, pitch, voiced=1.0) -> np.ndarray:
    """Values of utterances; the spreads have no influence."""
    loudness = np.asarray(loudness, np.float64)
    found = np.zeros((len(loudness), 6))
    found[:, 0], found[:, 2], found[:, 4] = loudness, pitch, voiced
    return found


def told(values, speakers=None, seconds=None, texts=None, present=None) -> list[str]:
    n = len(values)
    return describe(
        values,
        np.ones(n, bool) if present is None else present,
        speakers or ["Ann"] * n,
        np.ones(n) if seconds is None else seconds,
        texts or ["a few words"] * n,
    )


def crowd(n: int = 60):
    """Utterances of three speakers, some absent, without voice or without text."""
    rng = np.random.default_rng(3)
    values = rows(np.exp(rng.normal(0, 0.5, n)), rng.normal(30, 4, n), rng.random(n) > 0.1)
    speakers = [str(name) for name in rng.choice(["Ann", "Bo", "Cy"], n)]
    texts = ["word " * int(k) for k in rng.integers(0, 9, n)]
    return values, rng.random(n) > 0.1, speakers, rng.uniform(0.5, 4, n), texts


def test_sentences_as_expected():
    values = rows([1, 1, 1, 1, 2, 0.5, 1.15], [30, 30, 30, 30, 36, 30, 28.5])
    seconds = np.array([1, 1, 1, 1, 0.5, 2, 1])
    assert told(values, seconds=seconds) == [
        *["Ann speaks as usual."] * 4,
        "Ann speaks much louder and much faster than usual, with a much higher pitch.",
        "Ann speaks much more quietly and much more slowly than usual.",
        "Ann speaks louder than usual, with a lower pitch.",
    ]
    assert told(rows([1] * 5, [20, 21, 22, 23, 27]))[4] == "Ann speaks with a much higher pitch than usual."
    assert told(rows([1] * 5, [20, 21, 22, 23, 24]))[2:] == [
        "Ann speaks as usual.",
        "Ann speaks as usual.",  # exactly at the threshold
        "Ann speaks with a higher pitch than usual.",
    ]


def test_each_step_has_its_share_of_normal_utterances():
    n = 100_000
    sentences = told(rows(np.ones(n), np.random.default_rng(0).normal(40, 5, n)))
    shares = {
        words: sum(words in sentence for sentence in sentences) / n
        for words in ("a much lower", "a lower", "as usual.", "a higher", "a much higher")
    }
    # Of a normal distribution whose interquartile range is 1.349 deviations: beyond 1.349, and beyond 0.6745.
    assert list(shares.values()) == pytest.approx([0.0887, 0.1613, 0.5, 0.1613, 0.0887], abs=0.01)


def test_sentences_do_not_depend_on_order_or_on_the_recordings_level():
    values, present, speakers, seconds, texts = crowd()
    sentences = describe(values, present, speakers, seconds, texts)
    assert len(set(sentences)) > 20
    order = np.random.default_rng(1).permutation(len(values))
    shuffled = describe(
        values[order], present[order], [speakers[k] for k in order], seconds[order], [texts[k] for k in order]
    )
    assert shuffled == [sentences[k] for k in order]
    for factor in (0.1, 3.7):
        louder = values.copy()
        louder[:, 0] *= factor
        assert describe(louder, present, speakers, seconds, texts) == sentences


def test_one_speaker_does_not_change_anothers_sentences():
    values, present, speakers, seconds, texts = crowd()
    sentences = describe(values, present, speakers, seconds, texts)
    other = np.array([name != "Ann" for name in speakers])
    changed = values.copy()
    changed[other] *= 5
    changed[~present] = np.nan  # nor do absent rows have any influence
    again = describe(changed, present, speakers, seconds, texts)
    assert [again[k] for k in np.flatnonzero(~other)] == [sentences[k] for k in np.flatnonzero(~other)]


def test_differences_that_no_one_hears_are_as_usual():
    assert set(told(rows([0.7] * 5, [31.2] * 5))) == {"Ann speaks as usual."}
    assert set(told(rows([1, 1.01, 1.02, 1.03, 1.04], [30, 30.1, 30.2, 30.3, 30.4]))) == {"Ann speaks as usual."}


def test_utterances_without_a_comparison():
    values, names = rows([1, 2, 1, 3, 1], 30), ["Ann", "Ann", "Bo", "Bo", "Bo"]
    assert told(values, names)[:2] == ["", ""] and told(values, names)[2:] == [
        "Bo speaks as usual.",
        "Bo speaks much louder than usual.",
        "Bo speaks as usual.",
    ]
    absent = np.array([True] * 4 + [False])
    assert told(values, present=absent)[4] == "" and told(values, names, present=absent) == [""] * 5
    # Without voice there is no pitch, without text no rate, and too few of them are not compared.
    mixed = rows([1, 1, 1, 2], [30, 30, 30, 0], [1, 1, 1, 0])
    assert told(mixed, texts=["one", "", "", "!"])[3] == "Ann speaks much louder than usual."
    nothing = rows([0] * 4, [0] * 4, [0] * 4)
    assert told(nothing, texts=[""] * 4) == [""] * 4
    assert (
        told(values, [""] * 5)[3] == "The speaker speaks much louder than usual."
        and describe(np.zeros((0, 6)), np.zeros(0, bool), [], np.zeros(0), []) == []
    )
    with pytest.raises(ValueError, match="do not fit"):
        told(values, ["Ann"] * 4)
