"""Defective and unusual input: one extraction of a table of files, with a reason or a feature for each.

docs/reference/inputs.md documents the behaviour that is tested here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from media_support import ffmpeg

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.clips import write_clip
from erc_toolkit.toolkit.store import FeatureStore

SECONDS, FPS = 2, 15


def tone(seconds: float = SECONDS, rate: int = 48_000, peak: float = 0.3) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * 180 * t) * (0.7 + 0.3 * np.sin(9 * t))).astype(np.float32)


class Maker:
    """Writes the table's files to a folder; most of them are derived from `face`, an intact clip of a talking face."""

    def __init__(self, root: Path):
        from erc_toolkit.toolkit.demo.faces import render
        from erc_toolkit.toolkit.demo.looks import speaker_look
        from erc_toolkit.toolkit.demo.script import SPEAKERS

        self.root = root
        self.face = root / "fine.mp4"
        loudness = np.abs(np.sin(np.arange(SECONDS * FPS)))
        frames, _ = render(speaker_look(0, SPEAKERS[0]), "neutral", loudness, np.random.default_rng(0))
        write_clip(self.face, frames, tone(), fps=FPS)

    def again(self, name: str, *options, inputs=()) -> None:
        """The face clip, converted by ffmpeg with other options."""
        ffmpeg("-i", self.face, *inputs, *options, self.root / name)

    def cut(self, name: str, source: Path, keep: float) -> None:
        data = source.read_bytes()
        (self.root / name).write_bytes(data[: int(keep * len(data))])

    def make(self) -> None:
        """All files, in the order of `FILES`."""
        root, again = self.root, self.again
        again("first.mp4", "-c", "copy", "-movflags", "+faststart")
        self.cut("cut_header.mp4", self.face, 0.02)
        self.cut("cut_index_at_end.mp4", self.face, 0.9)
        self.cut("cut_index_at_start.mp4", root / "first.mp4", 0.5)
        again("whole.mkv", "-c", "copy")
        self.cut("cut.mkv", root / "whole.mkv", 0.6)
        (root / "zero.mp4").write_bytes(b"")
        (root / "text.mp4").write_text("this is no video\n" * 100)
        (root / "zeros.mp4").write_bytes(bytes(50_000))
        (root / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
        again("picture.png", "-frames:v", 1, "-update", 1)
        (root / "picture.png").rename(root / "picture.mp4")
        (root / "fine.txt").write_bytes(self.face.read_bytes())
        again("mpeg4.avi", "-c:v", "mpeg4", "-c:a", "pcm_s16le")
        again("vp8.webm", "-c:v", "libvpx", "-b:v", "1M", "-c:a", "libvorbis")
        again("transport.ts", "-c:v", "mpeg2video", "-b:v", "2M", "-c:a", "mp2")
        again("animation.gif", "-t", 0.5)
        again("no_audio.mp4", "-an", "-c:v", "copy")
        again("no_video.m4a", "-vn", "-c:a", "copy")
        again(
            "variable_rate.mkv",
            "-vf",
            "select='lt(mod(n,7),3)'",
            "-fps_mode",
            "vfr",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
        )
        again("turned_raw.mp4", "-vf", "transpose=1", "-c:v", "libx264", "-preset", "ultrafast")
        ffmpeg("-display_rotation", 90, "-i", root / "turned_raw.mp4", "-c", "copy", root / "rotated.mp4")
        again("one_frame.mkv", "-frames:v", 1, "-c:v", "libx264")
        again("four_k.mkv", "-t", 0.6, "-vf", "scale=3840:2160", "-r", 5, "-c:v", "libx264", "-preset", "ultrafast")
        again("odd_size.mkv", "-vf", "scale=319:239", "-c:v", "ffv1")
        again("two_pixels.mkv", "-vf", "scale=2:2", "-c:v", "ffv1")
        again("grey.mkv", "-pix_fmt", "gray", "-c:v", "ffv1")
        again("ten_bit.mkv", "-pix_fmt", "yuv420p10le", "-c:v", "ffv1")
        again("alpha.mkv", "-pix_fmt", "bgra", "-c:v", "ffv1")
        again("wide_pixels.mkv", "-vf", "scale=160:240,setsar=2", "-c:v", "ffv1")
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            f"color=black:s=64x48:r=15:d={SECONDS}",
            "-i",
            self.face,
            "-map",
            "1:v",
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "1:a",
            "-c:v",
            "ffv1",
            "-c:a",
            "pcm_s16le",
            root / "two_of_each.mkv",
        )
        ffmpeg("-i", self.face, "-frames:v", 1, "-update", 1, root / "cover.jpg")
        ffmpeg(
            "-i",
            root / "no_video.m4a",
            "-i",
            root / "cover.jpg",
            "-map",
            0,
            "-map",
            1,
            "-c",
            "copy",
            "-disposition:v:0",
            "attached_pic",
            root / "cover_art.m4a",
        )
        (root / "words.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
        ffmpeg(
            "-i",
            self.face,
            "-i",
            root / "words.srt",
            "-map",
            0,
            "-map",
            1,
            "-c",
            "copy",
            "-c:s",
            "srt",
            root / "subtitled.mkv",
        )
        damaged = bytearray((root / "first.mp4").read_bytes())
        middle = len(damaged) // 2
        damaged[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
        (root / "damaged_middle.mp4").write_bytes(damaged)
        black = [np.zeros((120, 160, 3), np.uint8)] * 15
        write_clip(root / "black.mp4", black, tone(1))
        grey = [np.full((120, 160, 3), 120, np.uint8)] * 15
        write_clip(root / "faceless.mp4", grey, tone(1))
        self.sounds()
        hour = (
            "-f",
            "lavfi",
            "-i",
            "color=black:s=16x16:r=1:d=3600",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=200:sample_rate=8000:d=3600",
        )
        ffmpeg(*hour, "-c:v", "mpeg4", "-c:a", "pcm_u8", "-f", "matroska", root / "hour.mkv")
        (root / "folder.mp4").mkdir()
        (root / "loop_a.mp4").symlink_to("loop_b.mp4")
        (root / "loop_b.mp4").symlink_to("loop_a.mp4")
        (root / "dangling.mp4").symlink_to("nowhere.mp4")
        os.mkfifo(root / "pipe.mp4")
        (root / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{self.face}\n#EXT-X-ENDLIST\n")
        (root / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{self.face}'\n")
        (root / "list.mp4").write_text("#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
        for name in STRANGE_NAMES:
            (root / name).write_bytes(self.face.read_bytes())

    def sounds(self) -> None:
        """Sound without a picture."""
        root = self.root
        stereo = np.stack([tone(), 0.2 * tone()], 1)
        write_clip(root / "stereo.wav", None, stereo, audio_codec="pcm_s16le")
        write_clip(root / "opposite.wav", None, np.stack([tone(), -tone()], 1), audio_codec="pcm_s16le")
        write_clip(root / "five_one.m4a", None, np.stack([tone() * k / 6 for k in range(1, 7)], 1))
        for rate in (8_000, 11_025, 44_100, 96_000):
            write_clip(root / f"rate{rate}.wav", None, tone(rate=rate), sample_rate=rate, audio_codec="pcm_s16le")
        write_clip(root / "eight_bit.wav", None, tone(), audio_codec="pcm_u8")
        write_clip(root / "fifty_ms.wav", None, tone(0.05), audio_codec="pcm_s16le")
        write_clip(root / "one_ms.wav", None, tone(0.001), audio_codec="pcm_s16le")
        write_clip(root / "silence.wav", None, np.zeros(96_000, np.float32), audio_codec="pcm_s16le")
        write_clip(root / "clipping.wav", None, tone(peak=8.0), audio_codec="pcm_f32le")
        write_clip(
            root / "some_nan.wav",
            None,
            np.where(np.arange(96_000) % 1000 < 20, np.nan, tone()),
            audio_codec="pcm_f32le",
        )
        write_clip(root / "all_nan.wav", None, np.full(96_000, np.nan), audio_codec="pcm_f32le")
        (root / "header_alone.wav").write_bytes((root / "stereo.wav").read_bytes()[:44])


STRANGE_NAMES = (
    "-dash.mp4",
    "with space & 'quotes\".mp4",
    "per%cent %03d.mp4",
    "colon:s.mp4",
    "naïve ünïcode 日本.mp4",
    "new\nline.mp4",
    "$(id).mp4",
)
# File -> how its sound ends, how its picture ends: "" for a feature, else how the reason begins.
FILES: dict[str, tuple[str, str]] = {
    "fine.mp4": ("", ""),
    "first.mp4": ("", ""),
    "fine.txt": ("", ""),
    "mpeg4.avi": ("", ""),
    "vp8.webm": ("", ""),
    "transport.ts": ("", ""),
    "whole.mkv": ("", ""),
    "cut_header.mp4": ("unreadable file", "unreadable file"),
    "cut_index_at_end.mp4": ("unreadable file", "unreadable file"),
    "cut_index_at_start.mp4": ("truncated", "truncated"),
    "cut.mkv": ("truncated", "truncated"),
    "zero.mp4": ("empty file", "empty file"),
    "text.mp4": ("unreadable file", "unreadable file"),
    "zeros.mp4": ("unreadable file", "unreadable file"),
    "noise.mp4": ("unreadable file", "unreadable file"),
    "picture.mp4": ("unreadable file", "unreadable file"),
    "animation.gif": ("unreadable file", "unreadable file"),
    "no_audio.mp4": ("no audio track", ""),
    "no_video.m4a": ("", "no video track"),
    "cover_art.m4a": ("", "no video track"),
    "variable_rate.mkv": ("", ""),
    "rotated.mp4": ("", ""),
    "one_frame.mkv": ("", ""),
    "four_k.mkv": ("", ""),
    "odd_size.mkv": ("", ""),
    "two_pixels.mkv": ("", "no face found"),
    "grey.mkv": ("", ""),
    "ten_bit.mkv": ("", ""),
    "alpha.mkv": ("", ""),
    "wide_pixels.mkv": ("", ""),
    "two_of_each.mkv": ("", ""),
    "subtitled.mkv": ("", ""),
    "damaged_middle.mp4": ("", ""),
    "black.mp4": ("", "black frames"),
    "faceless.mp4": ("", "no face found"),
    "stereo.wav": ("", "no video track"),
    "opposite.wav": ("silent audio", "no video track"),
    "five_one.m4a": ("", "no video track"),
    "rate8000.wav": ("", "no video track"),
    "rate11025.wav": ("", "no video track"),
    "rate44100.wav": ("", "no video track"),
    "rate96000.wav": ("", "no video track"),
    "eight_bit.wav": ("", "no video track"),
    "fifty_ms.wav": ("audio too short", "no video track"),
    "one_ms.wav": ("nothing could be decoded", "nothing could be decoded"),
    "silence.wav": ("silent audio", "no video track"),
    "clipping.wav": ("", "no video track"),
    "some_nan.wav": ("", "no video track"),
    "all_nan.wav": ("silent audio", "no video track"),
    "header_alone.wav": ("nothing could be decoded", "nothing could be decoded"),
    "folder.mp4": ("not a regular file", "not a regular file"),
    "loop_a.mp4": ("unreadable file", "unreadable file"),
    "dangling.mp4": ("missing file", "missing file"),
    "pipe.mp4": ("not a regular file", "not a regular file"),
    "nowhere.mp4": ("missing file", "missing file"),
    "concat:fine.mp4|first.mp4": ("missing file", "missing file"),
    "list.m3u8": ("unreadable file", "unreadable file"),
    "list.ffconcat": ("unreadable file", "unreadable file"),
    "list.mp4": ("unreadable file", "unreadable file"),
    **dict.fromkeys(STRANGE_NAMES, ("", "")),
}
# Rows that differ in more than their file: fields, and the expected audio, visual and text reasons.
ROWS: dict[str, tuple[dict[str, object], str, str, str]] = {
    "span": ({"start": 0.5, "end": 1.5}, "", "", ""),
    "negative": ({"start": -1, "end": 1}, "invalid time span", "invalid time span", ""),
    "swapped": ({"start": 1.5, "end": 0.5}, "invalid time span", "invalid time span", ""),
    "no length": ({"start": 1, "end": 1}, "invalid time span", "invalid time span", ""),
    "end beyond": ({"start": 1, "end": 60}, "beyond the end of the file", "beyond the end of the file", ""),
    "both beyond": ({"start": 50, "end": 60}, "beyond the end of the file", "beyond the end of the file", ""),
    "in a cut file": (
        {"media": "cut_index_at_start.mp4", "start": 1.6, "end": 1.9},
        "beyond the end",
        "beyond the end",
        "",
    ),
    "late in an hour": ({"media": "hour.mkv", "start": 3590, "end": 3592}, "", "black frames", ""),
    "no media": ({"media": None}, "no media file in the manifest", "no media file in the manifest", ""),
    "empty text": ({"text": ""}, "", "", "empty transcript"),
    "blank text": ({"text": " \t\n"}, "", "", "empty transcript"),
    "long text": ({"text": "word " * 5000}, "", "", ""),
    "odd text": ({"text": "\x01\x1b[31m\u202e\ufeff\U0001f600 <b>&amp;"}, "", "", ""),
    "masked": ({"mask": {"audio": "microphone off", "text": "withheld"}}, "microphone off", "", "withheld"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, text_encoder):
    root = tmp_path_factory.mktemp("table")
    Maker(root).make()
    rows = [{"id": name, "dialogue": "files", "speaker": "A", "text": "Hello there", "media": name} for name in FILES]
    rows += [
        {"id": name, "dialogue": "rows", "speaker": "A", "text": "Hello", "media": "fine.mp4", **row}
        for name, (row, *_) in ROWS.items()
    ]
    (root / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    command = [
        "extract",
        "manifest",
        str(root / "m.jsonl"),
        "--out",
        str(root / "s.h5"),
        "--text-model",
        str(text_encoder),
        "--audio-set",
        "ComParE_2016",
        "--visual-model",
        "denseface",
        "--visual-weights",
        "random",
        "--face-detector",
        "haar",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    with FeatureStore.open(root / "s.h5") as opened:
        yield opened


def outcome(store, name: str) -> dict[str, str]:
    row = store.column("id").tolist().index(name)
    found = {}
    for feature in store.feature_names():
        values = store.feature(feature).values(slice(row, row + 1))
        reason = store.feature(feature).reasons(slice(row, row + 1))[0]
        assert np.isfinite(values).all() and bool(values.any()) != bool(reason)  # a vector or a reason, never both
        found[feature.split("/")[0]] = reason
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_file(store, name):
    found, (audio, visual) = outcome(store, name), FILES[name]
    assert found["text"] == ""
    for modality, expected in (("audio", audio), ("visual", visual)):
        assert found[modality].startswith(expected) if expected else found[modality] == "", (modality, found[modality])


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_row(store, name):
    found = outcome(store, name)
    for modality, expected in zip(("audio", "visual", "text"), ROWS[name][1:], strict=True):
        assert found[modality].startswith(expected) if expected else found[modality] == "", (modality, found[modality])


@pytest.mark.slow
def test_long_text_is_counted(store):
    row = store.column("id").tolist().index("long text")
    feature = next(store.feature(name) for name in store.feature_names() if name.startswith("text/"))
    cut = feature.details()["tokens_cut"]
    assert cut[row] > 4000 and (np.delete(cut, row) == 0).all()


@pytest.mark.slow
def test_the_same_audio_at_another_rate_has_the_same_features(store):
    """All sampling rates and channel layouts agree on the pitch of a 180 Hz tone."""
    feature = next(store.feature(name) for name in store.feature_names() if name.startswith("audio/"))
    ids, values, names = store.column("id").tolist(), feature.values(), feature.dimension_names()
    pitch = names.index("F0final_sma_quartile2")
    for name in ("rate8000.wav", "rate44100.wav", "rate96000.wav", "stereo.wav", "five_one.m4a", "clipping.wav"):
        assert abs(values[ids.index(name), pitch] - 180) < 5, name


MANIFESTS = {
    "leaves the root": ('{"id": "a", "dialogue": "d", "speaker": "s", "media": "../x.mp4"}', "line 1, field media"),
    "absolute": ('{"id": "a", "dialogue": "d", "speaker": "s", "media": "/etc/passwd"}', "line 1, field media"),
    "windows": ('{"id": "a", "dialogue": "d", "speaker": "s", "media": "C:\\\\x.mp4"}', "line 1, field media"),
    "nan": ('{"id": "a", "dialogue": "d", "speaker": "s", "media": "x.mp4", "start": NaN}', "line 1, field start"),
    "infinite": (
        '{"id": "a", "dialogue": "d", "speaker": "s", "media": "x.mp4", "end": Infinity}',
        "line 1, field end",
    ),
    "twice": (
        '{"id": "a", "dialogue": "d", "speaker": "s"}\n{"id": "a", "dialogue": "d", "speaker": "s"}',
        "line 2, field id: 'a'",
    ),
    "not json": ("{id: a}", "line 1: "),
    "a list": ("[1, 2]", "line 1: "),
    "nothing": ("", "utterance"),
    "zero byte in a path": (
        '{"id": "a", "dialogue": "d", "speaker": "s", "media": "x\\u0000.mp4"}',
        "line 1, field media",
    ),
    "half a character": ('{"id": "a", "dialogue": "d", "speaker": "s", "text": "\\ud83d"}', "line 1, field text"),
    "deep": ("[" * 100_000, "line 1: "),
    "latin-1": (b'{"id": "a", "dialogue": "d", "speaker": "s", "text": "na\xefve"}', "UTF-8"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_refused_in_one_line(tmp_path, name):
    content, expected = MANIFESTS[name]
    (tmp_path / "m.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(
        main, ["extract", "manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "s.h5")]
    )
    lines = result.output.strip().splitlines()
    assert result.exit_code == 1 and len(lines) == 1 and expected in lines[0] and "m.jsonl" in lines[0]
    assert not (tmp_path / "s.h5").exists()
