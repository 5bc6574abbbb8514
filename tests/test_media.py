"""Decoding: compared with ffmpeg's own output, and invalid files."""

from __future__ import annotations

import os
import wave

import numpy as np
import pytest
from media_support import ffmpeg, read

from erc_toolkit.toolkit.media import FULL_SCALE, SAMPLE_RATE, MediaError

MOVING = "testsrc=size=160x120:rate=25:duration=2"
TONE = "sine=frequency=440:duration=2:sample_rate=48000"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", MOVING, "-f", "lavfi", "-i", TONE, "-ac", 2, "-movflags", "+faststart", path)
    return path


def test_samples_are_those_of_ffmpegs_wav_file(clip, tmp_path):
    media, frames = read(clip)
    ffmpeg("-i", clip, "-ac", 1, "-ar", SAMPLE_RATE, "-c:a", "pcm_s16le", tmp_path / "plain.wav")
    with wave.open(str(tmp_path / "plain.wav")) as plain:
        expected = np.frombuffer(plain.readframes(plain.getnframes()), "<i2") / 32768
    assert media.samples.dtype == np.float32 and len(media.samples) == len(expected)
    assert np.abs(media.samples - expected).max() <= 1 / 32768
    assert media.has_audio and media.has_video and abs(media.duration - 2) < 0.1 and not media.truncated


def test_frames_come_at_their_times(clip, tmp_path):
    _, frames = read(clip, audio=False, fps=5)
    assert [round(t, 6) for t, _ in frames] == [round(k / 5, 6) for k in range(10)]
    ffmpeg("-i", clip, tmp_path / "%03d.png")
    import cv2

    for k, (_, frame) in enumerate(frames):
        plain = cv2.cvtColor(cv2.imread(str(tmp_path / f"{5 * k + 1:03d}.png")), cv2.COLOR_BGR2RGB)
        assert frame.shape == (120, 160, 3) and np.abs(frame.astype(int) - plain).mean() < 1


def test_full_scale_is_clipped_below_one(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=200:duration=1,volume=20", "-c:a", "pcm_f32le", tmp_path / "loud.wav")
    media, _ = read(tmp_path / "loud.wav")
    assert media.samples.max() == np.float32(FULL_SCALE) and media.samples.min() == -1


def test_centre_channel_of_5_1_is_decoded(tmp_path):
    only_centre = "[0]pan=5.1|FC=c0[a]"
    ffmpeg(
        "-f", "lavfi", "-i", TONE, "-filter_complex", only_centre, "-map", "[a]", "-c:a", "aac", tmp_path / "six.mp4"
    )
    media, _ = read(tmp_path / "six.mp4", fps=None)
    assert np.abs(media.samples).max() > 0.01


def test_missing_tracks(tmp_path, clip):
    ffmpeg("-i", clip, "-an", "-c", "copy", tmp_path / "video_only.mp4")
    media, frames = read(tmp_path / "video_only.mp4")
    assert (media.has_audio, media.has_video, media.samples, len(frames)) == (False, True, None, 10)
    ffmpeg("-i", clip, "-vn", "-c", "copy", tmp_path / "audio_only.mp4")
    media, frames = read(tmp_path / "audio_only.mp4")
    assert (media.has_audio, media.has_video, len(frames)) == (True, False, 0) and len(media.samples) > 30000
    media, frames = read(tmp_path / "video_only.mp4", fps=None)
    assert not media.has_audio and media.samples is None


def test_cover_art_is_not_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:size=64x64:duration=0.04", "-frames:v", 1, tmp_path / "cover.png")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        TONE,
        "-i",
        tmp_path / "cover.png",
        "-map",
        0,
        "-map",
        1,
        "-c:v",
        "png",
        "-disposition:v",
        "attached_pic",
        tmp_path / "song.m4a",
    )
    media, frames = read(tmp_path / "song.m4a")
    assert media.has_audio and not media.has_video and frames == []


def reason(path, **options) -> str:
    with pytest.raises(MediaError) as error:
        read(path, **options)
    return str(error.value)


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.85, 0.95])
def test_truncated_file(tmp_path, clip, kept):
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * kept)])
    media, _ = read(tmp_path / "cut.mp4")
    assert media.truncated.startswith("truncated: ") and media.duration < 2.1


def test_a_track_shorter_than_its_container_is_not_truncated(tmp_path, clip):
    ffmpeg(
        "-i",
        clip,
        "-f",
        "lavfi",
        "-i",
        "sine=duration=0.5",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        tmp_path / "short.mp4",
    )
    for options in ({}, {"fps": None}):
        media, _ = read(tmp_path / "short.mp4", **options)
        assert not media.truncated and 0.4 < len(media.samples) / SAMPLE_RATE < 0.7


def test_files_that_are_not_media(tmp_path, clip):
    assert reason(tmp_path / "none.mp4") == "missing file"
    assert reason(clip / "below.mp4") == "missing file"
    assert reason(tmp_path) == "not a regular file"
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty file"
    (tmp_path / "text.mp4").write_text("hello " * 100)
    assert reason(tmp_path / "text.mp4").startswith("unreadable file: ")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert reason(tmp_path / "loop.mp4").startswith("unreadable file: ")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "not a regular file"


def test_a_playlist_opens_no_other_file(tmp_path, clip):
    """ffmpeg would open any file that a playlist names, whatever the suffix of the playlist itself."""
    for content in (f"#EXTM3U\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile '{clip}'\n"):
        (tmp_path / "list.m3u8").write_text(content)
        assert reason(tmp_path / "list.m3u8").startswith("unreadable file: ")


def test_a_name_is_never_an_option_or_a_protocol(tmp_path, clip):
    for name in ("-y.mp4", "concat:a|b.mp4", "pipe:0.mp4", "%03d.mp4", "naïve – ü.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
        media, frames = read(tmp_path / name)
        assert len(frames) == 10, name


def test_time_limit(clip):
    assert "0 s" in reason(clip, time_limit=0.0)


def test_any_number_of_threads_gives_the_same_frames(clip):
    (_, one), (_, four) = read(clip), read(clip, threads=4)
    assert [time for time, _ in one] == [time for time, _ in four]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, four, strict=True))


def test_a_sphere_file_of_a_speech_corpus(tmp_path):
    samples = (10_000 * np.sin(np.arange(8000) / 9)).astype("<i2")
    fields = ("sample_count -i 8000", "sample_n_bytes -i 2", "channel_count -i 1", "sample_byte_format -s2 01",
              "sample_rate -i 8000", "sample_coding -s3 pcm", "end_head")  # fmt: skip
    header = "NIST_1A\n   1024\n" + "".join(f"{field}\n" for field in fields)
    (tmp_path / "a.sph").write_bytes(header.encode().ljust(1024) + samples.tobytes())
    media, _ = read(tmp_path / "a.sph", own_rate=True)
    assert media.rate == 8000 and np.array_equal(media.own_samples, samples / 32768)


def test_unreadable_files_are_told_what_they_are(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert reason(tmp_path / "a.mp4").startswith("unreadable file: a Git LFS pointer")
    (tmp_path / "b.mp4").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    assert reason(tmp_path / "b.mp4").startswith("unreadable file: an HTML page")
