"""Streams: WAV, PCM and media files as they arrive, pipes, and files that grow."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from transcribe_support import in_parts

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.media import MediaError, MediaReader, ffmpeg_binary
from erc_toolkit.toolkit.media.decoding import Decoding
from erc_toolkit.toolkit.media.streamed import StreamedAudio, StreamedMedia
from erc_toolkit.toolkit.predict.streams import read_growing, read_pipe


def wave_bytes(samples: np.ndarray, rate: int, bits: int, floats: bool = False, size: int | None = None) -> bytes:
    """A WAV file of samples (n, channels) within [-1, 1)."""
    if floats:
        body = samples.astype("<f4" if bits == 32 else "<f8").tobytes()
    elif bits == 8:
        body = (np.round(samples * 127) + 128).astype("u1").tobytes()
    elif bits == 24:
        body = b"".join(int(v).to_bytes(3, "little", signed=True) for v in np.round(samples * (2**23 - 1)).ravel())
    else:
        body = np.round(samples * (2.0 ** (bits - 1) - 1)).astype(f"<i{bits // 8}").tobytes()
    channels = samples.shape[1]
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 3 if floats else 1, channels, rate, rate * block, block, bits)
    size = len(body) if size is None else size
    extra = b"JUNK" + struct.pack("<I", 3) + b"abc\0"
    data = b"fmt " + struct.pack("<I", 16) + head + extra + b"data" + struct.pack("<I", size) + body
    return b"RIFF" + struct.pack("<I", min(len(data) + 4, 0xFFFFFFFF)) + b"WAVE" + data


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(("channels", "bits", "floats"), [(1, 16, False), (2, 24, False), (2, 32, True), (1, 8, False)])
def test_samples_are_those_of_the_decoded_file(tmp_path, rate, channels, bits, floats):
    samples = np.clip(0.4 * np.random.default_rng(1).standard_normal((rate + 77, channels)), -1, 1)
    (tmp_path / "a.wav").write_bytes(wave_bytes(samples, rate, bits, floats))
    with MediaReader(tmp_path / "a.wav", own_rate=True) as reader:
        reader.finish()
        audio, own, sound = StreamedAudio(), [], []
        for part in in_parts((tmp_path / "a.wav").read_bytes() + b"LIST\0\0\0\0", [1, 10, 33, 5001, 0, 3]):
            for found, kept in zip(audio.add(part), (own, sound), strict=True):
                kept.append(found)
        for found, kept in zip(audio.end(), (own, sound), strict=True):
            kept.append(found)
        assert np.array_equal(np.concatenate(own), reader.own_samples)
        assert np.array_equal(np.concatenate(sound), reader.samples)


def test_headers(tmp_path):
    samples = np.linspace(-0.5, 0.5, 1000)[:, None]
    open_end = wave_bytes(samples, 16000, 16, size=0xFFFFFFFF)
    for data in (open_end, wave_bytes(samples, 16000, 16, size=0), open_end[-2000:]):  # the last without a header
        audio = StreamedAudio()
        assert len(audio.add(data)[0]) + len(audio.end()[0]) == 1000
    audio = StreamedAudio(8000)
    assert len(audio.add(open_end[-2000:])[0]) == 1000 and audio.form is not None and audio.form.rate == 8000
    for data, fact in (
        (wave_bytes(np.zeros((9, 3)), 16000, 16), "3 channels"),
        (open_end.replace(b"\x01\0\x01\0\x80\x3e", b"\x06\0\x01\0\x80\x3e"), "form 6"),
        (open_end.replace(b"\x80\x3e\0\0", b"\x01\0\0\0"), "1 Hz"),
    ):
        with pytest.raises(MediaError, match=fact):
            StreamedAudio().add(data)
    with pytest.raises(MediaError, match="--pcm-rate"):
        StreamedAudio(8000).add(open_end)
    broken = StreamedAudio()
    broken.add(open_end[:20])
    with pytest.raises(MediaError, match="header"):
        broken.end()


def test_a_growing_file_is_read_until_it_stops_growing(tmp_path):
    """A fake clock: the file grows while the reader waits."""
    path, data = tmp_path / "a.wav", wave_bytes(np.linspace(-0.5, 0.5, 30_000)[:, None], 16000, 16)
    path.write_bytes(b"")
    now, left, waits = [0.0], [data[i : i + 9000] for i in range(0, len(data), 9000)], []

    def sleep(seconds: float) -> None:
        now[0] += seconds
        waits.append(seconds)
        if left and len(waits) % 3 == 0:
            with open(path, "ab") as file:
                file.write(left.pop(0))
            if not left:
                with open(path, "ab") as file:
                    file.write(b"LIST\x04\0\0\0INFO")  # follows the audio

    parts = list(read_growing(path, threading.Event(), 2.0, lambda: now[0], sleep))
    assert b"".join(parts) == data and not left
    assert sum(waits[-20:]) == pytest.approx(2.0, abs=0.2)
    stop = threading.Event()
    stop.set()
    assert list(read_growing(path, stop, 2.0)) == []
    with pytest.raises(UserError, match=r"none\.wav"):
        list(read_growing(tmp_path / "none.wav", threading.Event(), 1.0))


def test_a_pipe_is_read_as_it_comes():
    end, start = os.pipe()
    os.write(start, b"abc")
    with os.fdopen(end, "rb") as pipe:
        parts = read_pipe(pipe, threading.Event())
        assert next(parts) == b"abc"  # although the pipe is still open
        os.write(start, b"d")
        assert next(parts) == b"d"
        os.close(start)
        assert list(parts) == []


BOTH = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=24:d=2.5", "-f", "lavfi", "-i", "sine=d=2.3:r=44100"]
WRITTEN = {
    "ts": ["-c:v", "libx264", "-g", "10", "-bf", "2", "-c:a", "aac"],
    "mkv": ["-c:v", "mpeg4", "-c:a", "libvorbis"],
    "webm": ["-c:v", "libvpx", "-c:a", "libopus"],
    "mp4": ["-c:v", "libx264", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
    "nut": ["-c:v", "mpeg2video", "-c:a", "pcm_s16le"],
    "flv": ["-c:v", "flv1", "-c:a", "aac"],
    "avi": ["-c:v", "mpeg4", "-c:a", "mp3"],
    "mpg": ["-c:v", "mpeg1video", "-c:a", "mp2"],
    "ogg": ["-vn", "-c:a", "libvorbis"],
    "flac": ["-vn"],
    "aiff": ["-vn"],
}


def written(path: Path, options: list[str]) -> bytes:
    subprocess.run([ffmpeg_binary(), "-v", "error", "-nostdin", *BOTH, *options, str(path)], check=True)
    return path.read_bytes()


@pytest.mark.parametrize("ending", WRITTEN)
def test_sound_and_frames_are_those_of_the_whole_file(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    data = written(path, WRITTEN[ending])
    rates = (5.0, 25.0)
    whole = []
    for rate in rates:
        with MediaReader(path, fps=rate, own_rate=True) as reader:
            whole.append(list(reader.frames()))
            reader.finish()
    for sizes in ([1, 400, 3, 9000, 12], [700] * 1000):
        media = StreamedMedia(rates=rates)
        assert media.has_audio is None and media.has_video is None
        pieces = [piece for part in in_parts(data, sizes) for piece in media.add(part)]
        pieces += media.end()
        assert np.array_equal(np.concatenate([piece.sound for piece in pieces]), reader.samples)
        assert np.array_equal(np.concatenate([piece.own for piece in pieces]), reader.own_samples)
        assert media.rate == reader.rate and media.has_audio and media.has_video == reader.has_video
        for grid, frames in enumerate(whole):
            images = [piece.image for piece in pieces if piece.image is not None and piece.image.grid == grid]
            assert [image.k / rates[grid] for image in images] == [time for time, _ in frames]
            assert all(np.array_equal(one.pixels, other) for one, (_, other) in zip(images, frames, strict=True))
        if media.has_video:
            assert media.decided >= 2.4 and media.shown_until == pytest.approx(2.5, abs=0.1)


def test_a_stream_gives_what_it_has_without_waiting_for_its_end(tmp_path):
    data = written(tmp_path / "a.mkv", [*WRITTEN["mkv"], "-t", "2.5"])
    media, sound, threads = StreamedMedia(rates=[5.0]), 0, threading.active_count()
    for part in in_parts(data[: len(data) * 4 // 5], [500] * 1000):
        sound += sum(len(piece.sound) for piece in media.add(part))
    assert sound > 1.4 * 16000 and media.decided > 1.4
    media.close()  # its thread has ended
    assert threading.active_count() == threads
    assert list(media.add(data)) == [] or all(not len(piece.sound) for piece in media.add(data))


def test_a_stream_whose_reading_breaks_off_is_not_read_in_vain(tmp_path, monkeypatch):
    data = written(tmp_path / "a.mkv", WRITTEN["mkv"])
    packets = Decoding._packets

    def broken(self, *wanted):
        for i, packet in enumerate(packets(self, *wanted)):
            if i == 60:
                self.broken = "damage"
                return
            yield packet

    monkeypatch.setattr(Decoding, "_packets", broken)
    media = StreamedMedia()
    with pytest.raises(MediaError, match=r"beyond [01]\.\d s: damage"):
        for part in in_parts(data, [500] * 1000):
            list(media.add(part))
    with pytest.raises(MediaError, match="damage"):  # and nothing is kept of what follows
        list(media.add(data))
    assert media._file is not None and len(media._file._images._held) < 40_000


def test_streams_that_cannot_be_read_are_one_line(tmp_path):
    data = written(tmp_path / "a.mp4", ["-c:v", "libx264", "-c:a", "aac"])  # its index is at the end
    for given in (data, data[:100], b"\x1a\x45\xdf\xa3" + bytes(5000), b"OggS" + bytes(5000)):
        media = StreamedMedia(rates=[5.0])
        with pytest.raises(MediaError, match="must be written for streaming") as caught:
            list(media.add(given))
            list(media.end())
        assert "\n" not in str(caught.value)
    # What is said to be samples is no file.
    (piece,) = StreamedMedia(16000).add(data)
    assert len(piece.sound) == len(data) // 2
