"""Faces are tracked through frames, and the speaker is chosen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from erc_toolkit.extract.faces.detection import Face, face_model, make_detector
from erc_toolkit.extract.faces.speaking import choose_speaker
from erc_toolkit.extract.faces.tracks import CropForm, FaceTracks

RATE = 16_000


def tracks_of(images, detect, *, fps: float = 5.0, most: int = 100, begin: float = 0.0) -> FaceTracks:
    tracks = FaceTracks(detect, [CropForm(32, grey=True)], margin=0.1, most=most)
    for i, image in enumerate(images):
        tracks.add(begin + i / fps, image)
    return tracks


def textured(seed: int, shape=(240, 320)) -> np.ndarray:
    """A smooth image that does not correlate with those of other seeds."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def at(x: float, y: float, side: float = 60) -> Face:
    return Face((x, y, side, side), 0.9, None)


def test_a_moving_face_is_one_track():
    background, face = textured(0), textured(1, (60, 60))
    images, places = [], [(40 + 8 * i, 60) for i in range(8)]
    for x, y in places:
        images.append(background.copy())
        images[-1][y : y + 60, x : x + 60] = face
    found = iter([[at(x, y)] for x, y in places])
    tracks = tracks_of(images, lambda image: next(found))
    assert [len(track.widths) for track in tracks.tracks] == [8]
    chosen, confidence = choose_speaker(tracks.tracks, None, RATE)
    assert chosen is tracks.tracks[0] and confidence == 1.0
    assert [number for number, _, _ in chosen.crops] == list(range(8))


def test_a_cut_starts_a_new_track():
    """A face in the same place in another scene is another person."""
    found = iter([[at(100, 60)]] * 6)
    tracks = tracks_of([textured(0)] * 3 + [textured(5)] * 3, lambda image: next(found))
    assert [len(track.widths) for track in tracks.tracks] == [3, 3]


def test_another_face_in_the_same_place_is_another_track():
    background = textured(0)
    images = []
    for seed in (1, 1, 2, 2):
        images.append(background.copy())
        images[-1][60:120, 100:160] = textured(seed, (60, 60))
    found = iter([[at(100, 60)]] * 4)
    tracks = tracks_of(images, lambda image: next(found))
    assert [len(track.widths) for track in tracks.tracks] == [2, 2]


@pytest.mark.parametrize("begin", [0.0, 500.0])
def test_a_face_that_comes_back_after_a_long_time_is_another_track(begin):
    found = iter([[at(100, 60)]] * 2 + [[]] * 7 + [[at(100, 60)]] * 2 + [[]] * 3 + [[at(100, 60)]])
    tracks = tracks_of([textured(0)] * 15, lambda image: next(found), begin=begin)
    assert [len(track.widths) for track in tracks.tracks] == [2, 3]


def test_without_audio_the_large_face_in_most_frames_is_chosen():
    found = iter([[at(10, 10, 40), at(150, 60, 80)]] * 5 + [[at(10, 10, 40)]])
    chosen, confidence = choose_speaker(tracks_of([textured(0)] * 6, lambda image: next(found)).tracks, None, RATE)
    assert chosen.widths == [80] * 5 and confidence == pytest.approx((5 / 6 + 1 - (1 + 0.5)) / (5 / 6 + 1))


def test_a_crowd_does_not_fill_the_memory():
    crowd = [at(10 + 25 * i, 10, 10 + i) for i in range(12)]
    tracks = tracks_of([textured(0)] * 4, lambda image: crowd)
    assert sorted(track.last.box[2] for track in tracks.tracks) == [16, 17, 18, 19, 20, 21]


def test_no_face():
    assert choose_speaker(tracks_of([textured(0)] * 3, lambda image: []).tracks, None, RATE) == (None, 0.0)


def test_memory_is_bounded():
    """A long clip keeps at most twice as many crops as requested, evenly spread over its whole length."""
    tracks = tracks_of([textured(0)] * 500, lambda image: [at(100, 60)], most=10)
    chosen, _ = choose_speaker(tracks.tracks, None, RATE)
    numbers = [number for number, _, _ in chosen.crops]
    assert 10 <= len(numbers) < 20 and numbers[0] == 0 and numbers[-1] > 450 and len(set(np.diff(numbers))) == 1


@pytest.mark.parametrize("speaks", ["left", "right"])
def test_the_face_whose_mouth_moves_with_the_audio_is_chosen(speaks):
    """Two people in one frame; one talks, the other only watches, slightly closer to the camera."""
    import cv2

    from erc_toolkit.toolkit.demo.faces import render
    from erc_toolkit.toolkit.demo.looks import speaker_look
    from erc_toolkit.toolkit.demo.script import FPS, SPEAKERS

    seconds = 3
    rng = np.random.default_rng(4)
    loudness = np.clip(np.repeat(rng.uniform(0, 1, seconds * FPS // 3 + 1), 3)[: seconds * FPS], 0, 1)
    talker, _ = render(speaker_look(0, SPEAKERS[0]), "neutral", loudness, np.random.default_rng(1))
    listener, _ = render(speaker_look(0, SPEAKERS[1]), "neutral", np.zeros_like(loudness), np.random.default_rng(2))
    images = []
    for one, other in zip(talker, listener, strict=True):
        near = cv2.resize(other, None, fx=1.15, fy=1.15)[-240:]
        pair = [one, near] if speaks == "left" else [near, one]
        images.append(cv2.cvtColor(np.ascontiguousarray(np.concatenate(pair, 1)), cv2.COLOR_BGR2RGB))
    audio = np.repeat(loudness, RATE // FPS + 1) * rng.normal(0, 0.3, len(loudness) * (RATE // FPS + 1))
    detect = make_detector("haar", face_model("haar", None)[0])
    tracks = tracks_of(images[:: FPS // 5], detect)
    chosen, confidence = choose_speaker(tracks.tracks, audio.astype(np.float32), RATE)
    middle = chosen.last.box[0] + chosen.last.box[2] / 2
    assert (middle < images[0].shape[1] / 2) == (speaks == "left") and confidence > 0.1
    without_audio, _ = choose_speaker(tracks.tracks, None, RATE)
    assert without_audio.widths != chosen.widths  # by size only it would be the listener


def test_a_face_stays_one_track_when_the_resolution_changes():
    """As in a call that adapts to its bandwidth: the same face, half as large in a frame of half the size."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (24, 32, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)

    def detect(image):
        scale = image.shape[1] / 640
        return [Face((200 * scale, 100 * scale, 160 * scale, 160 * scale), 0.9, None)]

    tracks = FaceTracks(detect, [CropForm(32)], 0.1, 50)
    for k, image in enumerate([picture] * 4 + [small] * 4 + [picture] * 2):
        tracks.add(k / 5, image)
    assert len(tracks.tracks) == 1 and np.allclose(tracks.tracks[0].widths, 160)
