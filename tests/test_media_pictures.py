"""Each frame as a viewer sees it: in its own size, upright, with square pixels, whole, in the standard range."""

from __future__ import annotations

import struct
import wave
from fractions import Fraction

import cv2
import numpy as np
import pytest
from media_support import ffmpeg, flash_at, read, tone_at

from erc_toolkit.toolkit.media.pictures import Sampler, turn
from erc_toolkit.toolkit.media.tone_mapping import HLG, PQ, to_standard_range

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", 10)


def square(size: str, x: int, y: int, side: int, seconds: float = 1) -> list:
    box = f"drawbox=x={x}:y={y}:w={side}:h={side}:c=white:t=fill"
    return ["-f", "lavfi", "-i", f"color=black:s={size}:r=25:d={seconds},{box}"]


def box(image: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, width, height) of what is white."""
    ys, xs = np.nonzero(image.mean(2) > 128)
    return xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1


def is_near(found, expected, within: int = 2) -> bool:
    return all(abs(int(a) - b) <= within for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("ending", ["ts", "h264"])
def test_a_resolution_that_changes(tmp_path, ending):
    """A call that adapts, a phone that turns: each frame keeps its own shape."""
    parts = []
    for i, (size, x, y) in enumerate([("640x360", 200, 100), ("360x640", 100, 200), ("320x180", 20, 30)]):
        ffmpeg(*square(size, x, y, 100), *X264, tmp_path / f"{i}.{ending}")
        parts.append((tmp_path / f"{i}.{ending}").read_bytes())
    (tmp_path / f"all.{ending}").write_bytes(b"".join(parts))
    _, frames = read(tmp_path / f"all.{ending}")
    sizes = [image.shape[:2] for _, image in frames]
    assert [size for i, size in enumerate(sizes) if size != sizes[i - 1]] == [(360, 640), (640, 360), (180, 320)]
    assert all(is_near(box(image)[2:], (100, 100)) for _, image in frames) and len(frames) == 15


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_rotations_and_mirrorings(tmp_path, angle, mirror):
    """Against ffmpeg's own turning of the same file."""
    ffmpeg(*square("320x180", 20, 30, 40), *X264, tmp_path / "plain.mp4")
    flip = ("-display_hflip",) if mirror else ()
    ffmpeg("-display_rotation", angle, *flip, "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "turned.mp4")
    ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", 1, tmp_path / "seen.png")
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / "seen.png")), cv2.COLOR_BGR2RGB)
    _, frames = read(tmp_path / "turned.mp4")
    assert frames[0][1].shape == expected.shape and is_near(box(frames[0][1]), box(expected))


def test_an_oblique_rotation_keeps_the_whole_picture():
    image = np.zeros((90, 160, 3), np.uint8)
    image[40:50, 75:85] = 255
    a, b = round(65536 * np.cos(np.pi / 6)), round(65536 * np.sin(np.pi / 6))
    turned = turn(image, (a, b, 0, -b, a, 0, 0, 0, 1 << 30))
    assert turned.shape[0] > 150 and turned.shape[1] > 170
    left, top, width, height = box(turned)
    assert is_near((left + width / 2, top + height / 2), (turned.shape[1] / 2, turned.shape[0] / 2))
    for empty in ((0,) * 9, (1,) * 9):
        assert turn(image, empty).ndim == 3


@pytest.mark.parametrize(("size", "aspect", "expected"), [
    ("720x576", "64/45", (1024, 576)), ("720x576", "16/15", (768, 576)), ("720x480", "8/9", (720, 540)),
    ("160x120", "1000/1", (160, 120))])  # fmt: skip
def test_pixels_that_are_not_square(tmp_path, size, aspect, expected):
    """PAL and NTSC; an absurd shape is damage."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.4,setsar={aspect}", *X264, tmp_path / "a.mkv")
    _, frames = read(tmp_path / "a.mkv")
    assert frames[0][1].shape == (expected[1], expected[0], 3)


def test_wide_dv(tmp_path):
    """PAL DV 16:9: a circle is a circle."""
    wide = "color=black:s=1024x576:r=25:d=0.4,drawbox=x=400:y=200:w=200:h=200:c=white:t=fill,scale=720:576,setsar=64/45"
    ffmpeg("-f", "lavfi", "-i", wide, "-f", "lavfi", "-i", "sine=r=48000:d=0.4", "-ac", 2, "-target", "pal-dv",
           "-aspect", "16:9", tmp_path / "a.dv")  # fmt: skip
    _, frames = read(tmp_path / "a.dv")
    _, _, width, height = box(frames[0][1])
    assert abs(width / height - 1) < 0.03


def test_interlaced_frames_are_made_whole(tmp_path):
    """A bar that moves between the two fields of a frame leaves no comb, and frames keep their times."""
    moving = "nullsrc=s=320x240:r=50:d=2,geq=lum='255*between(X-mod(N*6,280),0,40)':cb=128:cr=128"
    fields = "interlace=scan=tff:lowpass=off"
    options = ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", 2)
    ffmpeg("-f", "lavfi", "-i", f"{moving},{fields}", *options, tmp_path / "fields.ts")

    def comb(image: np.ndarray) -> float:
        grey = image.mean(2)
        return float(np.abs(2 * grey[1:-1] - grey[:-2] - grey[2:]).mean())

    media, frames = read(tmp_path / "fields.ts", fps=5)
    import av

    with av.open(str(tmp_path / "fields.ts")) as container:
        raw = next(container.decode(video=0))
        assert raw.interlaced_frame
    assert len(frames) == media.frame_count == 10
    assert comb(raw.to_ndarray(format="rgb24")) > 5 * max(comb(image) for _, image in frames[1:-1])
    for time, image in frames[1:-1]:
        assert abs(int(box(image)[0]) - round(time * 50) * 6 % 280) <= 3


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "smpte2084"), (HLG, "arib-std-b67")])
def test_high_dynamic_range_is_neither_grey_nor_burnt_out(tmp_path, transfer, name):
    """Mid-grey, white and skin of a picture of high dynamic range come near to where a standard one has them."""
    nits = {"white": 203.0, "grey": 26.0, "black": 0.005}  # BT.2408's reference levels
    signal = {key: _signal(value, transfer) for key, value in nits.items()}
    colours = {key: round(value * 65535) for key, value in signal.items()}
    image = np.array([[[v] * 3 for v in colours.values()]], np.uint16)
    white, grey, black = to_standard_range(image, transfer)[0, :, 0].tolist()
    assert white > 215 and 75 < grey < 140 and black < 12
    declared = f"format=yuv420p10le,setparams=color_trc={name}:color_primaries=bt2020:colorspace=bt2020nc"
    code = round(940 * signal["grey"] + 64 * (1 - signal["grey"]))
    source = f"nullsrc=s=64x48:r=5:d=1,format=yuv420p10le,geq=lum={code}:cb=512:cr=512,{declared}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-crf", 4, tmp_path / "a.mp4")
    _, frames = read(tmp_path / "a.mp4")
    assert abs(frames[0][1].mean() - grey) < 3


def _signal(nits: float, transfer: int) -> float:
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        y = (nits / 10_000) ** m1
        return ((c1 + c2 * y) / (1 + c3 * y)) ** m2
    scene = (nits / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return float(np.sqrt(3 * scene)) if scene <= 1 / 12 else float(a * np.log(12 * scene - b) + c)


def test_no_frame_before_the_first_and_the_last_lasts():
    sampler = Sampler(5)
    frames = [object() for _ in range(3)]
    found = []
    for time, frame in zip((1.0, 1.1, 3.05), frames, strict=True):
        found += sampler.add(Fraction(time), Fraction(1, 2), frame)
    found += sampler.rest()
    assert [k for k, _ in found] == [*range(4, 18)]  # 0.8 s, one interval early, to 3.4 s
    assert [frames.index(frame) for _, frame in found] == [0, 0] + [1] * 10 + [2] * 2


def test_a_picture_bomb_is_not_decoded(tmp_path):
    """A PNG in Matroska that claims 30,000 by 30,000 pixels."""
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:r=1:d=1", "-c:v", "png", tmp_path / "a.mkv")
    data = (tmp_path / "a.mkv").read_bytes()
    small, large = struct.pack(">II", 64, 48), struct.pack(">II", 30_000, 30_000)
    (tmp_path / "a.mkv").write_bytes(data.replace(b"IHDR" + small, b"IHDR" + large))
    from erc_toolkit.toolkit.media import MediaError

    with pytest.raises(MediaError, match="nothing could be decoded"):
        read(tmp_path / "a.mkv")


# -- channels and tracks


def test_channels_without_positions_all_count(tmp_path):
    tone = np.round(16_000 * np.sin(np.arange(16_000) / 5)).astype("<i2")
    for count, voice in ((6, 4), (6, 1), (9, 9), (60, 33), (4, 3), (2, 2), (3, 1)):
        samples = np.zeros((16_000, count), "<i2")
        samples[:, voice - 1] = tone
        path = tmp_path / f"{count}_{voice}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((count, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        media, _ = read(path, fps=None, channels=(None, voice, voice % count + 1))
        mix, own, other = (media.sound[channel].samples for channel in (None, voice, voice % count + 1))
        assert np.abs(own - tone / 32768).max() == 0 == np.abs(other).max()
        assert np.abs(mix - tone / 32768 / count).max() < 1e-7
        media, _ = read(path, fps=None, channels=(None, count + 1))
        assert media.sound[count + 1].missing == f"no channel {count + 1}: the audio track has {count}"
        assert np.array_equal(media.sound[None].samples, mix)


def test_the_default_track_unless_another_is_named(tmp_path):
    sources = [word for hz in (200, 500, 900) for word in ("-f", "lavfi", "-i", f"sine=frequency={hz}:d=1")]
    maps = ("-map", 0, "-map", 1, "-map", 2)
    ffmpeg(*sources, *maps, "-disposition:a:0", 0, "-disposition:a:1", "default", tmp_path / "a.mkv")

    def pitch(**options) -> float:
        media, _ = read(tmp_path / "a.mkv", fps=None, **options)
        return float(np.abs(np.fft.rfft(media.samples[:16_000])).argmax())

    assert abs(pitch() - 500) < 5 and abs(pitch(track=1) - 200) < 5 and abs(pitch(track=3) - 900) < 5
    from erc_toolkit.toolkit.media import MediaError

    with pytest.raises(MediaError, match="no audio track 4: the file has 3"):
        pitch(track=4)


def test_frames_of_a_late_picture_still_fill_a_short_clip(tmp_path):
    ffmpeg(*tone_at(0, lasts=1), "-itsoffset", 0.08, *flash_at(0, lasts=0.9), "-map", 0, "-map", 1, tmp_path / "a.mkv")
    _, frames = read(tmp_path / "a.mkv")
    assert [round(time, 3) for time, _ in frames] == [0, 0.2, 0.4, 0.6, 0.8]


def test_each_speaker_has_a_channel(tmp_path):
    """Two lapel microphones in one file: the manifest says whose is which."""
    import json

    from click.testing import CliRunner

    from erc_toolkit.toolkit.commands.main import main
    from erc_toolkit.toolkit.store import FeatureStore

    one, two = (0.3 * np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000) for hz in (150, 300))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.round(np.stack([one, two], 1) * 32767).astype("<i2").tobytes())
    rows = [{"id": name, "dialogue": "d", "speaker": name, "audio": "a.wav", "audio_channel": channel}
            for name, channel in (("ann", 1), ("bob", "2"), ("eve", 3), ("all", None))]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        "extract",
        "manifest",
        str(tmp_path / "m.jsonl"),
        "--out",
        str(tmp_path / "s.h5"),
        "--modalities",
        "audio",
    ]
    result = CliRunner().invoke(main, [*command, "--audio-set", "eGeMAPSv02", "--workers", "1"])
    assert result.exit_code == 0, result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("audio/eGeMAPSv02")
        names, values, reasons = list(feature.dimension_names()), feature.values(), list(feature.reasons())
    pitch = values[:, names.index("F0semitoneFrom27.5Hz_sma3nz_amean")]
    assert abs(pitch[1] - pitch[0] - 12) < 0.5 and reasons[3] == ""
    assert reasons[2] == "no channel 3: the audio track has 2" and reasons[:2] == ["", ""]
    for wrong in (0, -1, "left", 1.5, True, "9" * 5000):
        (tmp_path / "w.jsonl").write_text(json.dumps({**rows[0], "audio_channel": wrong}))
        result = CliRunner().invoke(
            main, ["extract", "manifest", str(tmp_path / "w.jsonl"), "--out", str(tmp_path / "w.h5")]
        )
        assert result.exit_code == 1 and "field audio_channel" in result.output and "line 1" in result.output
