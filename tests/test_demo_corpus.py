"""The demo corpus is what it says: real clips with faces that detectors find, the same each time, true to its
script."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from erc_toolkit.extract.faces.detection import face_model, make_detector, overlap
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.demo.corpus import make_corpus
from erc_toolkit.toolkit.demo.faces import render
from erc_toolkit.toolkit.demo.looks import speaker_look
from erc_toolkit.toolkit.demo.script import EMOTIONS, FPS, MODALITIES, RELIABILITY, SPEAKERS, stream, write_dialogue
from erc_toolkit.toolkit.demo.voice import OUT_RATE, speak
from erc_toolkit.toolkit.media import MediaReader


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("demo") / "raw", seed=5, train=1, dev=1, test=1)


def digest(root) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def test_layout_is_melds(made):
    tables = {
        "train": ("train_sent_emo.csv", "train_splits"),
        "dev": ("dev_sent_emo.csv", "dev_splits_complete"),
        "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
    }
    for split, (table, folder) in tables.items():
        with open(made.root / table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        clips = {p.name for p in (made.root / folder).iterdir()}
        assert clips == {f"dia{r['Dialogue_ID']}_utt{r['Utterance_ID']}.mp4" for r in rows}
        assert len(rows) == made.clips[split] > 0 and {r["Emotion"] for r in rows} <= set(EMOTIONS)


def test_every_clip_has_video_and_audio(made):
    seconds = 0.0
    for clip in made.root.rglob("*.mp4"):
        with MediaReader(clip, fps=FPS) as media:
            frames = sum(1 for _ in media.frames())
            media.finish()
        assert FPS <= frames <= 2 * FPS + 1 and not media.truncated
        assert abs(len(media.samples) / 16000 - frames / FPS) < 0.15 and 0.05 < np.abs(media.samples).max() < 1
        seconds += frames / FPS
    assert abs(seconds - made.seconds) < 1.0


def found_rate(kind, model) -> float:
    """Share of frames in which the detector finds the drawn face in its place, over all speakers and emotions."""
    detector, hits, count = make_detector(kind, model), 0, 0
    for speaker in SPEAKERS:
        for emotion in EMOTIONS:
            frames, boxes = render(
                speaker_look(0, speaker), emotion, np.linspace(0, 1, 6), stream(1, "test", speaker, emotion)
            )
            for frame, box in list(zip(frames, boxes, strict=True))[::3]:
                hits += any(
                    overlap(face.box, tuple(box)) > 0.4 for face in detector(np.ascontiguousarray(frame[..., ::-1]))
                )
                count += 1
    return hits / count


@pytest.mark.slow
def test_haar_finds_the_faces():
    assert found_rate("haar", face_model("haar", None)[0]) > 0.9


def test_yunet_finds_the_faces(shared):
    assert found_rate("yunet", shared / "models" / "yunet_n_640_640.onnx") > 0.9


@pytest.mark.slow
def test_the_same_seed_yields_the_same_bytes(made, tmp_path):
    again = make_corpus(tmp_path / "raw", seed=5, train=1, dev=1, test=1, workers=1)
    assert digest(again.root) == digest(made.root)
    other = make_corpus(tmp_path / "other", seed=6, train=1, dev=0, test=0)
    clip = "train_splits/dia0_utt0.mp4"
    assert digest(other.root)[clip] != digest(made.root)[clip]


@pytest.mark.slow
def test_a_finished_corpus_is_kept_and_an_unfinished_one_replaced(made):
    clip = next(made.root.rglob("*.mp4"))
    before, when = digest(made.root), clip.stat().st_mtime_ns
    assert not make_corpus(made.root, seed=5, train=1, dev=1, test=1).new
    assert clip.stat().st_mtime_ns == when
    marker = made.root / "demo.json"
    marker.write_text(marker.read_text().replace('"finished": true', '"finished": false'))
    clip.unlink()
    assert make_corpus(made.root, seed=5, train=1, dev=1, test=1).new
    assert digest(made.root) == before


def test_another_folder_is_left_unchanged(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        make_corpus(tmp_path, train=1, dev=0, test=0)
    assert (tmp_path / "thesis.txt").read_text() == "important"


def test_each_modality_carries_part_of_the_emotion():
    """Every modality shows the truth about as often as it should, and no two of them fail together more than by
    chance."""
    lines = [line for d in range(400) for line in write_dialogue(0, "train", d)]
    right = {m: np.array([line.shown[m] == line.emotion for line in lines]) for m in MODALITIES}
    for m in MODALITIES:
        assert abs(right[m].mean() - RELIABILITY[m]) < 0.03
    for a, b in (("words", "voice"), ("words", "face"), ("voice", "face")):
        assert abs((right[a] & right[b]).mean() - right[a].mean() * right[b].mean()) < 0.03
    counts = Counter(line.emotion for line in lines)
    assert counts.most_common(1)[0][0] == "neutral" and min(counts.values()) / len(lines) > 0.04


def test_voices_differ_by_emotion():
    """For every speaker, anger is louder than sadness, and surprise higher than disgust."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)

    def measure(speaker, emotion):
        audio, loudness = speak(speaker, emotion, 8, 16, stream(2, "test", speaker, emotion))
        assert audio.dtype == np.float32 and len(audio) == 16 * OUT_RATE // FPS and len(loudness) == 16
        pitch = smile.process_signal(audio[::3], 16000)["F0semitoneFrom27.5Hz_sma3nz_amean"].iloc[0]
        return float(np.sqrt(np.mean(audio**2))), float(pitch)

    for speaker in SPEAKERS:
        assert measure(speaker, "anger")[0] > 2 * measure(speaker, "sadness")[0]
        assert measure(speaker, "surprise")[1] > measure(speaker, "disgust")[1] + 3
