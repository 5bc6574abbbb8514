"""The turns that `--live` finds in a stream."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transcribe_support import RATE, Scripted, in_parts, tones

from erc_toolkit.extract.diarization.live import LONGEST_VOICE_S, LivePeople, LiveTurns
from erc_toolkit.toolkit.media.streamed import KeptSound, StreamedAudio

PARTS = [("low", 1.4), ("", 0.8), ("high", 2.0), ("", 0.7), ("low", 0.9), ("", 0.9), ("high", 1.1), ("", 0.4)]


@given(sizes=st.lists(st.integers(0, 60_000), max_size=30))
@settings(max_examples=15, deadline=None)
def test_the_division_of_the_stream_does_not_matter(sizes):
    data = pcm(tones(PARTS))
    whole, parts = (found_in(in_parts(data, one)) for one in ([], sizes))
    assert whole == parts and len(whole) == 4


def pcm(samples: np.ndarray) -> bytes:
    """With a little noise, so that no sample is like another."""
    noise = 0.002 * np.random.default_rng(1).standard_normal(len(samples))
    return (np.clip(samples + noise, -1, 1) * 32767).astype("<i2").tobytes()


def found_in(parts: Iterable[bytes], audio: StreamedAudio | None = None) -> list:
    """The turns that the scripted models find."""
    audio, sound = audio or StreamedAudio(), KeptSound()
    turns = LiveTurns(Scripted().models(), sound)
    found = []
    for part in parts:
        for first in range(0, len(part), 3001):
            sound.add(audio.add(part[first : first + 3001])[1])
            found += turns.advance()
            sound.drop(turns.needed)
    sound.add(audio.end()[1])
    return [*found, *turns.end()]


def test_voices_are_recognised_in_their_gaps_already_and_turns_are_the_same(monkeypatch):
    """Ahead of the end of the pause; a voice that goes on after the gap is recognised as a whole."""
    parts = [("low", 1.2), ("", 0.3), ("low", 0.9), ("", 0.8), ("high", 1.5), ("", 0.3), ("low", 1.3), ("", 0.7)]
    data = pcm(tones(parts))
    loader = Scripted()
    sound, audio, begun, found = KeptSound(), StreamedAudio(RATE), [], []
    finder = LiveTurns(loader.models(), sound)
    submit = finder._ahead._pool.submit

    def noted(*given):
        begun.append((sound.end / RATE, given[2]))
        return submit(*given)

    monkeypatch.setattr(finder._ahead._pool, "submit", noted)
    for first in range(0, len(data), 640):
        sound.add(audio.add(data[first : first + 640])[1])
        found += [(turn, sound.end / RATE) for turn in finder.advance()]
        sound.drop(finder.needed)
    assert not finder.end()
    # The first gap's was for nothing; then a pause, a gap before another voice, a pause.
    ends = [1.2, 2.4, 4.7, 6.3]
    assert [round(at, 1) for at, _ in begun] == [round(end + 0.3, 1) for end in ends]
    assert all(0.4 < at - turn.end < 1.5 for turn, at in found) and len(found) == 3
    monkeypatch.setattr("erc_toolkit.extract.diarization.live._AHEAD", -1)
    assert [spoken(turn) for turn, _ in found] == [spoken(turn) for turn in found_in([data], StreamedAudio(RATE))]


def spoken(turn) -> tuple:
    """What is in a turn, but for the words' texts, in which the scripted recogniser counts its calls."""
    return turn.start, turn.end, turn.speaker, turn.speaker_confidence, [(w.start, w.end) for w in turn.words]


def test_people_are_recognised_again_and_short_voices_are_nobodys():
    people, eye = LivePeople(0.3), np.eye(4, dtype=np.float32)

    def speaks(direction: int, seconds: float, at: float) -> int:
        windows = [(at + 0.75 * i, at + 0.75 * i + min(1.5, seconds)) for i in range(max(1, round(seconds / 0.75) - 1))]
        (one,) = people.runs([(at, at + seconds)], windows, np.stack([eye[direction]] * len(windows)))
        return one.speaker

    assert [speaks(k, 3.0, 10.0 * i) for i, k in enumerate([2, 0, 2, 1, 0])] == [0, 1, 0, 2, 1]
    assert speaks(3, 0.6, 60.0) in (0, 1, 2) and len(people) == 3  # too short to be somebody new
    assert people.runs([(70.0, 70.3)], [], np.zeros((0, 0), np.float32))[0].speaker in (0, 1, 2)
    few = LivePeople(0.3, most=1)
    for k in (0, 1):
        few.runs([(0.0, 1.5)], [(0.0, 1.5)], eye[k : k + 1])
    assert len(few) == 1


def test_a_turn_ends_where_somebody_else_speaks_after_a_short_gap():
    parts = [("low", 1.5), ("", 0.3), ("high", 1.2), ("", 0.3), ("high", 1.3), ("", 0.3), ("low", 0.6), ("", 0.3)]
    sound, found = KeptSound(), []
    finder = LiveTurns(Scripted().models(), sound)
    for samples in np.array_split(tones([*parts, ("top", 2.0)]), 100):
        sound.add(samples)
        found += [(turn, sound.end / RATE - turn.end) for turn in finder.advance()]
        sound.drop(finder.needed)
    assert [(t.speaker, round(t.end, 1)) for t, _ in found] == [
        ("speaker_1", 1.5),
        ("speaker_2", 4.6),
        ("speaker_1", 5.5),
    ]
    assert all(after < 1.5 for _, after in found)  # seconds of the stream
    (last,) = finder.end()
    assert last.speaker == "speaker_3"


@pytest.mark.parametrize("minutes", [1, 3])
def test_the_audio_of_a_voice_without_a_pause_is_bounded(minutes):
    sound = KeptSound()
    finder = LiveTurns(Scripted().models(), sound)
    part, found = tones([("low", 5.0)]), []
    for _ in range(12 * minutes):
        sound.add(part)
        found += finder.advance()
        sound.drop(finder.needed)
    assert sound.most / RATE < LONGEST_VOICE_S + 7
    found += finder.end()
    assert all(turn.end - turn.start <= LONGEST_VOICE_S + 0.1 for turn in found)
    assert sum(turn.end - turn.start for turn in found) == pytest.approx(60 * minutes, abs=0.5)
