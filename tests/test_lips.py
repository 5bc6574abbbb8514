"""LR-ASD and the choice of the speaking face, against the authors' numbers and on real people."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import cv2
import h5py
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lips_support import AUTHORS, FACES, WEIGHTS, extracted, needs_shared, released, shows, side_by_side

from erc_toolkit.extract.faces.choice import Choosing
from erc_toolkit.extract.faces.detection import Face
from erc_toolkit.extract.faces.lips import closeups, weights
from erc_toolkit.extract.faces.lips.mfcc import mfcc
from erc_toolkit.extract.faces.lips.network import load_network
from erc_toolkit.extract.faces.lips.scoring import LipScorer
from erc_toolkit.extract.faces.lips.speech import SLOPE, Speech, confidences
from erc_toolkit.extract.faces.tracks import SeenFace, Track
from erc_toolkit.extract.run.media.recording_faces import SpeakingFaces
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main

NEAR = "dia33_utt1 dia3_utt2 dia0_utt0 dia6_utt1 dia13_utt2 dia22_utt0 dia22_utt2 dia27_utt0".split()
# Each clip is in some pair, with both voices, on both sides: 24 choices.
PAIRS = [(0, 1), (2, 3), (4, 5), (6, 7), (0, 3), (4, 7)]


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Noise of 1.25 s as 16-bit numbers, and 30 noisy crops."""
    rng = np.random.default_rng(21)
    audio = (rng.normal(size=20_000) * 3000).astype(np.int16)
    return audio, rng.integers(0, 256, (30, 112, 112), dtype=np.uint8)


# -- the network


def test_mfccs_are_those_of_python_speech_features():
    with np.load(AUTHORS) as theirs:
        audio, _ = inputs()
        ours = mfcc((audio / 32768).astype(np.float32))
        assert ours.shape == tuple(theirs["mfcc_shape"]) and ours.dtype == np.float32
        for row, name in ((0, "mfcc_0"), (77, "mfcc_77"), (-1, "mfcc_last")):
            assert np.abs(ours[row] - theirs[name]).max() < 2e-4
    assert np.isfinite(mfcc(np.zeros(800, np.float32))).all() and mfcc(np.zeros(1, np.float32)).shape == (1, 13)


@needs_shared
def test_logits_are_those_of_the_authors_code():
    audio, faces = inputs()
    net = load_network(WEIGHTS)
    steps = torch.from_numpy(mfcc((audio / 32768).astype(np.float32))[:120])
    with np.load(AUTHORS) as theirs, torch.inference_mode():
        ours = net(steps[None], torch.from_numpy(faces).float()[None])[0]
        assert np.abs(ours.numpy() - theirs["logits"]).max() < 1e-4


def test_weights_load_by_their_released_names(tmp_path):
    torch.save(released(), tmp_path / "net.pt")
    net = load_network(tmp_path / "net.pt")
    assert not net.training
    state = released()
    del state["lossAV.FC.bias"]
    torch.save(state, tmp_path / "short.pt")
    torch.save({"lossAV.FC.weight": torch.zeros(2, 128), "other": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("short.pt", "other.pt"):
        with pytest.raises(UserError, match=name):
            load_network(tmp_path / name)


def test_encoding_in_chunks_changes_nothing(tmp_path, monkeypatch):
    torch.save(released(), tmp_path / "net.pt")
    scorer = LipScorer(tmp_path / "net.pt")
    crops = np.random.default_rng(0).integers(0, 256, (70, 112, 112), dtype=np.uint8)
    with torch.inference_mode():
        whole = scorer._faces(crops)
        monkeypatch.setattr("erc_toolkit.extract.faces.lips.scoring._CHUNK", 16)
        assert torch.allclose(scorer._faces(crops), whole, atol=1e-4)


def test_without_weights_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("erc_toolkit.extract.encoders.hub.hub_unreachable", lambda: True)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="--lips-model"):
        weights.lips_model(None)
    with pytest.raises(UserError, match="nowhere.pt"):
        weights.lips_model(tmp_path / "nowhere.pt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/lr_asd_ava.pt").write_bytes(b"an error page")
    with pytest.raises(UserError, match="SHA-256"):
        weights.lips_model(None)


@needs_shared
def test_fetched_weights_are_checked_and_kept(monkeypatch, tmp_path):
    """The download itself, from a server of this machine."""
    monkeypatch.setattr("erc_toolkit.extract.encoders.hub.hub_unreachable", lambda: False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "URL", (tmp_path / "damaged.pt").as_uri())
    (tmp_path / "damaged.pt").write_bytes(WEIGHTS.read_bytes()[:-1])
    with pytest.raises(UserError, match="--lips-model"):
        weights.lips_model(None)
    monkeypatch.setattr(weights, "URL", WEIGHTS.as_uri())
    path, sha256 = weights.lips_model(None)
    assert sha256 == weights.SHA256 and path.read_bytes() == WEIGHTS.read_bytes()
    monkeypatch.setattr(weights, "URL", "file:///nowhere")
    assert weights.lips_model(None) == (path, sha256)


# -- the crops


def seen(box) -> SeenFace:
    return SeenFace(Face(box, 0.9, None), np.zeros((64, 64), np.float32), (np.zeros((4, 4, 3), np.uint8),))


def track(times, boxes, size=(640, 360)) -> Track:
    one = Track()
    for time, box in zip(times, boxes, strict=True):
        face = seen(box)
        one.add(time, face, size)
        one.crops.append((0, time, face.crops))
    return one


def test_a_crop_is_the_square_around_the_box():
    """Against a slow and obvious crop: the image with a border, cut and resized."""
    image = cv2.resize(
        np.random.default_rng(3).integers(0, 256, (18, 32), dtype=np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC
    )
    for box in ((200, 100, 80, 112), (10, 5, 90, 112), (500, 250, 112, 100)):
        one = closeups.CloseUp.of(track([1.0, 1.2], [box] * 2), 0.9, 1.1)
        assert (one.first, one.end) == (23, 28)  # 0.92 to 1.08 s
        assert not one.wants(22) and not one.wants(28)
        one.take(25, image)
        (crop,), (k,) = one.faces()
        assert k == 25
        border = cv2.copyMakeBorder(image, 200, 200, 200, 200, cv2.BORDER_CONSTANT, value=110)
        x, y, half = round(box[0] + box[2] / 2) + 200, round(box[1] + box[3] / 2) + 200, 56
        slow = border[y - half : y + half, x - half : x + half]
        assert np.abs(crop.astype(int) - slow).mean() < 3


def test_boxes_are_followed_between_the_detections_whatever_the_resolution():
    moving = track([0.0, 1.0], [(0, 100, 100, 100), (200, 100, 100, 100)])
    small = Track()
    small.add(0.0, seen((0, 50, 50, 50)), (320, 180))
    small.add(1.0, seen((200, 100, 100, 100)), (640, 360))
    for one in (moving, small):
        found = closeups.CloseUp.of(one, 0.0, 1.0)
        assert len(found) == 26 and found.centres[10, 0] == pytest.approx((50 + 80) / 640, abs=1e-3)
        assert np.allclose(found.halves * 640, 50)


def test_a_long_utterance_is_judged_by_its_first_part():
    one = track(np.arange(0, 600, 0.2), [(0, 0, 50, 50)] * 3000)
    assert len(closeups.CloseUp.of(one, 100.0, 500.0)) == pytest.approx(closeups.MOST_S * 25, abs=1)


# -- the choice


def test_confidence_is_a_probability_of_the_evidence():
    two = confidences([Speech(1, 0.4, 50), Speech(1, -0.1, 50)])
    assert two.sum() == pytest.approx(1) and two[0] == pytest.approx(1 / (1 + np.exp(-SLOPE * 0.5)))
    assert confidences([Speech(-3, -2.0, 9)])[0] == 1


def test_choices_by_scores():
    tracks = [track([0, 0.2], [(x, 0, 50, 50)] * 2) for x in (0, 200, 400)]
    speeches = [Speech(-1, -0.5, 20), Speech(2, 1.0, 20), Speech(0.5, 0.2, 20)]
    plain = Choosing(Path("net.pt"))
    found = plain.choose(tracks, None, 16_000, speeches)
    assert found.track is tracks[1] and (found.score, found.second, found.frames) == (2, 0.5, 60)
    silent = [Speech(-1, -0.5, 20), Speech(-2, -1.0, 20), Speech(0.0, 0.0, 0)]
    gone = plain.choose(tracks, None, 16_000, silent)
    assert gone.track is None and gone.reason.startswith("speaker not in the picture:") and gone.score == -1
    assert Choosing(Path("net.pt"), "keep").choose(tracks, None, 16_000, silent).track is tracks[0]
    close = [Speech(2, 1.0, 20), Speech(2, 0.99, 20), Speech(0, 0, 0)]
    assert plain.choose(tracks, None, 16_000, close).track is tracks[0]
    unsure = Choosing(Path("net.pt"), when_unsure="mask", least_confidence=0.6).choose(tracks, None, 16_000, close)
    assert unsure.track is None and unsure.reason.startswith("unsure which face speaks:")
    nowhere = plain.choose(tracks, None, 16_000, [Speech(0, 0, 0)] * 3)  # all seen while there is no audio: by motion
    assert nowhere.track is not None and nowhere.frames == 0


def test_only_several_faces_with_audio_are_read_again():
    one, two = (track([0, 0.2], [(x, 0, 50, 50)] * 2) for x in (0, 200))
    loud, silent = np.ones(16_000, np.float32), np.zeros(16_000, np.float32)
    plain = Choosing(Path("net.pt"))
    assert len(plain.closeups([one, two], loud, None, None)) == 2
    assert plain.closeups([one], loud, None, None) == plain.closeups([one, two], silent, None, None) == []
    assert len(Choosing(Path("net.pt"), "mask-single").closeups([one], loud, None, None)) == 1
    assert Choosing(None).closeups([one, two], loud, None, None) == []


# -- real people


@needs_shared
@pytest.mark.parametrize("voice", [0, 1])
def test_the_speaking_face_of_two_real_people_is_found(tmp_path, voice):
    path = side_by_side([NEAR[2]], [NEAR[3]], voice, 2.4, tmp_path / "pair.mp4")
    one = extracted(path, Choosing(WEIGHTS))
    assert shows(one) == voice and one.scored_frames > 100
    assert one.speaker_confidence > 0.8 and one.speaker_score > one.second_score


@pytest.mark.slow
@needs_shared
def test_of_24_choices_between_two_real_people_21_are_right(tmp_path):
    right = 0
    for a, b in PAIRS:
        for left, other in ((a, b), (b, a)):
            for voice in (0, 1):
                path = side_by_side([NEAR[left]], [NEAR[other]], voice, 2.4, tmp_path / "pair.mp4")
                right += shows(extracted(path, Choosing(WEIGHTS, "keep"))) == voice
    assert right >= 21


@pytest.mark.slow
@needs_shared
def test_of_24_choices_of_5_s_23_are_right(tmp_path):
    """Each person from two clips, one after the other."""
    people = [NEAR[i : i + 2] for i in range(0, 8, 2)]
    right = 0
    for left, other in itertools.permutations(people, 2):
        for voice in (0, 1):
            path = side_by_side(left, other, voice, 5.0, tmp_path / "pair.mp4")
            right += shows(extracted(path, Choosing(WEIGHTS, "keep"))) == voice
    assert right >= 23


@needs_shared
def test_a_voice_off_screen_is_masked(tmp_path):
    """Two faces that do not move, with a voice; and one face."""
    path = side_by_side([NEAR[0]], [NEAR[3]], 0, 2.4, tmp_path / "still.mp4", still=True)
    masked = extracted(path, Choosing(WEIGHTS))
    assert not masked.series and masked.reason.startswith("speaker not in the picture: greatest score -")
    assert masked.tracks == 2 and masked.speaker_score < 0
    assert extracted(path, Choosing(WEIGHTS, "keep")).series
    assert extracted(path, Choosing(None)).series


def taking_turns(folder: Path) -> Path:
    """A file in which the left face speaks for 2.2 s, and then the right one."""
    parts = [side_by_side([NEAR[2]], [NEAR[3]], voice, 2.2, folder / f"{voice}.mp4") for voice in (0, 1)]
    (folder / "list.txt").write_text("".join(f"file '{part.name}'\n" for part in parts))
    joined = folder / "joined.mkv"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "concat", "-i", folder / "list.txt"]
    subprocess.run([*command, "-c:v", "libx264", "-c:a", "pcm_s16le", joined], check=True)
    return joined


@pytest.mark.slow
@needs_shared
def test_a_span_is_scored_on_the_files_clock(tmp_path):
    """Each span gets the face that speaks in it."""
    joined = taking_turns(tmp_path)
    first, second = extracted(joined, Choosing(WEIGHTS), 0.0, 2.2), extracted(joined, Choosing(WEIGHTS), 2.27, 4.4)
    assert (shows(first), shows(second)) == (0, 1)
    assert min(first.scored_frames, second.scored_frames) > 80


@pytest.mark.slow
@needs_shared
def test_the_faces_of_a_recording_keep_their_numbers(tmp_path):
    """Two people take turns: two tracks from the beginning to the end, and each turn is linked with its own."""
    find = SpeakingFaces("yunet", (FACES, ""), (WEIGHTS, ""))
    joined = taking_turns(tmp_path)
    links = find(joined, [(0.0, 2.2), (2.27, 4.4), (0.3, 2.0), (60.0, 61.0)])
    assert links[0].track != links[1].track and links[2].track == links[0].track
    assert {links[0].track, links[1].track} <= set(find.tracks(joined))
    assert min(one.confidence for one in links[:3]) > 0.7 and links[3].reason == "no face" and links[3].track is None
    (tmp_path / "text.mp4").write_text("no video")
    assert "unreadable" in find(tmp_path / "text.mp4", [(0.0, 1.0)])[0].reason
    silent = tmp_path / "silent.mp4"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", joined, "-an", silent], check=True)
    assert find(silent, [(0.0, 1.0)])[0].reason == "no audio"
    still = side_by_side([NEAR[0]], [NEAR[3]], 0, 2.4, tmp_path / "still.mp4", still=True)
    assert find(still, [(0.0, 2.3)])[0].reason == "speaker not in the picture"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@needs_shared
def test_the_command_line_records_the_choice(tmp_path):
    """Off screen, unsure and chosen in one corpus, with `extract` itself; and `motion` when it is asked for."""
    (tmp_path / "corpus").mkdir()
    side_by_side([NEAR[2]], [NEAR[3]], 0, 2.4, tmp_path / "corpus/a.mp4")
    side_by_side([NEAR[0]], [NEAR[3]], 0, 2.4, tmp_path / "corpus/b.mp4", still=True)
    rows = [
        f'{{"id": "{name}", "dialogue": "d", "speaker": "s", "text": "t", "split": "train", "media": "{name}.mp4"}}'
        for name in "ab"
    ]
    (tmp_path / "corpus/m.jsonl").write_text("\n".join(rows) + "\n")
    common = [
        "extract",
        "manifest",
        str(tmp_path / "corpus/m.jsonl"),
        "--modalities",
        "visual",
        "--face-model",
        str(FACES),
    ]
    common += ["--visual-model", "denseface", "--visual-weights", "random"]
    shutil.copy(WEIGHTS, tmp_path / "mine.pt")
    output = run(*common, "--out", str(tmp_path / "lips.h5"), "--lips-model", str(tmp_path / "mine.pt"))
    assert "LR-ASD (file mine.pt" in output and "speaker not in the picture" in output
    with h5py.File(tmp_path / "lips.h5") as store:
        (feature,) = store["features/visual"].values()
        details = {name: column[:] for name, column in feature["details"].items()}
        assert feature["present"][:].tolist() == [True, False]
        assert details["scored_frames"].min() > 100 and details["speaker_score"][1] < 0 < details["speaker_score"][0]
        assert details["speaker_score"][0] > details["second_score"][0]
        assert weights.SHA256 in str(dict(feature.attrs))
    output = run(*common, "--out", str(tmp_path / "motion.h5"), "--speaker-choice", "motion")
    assert "motion of the mouth" in output and "LR-ASD" not in output
    with h5py.File(tmp_path / "motion.h5") as store:
        (feature,) = store["features/visual"].values()
        assert feature["present"][:].all() and not feature["details/scored_frames"][:].any()
