"""Sound and picture lie on one clock that begins with the file, in every container."""

from __future__ import annotations

import subprocess
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_support import ffmpeg, flash_at, flashes, read, tone_at, tones

from erc_toolkit.extract.encoders.base import AudioSpan, Frames, FrameSeries, Samples
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process
from erc_toolkit.toolkit.media import SAMPLE_RATE, ffmpeg_binary
from erc_toolkit.toolkit.media.clock import AudioClock

FRAME, SOUND = 1 / 25 + 1e-6, 0.005

X264 = ("-c:v", "libx264", "-preset", "ultrafast")
BOTH = {
    "h264_aac.mp4": (*X264, "-c:a", "aac"),
    "b_frames.mp4": ("-c:v", "libx264", "-bf", 2, "-c:a", "aac"),
    "fragmented.mp4": (*X264, "-c:a", "aac", "-movflags", "frag_keyframe+delay_moov"),
    "pcm.mov": (*X264, "-c:a", "pcm_s16le"),
    "aac.mkv": (*X264, "-c:a", "aac"),
    "mp3.mkv": (*X264, "-c:a", "libmp3lame"),
    "opus.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "vorbis.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"),
    "pcm.avi": ("-c:v", "mpeg4", "-c:a", "pcm_s16le"),
    "aac.ts": (*X264, "-c:a", "aac"),
    "mp2.ts": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "mp2.mpg": ("-c:v", "mpeg1video", "-c:a", "mp2"),
    "ac3.vob": ("-c:v", "mpeg2video", "-c:a", "ac3"),
    "mp3.flv": ("-c:v", "flv1", "-c:a", "libmp3lame", "-ar", 44_100),
    "aac.flv": (*X264, "-c:a", "aac"),
    "wma.wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
    "vorbis.ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
    "pcm.mxf": ("-c:v", "mpeg2video", "-c:a", "pcm_s16le"),
    "aac.nut": ("-c:v", "mpeg4", "-c:a", "aac"),
}
SOUND_ALONE = {
    "a.wav": (),
    "a.w64": (),
    "a.flac": (),
    "a.mp3": ("-c:a", "libmp3lame"),
    "a.m4a": ("-c:a", "aac"),
    "a.ogg": ("-c:a", "libvorbis"),
    "a.opus": ("-c:a", "libopus"),
    "a.aiff": (),
    "a.au": (),
    "a.caf": ("-c:a", "pcm_s16le"),
    "a.mka": ("-c:a", "libopus"),
}


def near(found: list[float], expected: list[float], within: float) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= within for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["h264_aac.mp4", "opus.webm", "aac.ts", "mp3.flv"])
def test_a_click_is_where_it_was_recorded(tmp_path, name):
    ffmpeg(*flash_at(5), *tone_at(5), *BOTH[name], tmp_path / name)
    media, frames = read(tmp_path / name, fps=25)
    assert near(tones(media.samples), [5], SOUND) and near(flashes(frames), [5], FRAME) and not media.truncated


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BOTH, *SOUND_ALONE])
def test_a_click_in_any_container(tmp_path, name):
    if name in SOUND_ALONE:
        ffmpeg(*tone_at(5), *SOUND_ALONE[name], tmp_path / name)
    else:
        ffmpeg(*flash_at(5), *tone_at(5), *BOTH[name], tmp_path / name)
    media, frames = read(tmp_path / name, fps=25)
    assert near(tones(media.samples), [5], SOUND) and not media.truncated
    assert near(flashes(frames), [] if name in SOUND_ALONE else [5], FRAME)
    assert abs(media.duration - 8) < 0.07


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in (*BOTH, *SOUND_ALONE) if name != "pcm.mxf"],  # MXF holds no sound without a picture
)
def test_samples_are_those_of_the_ffmpeg_program_with_the_clock_filter(tmp_path, name):
    """ffmpeg's own filter for it corrects jumps of more than 0.1 s only, and counts priming as sound."""
    ffmpeg(*tone_at(1, 5), *(BOTH | SOUND_ALONE)[name], "-vn", tmp_path / name)
    command = [ffmpeg_binary(), "-v", "error", "-i", tmp_path / name, "-af", "aresample=async=1:first_pts=0"]
    output = [*command, "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    expected = np.frombuffer(subprocess.run(output, capture_output=True, check=True).stdout, "<f4")
    media, _ = read(tmp_path / name, fps=None)
    common = min(len(expected), len(media.samples))
    assert abs(len(expected) - len(media.samples)) <= 0.05 * SAMPLE_RATE
    # The filter of the program interpolates less than a sample where a stamp is rounded to milliseconds.
    assert near(tones(media.samples), tones(expected[:common]), 0.001)


LATE = {
    "late.mp4": (*X264, "-c:a", "aac"),
    "late.mov": (*X264, "-c:a", "pcm_s16le"),
    "late.mkv": (*X264, "-c:a", "aac"),
    "late.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "late.ts": (*X264, "-c:a", "aac"),
    "late.flv": (*X264, "-c:a", "aac"),
}


@pytest.mark.parametrize("name", ["late.mp4", "late.webm", pytest.param("late.mov", marks=pytest.mark.slow)]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("late.mkv", "late.ts", "late.flv")])  # fmt: skip
def test_sound_that_begins_after_the_picture(tmp_path, name):
    ffmpeg(*flash_at(5), "-itsoffset", 2, *tone_at(3, lasts=6), *LATE[name], tmp_path / name)
    media, frames = read(tmp_path / name, fps=25)
    assert near(tones(media.samples), [5], SOUND) and near(flashes(frames), [5], FRAME)
    assert not media.truncated and abs(len(media.samples) / SAMPLE_RATE - 8) < 0.06
    assert np.abs(media.samples[: int(1.9 * SAMPLE_RATE)]).max() == 0


@pytest.mark.parametrize("name", ["late.mkv", pytest.param("late.mp4", marks=pytest.mark.slow)])
def test_picture_that_begins_after_the_sound(tmp_path, name):
    ffmpeg(*tone_at(5), "-itsoffset", 2, *flash_at(3, lasts=6), *LATE[name], "-map", 0, "-map", 1, tmp_path / name)
    media, frames = read(tmp_path / name, fps=25)
    assert near(tones(media.samples), [5], SOUND) and near(flashes(frames), [5], FRAME) and not media.truncated
    # No frame is invented for the time before; one that is merely late by some frames stands for it.
    assert 1.8 < frames[0][0] <= 2


@pytest.mark.parametrize("options", [("-c:a", "pcm_s16le"), ("-c:a", "libopus")])
def test_a_gap_in_the_sound_is_silent(tmp_path, options):
    gap = ("-af", "asetpts='PTS+if(gte(T,3),2,0)/TB'")
    ffmpeg(*flash_at(1, 6), *tone_at(1, 4, lasts=6), *gap, *X264, *options, tmp_path / "gap.mkv")
    media, frames = read(tmp_path / "gap.mkv", fps=25)
    assert near(tones(media.samples), [1, 6], SOUND) and near(flashes(frames), [1, 6], FRAME)


def test_many_small_gaps_are_each_filled(tmp_path):
    """Lost packets of a call: 20 ms every second, far less than what ffmpeg's filter corrects."""
    gaps = ("-af", "asetnsamples=480,asetpts='PTS+0.02*floor(T)/TB'")
    ffmpeg(*tone_at(1.5, 25.5, lasts=30), *gaps, "-c:a", "pcm_s16le", tmp_path / "call.mkv")
    media, _ = read(tmp_path / "call.mkv", fps=None)
    assert near(tones(media.samples), [1.52, 26.0], SOUND)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts"])
def test_a_part_cut_out_without_encoding(tmp_path, name):
    """Sound and picture begin at different moments before the cut; MP4 hides that by its edit list."""
    whole = tmp_path / f"whole{(tmp_path / name).suffix}"
    ffmpeg(*flash_at(6), *tone_at(6), *X264, "-g", 50, "-c:a", "aac", whole)
    ffmpeg("-ss", 3.3, "-i", whole, "-c", "copy", tmp_path / name)
    media, frames = read(tmp_path / name, fps=25)
    heard, seen = tones(media.samples), flashes(frames)
    assert len(heard) == len(seen) == 1 and abs(heard[0] - seen[0]) <= FRAME and not media.truncated
    if name == "cut.mp4":
        assert near(heard, [2.7], FRAME)


def test_recordings_that_were_joined_byte_by_byte(tmp_path):
    """The stamps of MPEG's streams start again where the second recording begins."""
    ffmpeg(*flash_at(1, lasts=4), *tone_at(1, lasts=4), *X264, "-c:a", "aac", tmp_path / "one.ts")
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    media, frames = read(tmp_path / "two.ts", fps=25)
    assert near(tones(media.samples), [1, 5], 0.03) and near(flashes(frames), [1, 5], FRAME)


def test_one_absurd_stamp_does_not_fill_the_memory(tmp_path):
    from erc_toolkit.toolkit.media import MediaError

    for seconds, reason in ((31_536_000, "longer than 8 hours"), (4000, "gaps of more than an hour")):
        later = ("-af", f"asetpts='PTS+if(gte(T,3),{seconds},0)/TB'")
        ffmpeg(*tone_at(1, lasts=6), *later, "-c:a", "pcm_s16le", tmp_path / "later.mkv")
        with pytest.raises(MediaError, match=reason):
            read(tmp_path / "later.mkv", fps=None)


@pytest.mark.parametrize("rate", [1, 999, 620_756_800])
def test_a_header_that_claims_one_sample_per_second(tmp_path, rate):
    from erc_toolkit.toolkit.media import MediaError

    ffmpeg(*tone_at(1), "-c:a", "pcm_s16le", tmp_path / "a.wav")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(MediaError, match=f"a sampling rate of {rate} Hz"):
        read(tmp_path / "a.wav", fps=None)


def test_a_rate_that_changes_in_the_middle(tmp_path):
    for name, rate in (("a", 48_000), ("b", 32_000)):
        ffmpeg(*tone_at(1, lasts=4, rate=rate), "-c:a", "mp2", tmp_path / f"{name}.mp2")
    (tmp_path / "both.mp2").write_bytes((tmp_path / "a.mp2").read_bytes() + (tmp_path / "b.mp2").read_bytes())
    media, _ = read(tmp_path / "both.mp2", fps=None, own_rate=True)
    assert near(tones(media.samples), [1, 5], 0.06)
    assert media.rate == 48_000 and abs(len(media.own_samples) - 3 * len(media.samples)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts", "long.avi"])
def test_after_half_an_hour(tmp_path, name):
    """Also where the stamps say that the sound ran slower than its rate, by 0.9 s in half an hour."""
    codecs = ("-c:v", "mpeg4", "-c:a", "pcm_s16le") if name == "long.avi" else (*X264, "-c:a", "aac")
    sources = *flash_at(5, 1795, lasts=1800, rate=5, length=1), *tone_at(5, 1795, lasts=1800, rate=16_000)
    ffmpeg(*sources, *codecs, tmp_path / name)
    media, frames = read(tmp_path / name, fps=5)
    assert near(tones(media.samples), [5, 1795], SOUND) and near(flashes(frames), [5, 1795], 1 / 5 + 1e-6)
    if name == "long.mkv":
        ffmpeg(*sources, *codecs, "-af", "asetpts=PTS*1.0005", tmp_path / "slow.mkv")
        media, frames = read(tmp_path / "slow.mkv", fps=5)
        assert near(tones(media.samples), [5 * 1.0005, 1795 * 1.0005], SOUND + 0.001)


def test_spans_see_the_same_clock(tmp_path):
    """What extractors get: the span with the voice has the voice, and the picture of that time."""
    ffmpeg(*flash_at(5), "-itsoffset", 2, *tone_at(3, lasts=6), *LATE["late.mp4"], tmp_path / "a.mp4")
    request = MediaRequest({"audio": Samples(rate=48_000), "visual": Frames(8, 8)}, "haar", None, 10, 0.1, 100, 60)
    times = [(0.5, 1.5), (5.1, 5.3), (3, 4), (7, 7.9)]
    spans = [Span(i, *between, None, ["audio", "visual"]) for i, between in enumerate(times)]
    found = process((0, Task(tmp_path / "a.mp4", spans), request)).utterances
    reasons = [one.taken["audio"].reason for one in found]
    assert [bool(reason) for reason in reasons] == [True, False, True, True], reasons
    heard = found[1].taken["audio"].given
    assert "silent audio" in reasons[0] and isinstance(heard, AudioSpan)
    assert heard.rate == 48_000 and abs(len(heard.samples) - 9600) <= 1
    shown = [one.taken["visual"].given for one in found]
    assert [isinstance(one, FrameSeries) and one.images.mean() > 120 for one in shown] == [False, True, False, False]


# -- the clock itself, against a slow and obvious one


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 40), st.integers(1, 30)), min_size=1, max_size=30),
    st.sampled_from([-50, 0, 300]),
)
def test_exact_stamps_place_every_sample(steps, first):
    """Blocks whose stamps are exact, with gaps and overlaps that last for many blocks."""
    rate, blocks, at = 1000, [], first
    value = 1.0
    for gap, count in steps:
        at += 10 * gap  # less would be within the rounding of stamps
        for _ in range(count + 2 * 12):  # a jump counts if it lasts
            samples = np.arange(value, value + 10, dtype=np.float32)
            blocks.append((at, samples))
            value, at = value + 10, at + 10
    expected: list[float] = []
    for start, samples in blocks:
        if start > len(expected):
            expected += [0.0] * (start - len(expected))
        expected += samples[max(0, len(expected) - start) :].tolist() if start < len(expected) else samples.tolist()
    clock = AudioClock(rate, 3600)
    placed = [part for start, samples in blocks for part in clock.add(Fraction(start, rate), samples)]
    found = np.concatenate([*placed, *clock.end()]).tolist()
    assert found == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.003, 0.003), min_size=1, max_size=200))
def test_rounded_stamps_change_nothing(jitter):
    clock, at, sent = AudioClock(1000, 3600), 0, []
    placed = []
    for late in jitter:
        sent.append(np.arange(at, at + 20, dtype=np.float32))
        placed += clock.add(Fraction(at, 1000) + Fraction(late), sent[-1])
        at += 20
    assert np.array_equal(np.concatenate([*placed, *clock.end()]), np.concatenate(sent))


@given(st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_blocks_that_are_placed_at_once_are_where_all_stamps_would_place_them(rng):
    rate, blocks = rng.choice([1000, 8000]), []
    at = rng.choice([Fraction(0), Fraction(1, 10), Fraction(-1, 20)])
    wrong = rng.choice([0, 0.1, 0.5])
    for i in range(rng.randrange(1, 60)):
        off = Fraction(rng.choice([1, -3, 5, 40, -40]), 1000) if rng.random() < wrong else Fraction(0)
        if rng.random() < 0.03:
            at += Fraction(rng.choice([1, -1, 3, 30]), rng.choice([2, 10, 50]))
        samples = np.arange(rng.choice([10, 20, 20, 37]), dtype=np.float32) + 100 * i
        blocks.append((None if rng.random() < 0.02 else at + off, samples))
        at += Fraction(len(samples), rate)
    last, found = rng.choice([None, 5]), []
    for waits in (True, False):
        clock = AudioClock(rate, 100.0)
        if waits:
            clock._is_certain = lambda: False
        placed = [part for time, samples in blocks for part in clock.add(time, samples.copy())]
        soon = sum(map(len, placed))
        placed += clock.end(last)
        found.append((np.concatenate([*placed, np.zeros(0)]).tolist(), clock.written, clock.has_gap, soon))
    assert found[0][:3] == found[1][:3] and found[0][3] <= found[1][3]


@pytest.mark.parametrize("early", [1024, 1500])
def test_rounded_stamps_change_nothing_after_sound_before_the_beginning(early):
    """As in MPEG-TS at 44.1 kHz, whose stamps are counts of 1/90000 s: within a packet FFmpeg adds up the durations of
    its blocks, each rounded down."""
    clock, sent, placed = AudioClock(44_100, 3600), [], []
    for i in range(100):
        sent.append(np.arange(1024, dtype=np.float32) + 1024 * i)
        first = i // 10 * 10
        ticks = round(Fraction(1024 * first - early, 44_100) * 90_000) + 2089 * (i - first)
        placed += clock.add(Fraction(ticks, 90_000), sent[-1])
    found = np.concatenate([*placed, *clock.end()])
    assert np.array_equal(found, np.concatenate(sent)[-len(found) :]) and abs(len(found) - (102_400 - early)) <= 1
