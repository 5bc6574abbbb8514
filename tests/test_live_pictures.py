"""The visual part of a stream's turns, against that of the extraction's workers on the whole file."""

from __future__ import annotations

from pathlib import Path

import ffmpeg
import numpy as np
import pytest
import torch
from lips_support import FACES, WEIGHTS, needs_shared, released, side_by_side
from transcribe_support import in_parts

from erc_toolkit.extract.encoders.base import Crops, Frames
from erc_toolkit.extract.faces.choice import Choosing
from erc_toolkit.extract.faces.detection import face_model
from erc_toolkit.extract.live.pictures import LivePictures
from erc_toolkit.extract.live.shots import NotKeptError, Shots
from erc_toolkit.extract.run.media.pictures import Watched
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process
from erc_toolkit.toolkit.demo.split_screen import make_dialogues, write_media
from erc_toolkit.toolkit.media import KeptSound, Piece, StreamedMedia, ffmpeg_binary

SPANS = [(0.35, 2.8), (0.9, 1.3), (2.8, 5.0), (3.0, 3.1), (5.5, 7.77)]


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory) -> Path:
    """Two drawn people side by side who take turns, as MPEG-TS of 25 frames per second."""
    root = tmp_path_factory.mktemp("two")
    (name, turns), *_ = make_dialogues(3, 1).items()
    write_media(root, name, turns, 3)
    path = root / "two.ts"
    source = ffmpeg.input(str(next(root.rglob("*.avi"))), t=9)
    job = source.output(str(path), vcodec="libx264", acodec="aac", r=25, g=50, loglevel="error")
    job.run(cmd=ffmpeg_binary())
    return path


def request(visual: Crops | Frames, choosing: Choosing | None = None, fps: float = 5, most: int = 100) -> MediaRequest:
    return MediaRequest({"visual": visual}, "haar", face_model("haar", None)[0], fps, 0.1, most, 600, choosing=choosing)


def streamed(path: Path, asked: MediaRequest, sizes: list[int], spans=None) -> tuple[list[Watched], int]:
    """The spans' visual part as a stream of such parts gives it, and the most bytes of frames that were kept."""
    pictures, sound, found, most = LivePictures(asked), KeptSound(), [], 0
    media = StreamedMedia(rates=pictures.rates)
    left = list(SPANS if spans is None else spans)

    def take(pieces, over: bool = False) -> None:
        nonlocal most
        for piece in pieces:
            sound.add(piece.sound)
            if piece.image is not None:
                pictures.add(piece.image, left[0][0] if left else 1e9)
            while left and (over or min(media.decided, sound.end / 16000 - 0.1) > left[0][1]):
                start, end = left.pop(0)
                span = Span(0, start, end, None, ["visual"])
                found.append(pictures.of(span, sound if media.has_audio else None, over))
            pictures.drop(left[0][0] if left else 1e9)
            sound.drop(round(16000 * ((left[0][0] if left else 1e9) - pictures.before_s)))
            if piece.image is None:
                most = max(most, pictures.kept_bytes)

    for part in in_parts(path.read_bytes(), sizes):
        take(media.add(part))
    take(media.end())
    take([Piece()], True)
    return found, most


def same(one: Watched, other: Watched) -> None:
    assert one.reason == other.reason
    assert one.series.keys() == other.series.keys()
    for wants, series in one.series.items():
        assert np.array_equal(series.images, other.series[wants].images)
        assert np.array_equal(series.times, other.series[wants].times)
    for name in ("frames", "faces", "tracks", "speaker_confidence", "speaker_score", "second_score", "scored_frames"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.boxes == other.boxes


def whole(path: Path, asked: MediaRequest, spans=None) -> list[Watched]:
    rows = [Span(0, *span, None, ["visual"]) for span in (SPANS if spans is None else spans)]
    found = process((0, Task(path, rows), asked)).utterances
    return [watched for one in found for watched in one.watched.values()]


def chosen_by(kind: str, folder: Path) -> Choosing:
    if kind == "motion":
        return Choosing()
    torch.save(released(), folder / "net.pt")
    return Choosing(folder / "net.pt", {"lips": "keep", "single": "mask-single"}[kind])


@pytest.mark.parametrize("kind", ["motion", "lips", "single"])
def test_faces_of_turns_are_those_of_the_whole_file(two_faces, tmp_path, kind):
    asked = request(Crops(48), chosen_by(kind, tmp_path))
    offline = whole(two_faces, asked)
    for sizes in ([4096] * 500, [100, 50_000, 7]) if kind == "lips" else ([4096] * 500,):
        live, _ = streamed(two_faces, asked, sizes)
        for one, other in zip(live, offline, strict=True):
            same(one, other)
    assert sum(one.tracks >= 2 for one in offline) >= 3 and (kind == "single" or all(one.series for one in offline))
    assert all((one.scored_frames > 30) == (kind != "motion") for one in offline if one.frames > 5)


@pytest.mark.parametrize("fps", [1, 7])
def test_other_rates_long_turns_and_frames_without_faces(two_faces, tmp_path, fps):
    """Of long turns fewer frames are examined."""
    spans = [(0.1, 8.0), (0.5, 0.6), (8.2, 8.5)]
    for asked in (
        request(Crops(32, grey=True), chosen_by("lips", tmp_path), fps, most=3),
        request(Frames(40, 30), None, fps, most=3),
    ):
        for one, other in zip(
            streamed(two_faces, asked, [3000] * 500, spans)[0], whole(two_faces, asked, spans), strict=True
        ):
            same(one, other)


def test_the_pictures_that_are_kept_are_bounded(two_faces, tmp_path):
    """Once and three times the same video: what is kept is the same."""
    asked, sizes, most = request(Crops(48), chosen_by("lips", tmp_path), 2), [4096] * 5000, []
    for times in (1, 3):
        path = tmp_path / f"{times}.ts"
        job = ffmpeg.input(str(two_faces), stream_loop=times - 1).output(str(path), c="copy", loglevel="error")
        job.run(cmd=ffmpeg_binary())
        spans = [(9.0 * i + start, 9.0 * i + end) for i in range(times) for start, end in SPANS]
        most.append(streamed(path, asked, sizes, spans)[1])
    assert most[1] < 1.3 * most[0]


def test_parts_of_frames_are_those_that_are_asked_for():
    rng = np.random.default_rng(0)
    shots = Shots(5)
    for k in range(100):
        shots.add(k, rng.integers(0, 256, (180, 320, 3), dtype=np.uint8))
    before = shots.bytes
    shots.settle(4.0, [(0.2 * i, [(0.1 + 0.01 * i, 0.2, 0.1, 0.2, 16 / 9)]) for i in range(20)])
    assert shots.bytes < 0.7 * before
    frames = dict(shots.of({3, 30, 99}))
    assert sorted(frames) == [3, 30, 99] and all(one.shape == (180, 320) for one in frames.values())
    assert frames[99][0:180, 0:320].shape == (180, 320)  # nobody knows yet where faces will be
    assert frames[3][40:60, 40:60].shape == (20, 20)
    with pytest.raises(NotKeptError):
        frames[3][150:170, 250:300]
    shots.drop(1.0)
    assert [k for k, _ in shots.of({3, 30, 99})] == [30, 99]


@needs_shared
@pytest.mark.slow
def test_real_people_side_by_side(tmp_path):
    path = side_by_side(["dia33_utt1", "dia3_utt2"], ["dia13_utt2", "dia22_utt0"], 0, 8.0, tmp_path / "pair.mkv")
    choosing = Choosing(WEIGHTS)
    asked = MediaRequest({"visual": Crops(64)}, "yunet", FACES, 5, 0.1, 100, 600, choosing=choosing)
    spans = [(0.3, 2.5), (2.5, 4.0), (4.4, 7.4)]
    live, most = streamed(path, asked, [4096] * 2000, spans)
    for one, other in zip(live, whole(path, asked, spans), strict=True):
        same(one, other)
    assert any(one.scored_frames > 50 for one in live) and most < 100e6
