"""What a file says about its own end: a promise, an estimate, or a name that says anything."""

from __future__ import annotations

import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_support import ffmpeg, flash_at, read, tone_at
from test_media_clock import BOTH, SOUND_ALONE, X264

from erc_toolkit.extract.encoders.base import Samples
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process
from erc_toolkit.toolkit.media import MediaError, ffmpeg_binary, media_duration
from erc_toolkit.toolkit.media.containers import read_claim

FASTSTART = {"first.mp4": (*X264, "-c:a", "aac", "-movflags", "+faststart"), "mjpeg.avi": ("-c:v", "mjpeg")}
STATED = {**BOTH, **FASTSTART, **SOUND_ALONE}
# Formats whose index is at the end: without it nothing can be read. NUT says nothing about its length.
UNREADABLE = {"h264_aac.mp4", "b_frames.mp4", "pcm.mov", "a.m4a"}
SILENT = {"aac.nut"}


def make(path, options) -> None:
    if path.name in SOUND_ALONE:
        # Noise does not compress: a file that is cut in half has lost half of its time.
        ffmpeg("-f", "lavfi", "-i", "anoisesrc=a=0.3:s=1:d=8", *options, path)
    else:
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=8", *tone_at(1, 3, 5, 7), *options, path)


def cut(path, keep: float):
    data = path.read_bytes()
    # Not between two packets by accident.
    path.write_bytes(data[: int(len(data) * keep) // 2048 * 2048 + 1001])
    return path


@pytest.mark.parametrize("name", ["a.wav", "pcm.avi", "aac.ts", "mp2.mpg", "a.opus"])
def test_half_of_a_file_is_not_taken_for_a_whole_one(tmp_path, name):
    make(tmp_path / name, STATED[name])
    assert read(tmp_path / name)[0].truncated == ""
    assert read(cut(tmp_path / name, 0.5))[0].truncated.startswith("truncated: ")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", STATED)
def test_part_of_a_file_in_any_container(tmp_path, name, keep):
    make(tmp_path / name, STATED[name])
    whole, _ = read(tmp_path / name, fps=25)
    assert whole.truncated == "" and abs(whole.duration - 8) < 0.1
    cut(tmp_path / name, keep)
    if name in UNREADABLE:
        with pytest.raises(MediaError, match="unreadable file"):
            read(tmp_path / name)
        return
    part, _ = read(tmp_path / name, fps=25)
    assert bool(part.truncated) == (name not in SILENT) and part.duration < 8
    if name in SILENT:
        return
    words = part.truncated.split()
    if "of" in words[:3]:
        assert abs(float(words[3]) - 8) < 0.2 and abs(float(words[1]) - part.duration) < 0.3, part.truncated
    else:
        assert f"{part.duration:.2f} s could be decoded" in part.truncated


def test_estimates_are_no_promise(tmp_path):
    """Quiet, then loud: the bit rate of the beginning says nothing about the rest."""
    source = ("-f", "lavfi", "-i", "anoisesrc=a=0.5:s=1:d=20,volume='0.0001+0.999*gt(t,2)':eval=frame")
    ffmpeg(*source, "-c:a", "aac", tmp_path / "voice.aac")
    ffmpeg(*source, "-c:a", "libmp3lame", "-q:a", 3, "-write_xing", 0, tmp_path / "bare.mp3")
    ffmpeg(*source, "-c:a", "libmp3lame", "-q:a", 3, tmp_path / "xing.mp3")
    for name in ("voice.aac", "bare.mp3", "xing.mp3"):
        media, _ = read(tmp_path / name)
        assert media.truncated == "" and abs(media.duration - 20) < 0.1, name
    assert media_duration(tmp_path / "voice.aac") is None and media_duration(tmp_path / "bare.mp3") is None
    assert abs(media_duration(tmp_path / "xing.mp3") - 20) < 0.1
    assert read(cut(tmp_path / "xing.mp3", 0.5))[0].truncated.endswith("of 20.00 s could be decoded")


def test_subtitles_that_are_longer_than_the_film(tmp_path):
    (tmp_path / "s.srt").write_text("1\n00:00:01,000 --> 00:01:00,000\nThe end.\n")
    ffmpeg(*flash_at(1, lasts=3), *tone_at(1, lasts=3), "-i", tmp_path / "s.srt", *X264, tmp_path / "film.mkv")
    ffmpeg("-i", tmp_path / "film.mkv", "-map", 0, "-c", "copy", "-c:s", "mov_text", tmp_path / "film.mp4")
    for name in ("film.mkv", "film.mp4"):
        media, _ = read(tmp_path / name)
        assert media.truncated == "" and abs(media.duration - 3) < 0.1
        assert media_duration(tmp_path / name) > 59 or name == "film.mp4"


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts", "webm"])
def test_segments_that_begin_late(tmp_path, ending):
    codecs = ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus") if ending == "webm" else X264
    ffmpeg(*flash_at(1), *tone_at(1), *codecs, "-g", 50, "-f", "segment", "-segment_time", 2, tmp_path / f"%d.{ending}")
    parts = sorted(tmp_path.glob(f"*.{ending}"))
    assert len(parts) == 4
    for part in parts:
        media, frames = read(part, fps=25)
        assert media.truncated == "" and abs(media.duration - 2) < 0.15 and frames[0][0] == 0, part.name


@pytest.mark.parametrize("ending", ["mkv", "mp4", "flac"])
def test_names_and_tags_can_say_anything(tmp_path, ending):
    tags = ("title=Duration: 10:00:00.00", "comment=Stream #0:9: Audio: fake", "artist=Output #0\nStream mapping:",
            "DURATION=10:00:00.000000000", "encoder=partial file [error] x")  # fmt: skip
    options = [word for tag in tags for word in ("-metadata", tag, "-metadata:s:a", tag)]
    source = tone_at(1, lasts=2) if ending == "flac" else [*flash_at(1, lasts=2), *tone_at(1, lasts=2), *X264]
    name = f"Duration: 10:00:00.00, Stream #0:1: Video: x.{ending}"
    ffmpeg(*source, *options, f"file:{tmp_path / name}")
    media, _ = read(tmp_path / name)
    assert media.truncated == "" and media.has_audio and media.has_video == (ending != "flac")
    # The opposite: half of a file that calls itself short.
    short = ("-metadata", "title=Duration: 00:00:01.00", "-metadata:s:a", "DURATION=00:00:01.000000000")
    make(tmp_path / f"short.{ending}", (*short, *(("-movflags", "+faststart") if ending == "mp4" else ())))
    assert read(cut(tmp_path / f"short.{ending}", 0.5))[0].truncated


def test_what_is_written_into_a_pipe_has_no_length(tmp_path):
    """A program that writes to a pipe cannot go back and fill in the size."""
    for name, form, options in (
        ("a.wav", "wav", ()),
        ("a.mkv", "matroska", ()),
        ("a.webm", "webm", ("-c:a", "libopus")),
        ("a.flac", "flac", ()),
        ("a.au", "au", ()),
        ("a.flv", "flv", ("-c:a", "aac")),
    ):
        command = [
            ffmpeg_binary(),
            "-v",
            "error",
            "-nostdin",
            *map(str, tone_at(1, lasts=2)),
            *options,
            "-f",
            form,
            "-",
        ]
        (tmp_path / name).write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        media, _ = read(tmp_path / name)
        assert media.truncated == "" and abs(media.duration - 2) < 0.1, name


def test_things_that_were_appended_change_nothing(tmp_path):
    for name in ("a.mp3", "a.wav", "first.mp4", "a.ogg"):
        make(tmp_path / name, STATED[name])
        with (tmp_path / name).open("ab") as file:
            file.write(b"TAG" + b"some title".ljust(125, b"\0"))
        assert read(tmp_path / name)[0].truncated == "", name


def test_a_sentence_file_that_is_shorter_than_its_turn(tmp_path):
    """IEMOCAP's sentence files: whoever cut one short may have corrected its header."""
    ffmpeg(*tone_at(0, lasts=1), tmp_path / "a.wav")
    request = MediaRequest({"audio": Samples(rate=16_000)}, "haar", None, 5, 0.1, 100, 60)
    spans = [Span(0, None, None, None, ["audio"], lasts=1.02), Span(1, None, None, None, ["audio"], lasts=2.1)]
    found = process((0, Task(tmp_path / "a.wav", spans), request)).utterances
    assert [one.taken["audio"].reason for one in found] == ["", "truncated: 1.00 of 2.10 s could be decoded"]


HEADS = [
    b"RIFF\xff\0\0\0WAVEfmt ",
    b"RIFF\xff\0\0\0AVI LIST",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"FORM\0\0\1\0AIFFCOMM",
    b"caff\0\1\0\0desc",
    b".snd\0\0\0\x20",
    b"\0\0\0\x20ftypisom",
    b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff",
    b"OggS\0\2",
    b"FLV\1\5\0\0\0\x09\0\0\0\0",
    b"\0\0\1\xba",
    (b"G" + bytes(187)) * 4,
    b"ID3\4\0\0\x7f\x7f\x7f\x7f",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    bytes.fromhex("726966662e91cf11a5d628db04c10000"),
]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(HEADS))
def test_damaged_structure_is_read_without_an_error(tmp_path_factory, seed, head):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(head + random.Random(seed).randbytes(seed % 700))
    read_claim(path)


@pytest.mark.parametrize("name", ["first.mp4", "aac.mkv"])
def test_space_that_a_download_reserved_is_not_content(tmp_path, name):
    """The file has its full size, and its second half is zeros."""
    make(tmp_path / name, STATED[name])
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (tmp_path / name).write_bytes(data)
    media, _ = read(tmp_path / name)
    assert media.truncated.startswith("truncated: ") and " of 8.0" in media.truncated
