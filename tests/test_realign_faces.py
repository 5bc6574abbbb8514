"""`realign meld` on real clips whose spans and faces are wrong: words and faces found again, and used by `extract`."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import ffmpeg
import h5py
import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from lips_support import CLIPS, FACES, WEIGHTS, clip, needs_shared, shows, side_by_side

from erc_toolkit.extract.alignment import ctc
from erc_toolkit.extract.alignment.overlay import apply_overlay, read_overlay
from erc_toolkit.extract.alignment.spelling import STAR, spell
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.encoders.base import Crops
from erc_toolkit.extract.faces.choice import LOST, Choosing
from erc_toolkit.extract.faces.given import GivenFace
from erc_toolkit.extract.run.media.pictures import Watched
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.media import SAMPLE_RATE, MediaReader

pytestmark = needs_shared
HOP = 0.02
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
# Seconds of another clip before a clip: so much its span is wrong.
SHIFTS = {"dia22_utt0": 0.7, "dia27_utt0": 1.3, "dia5_utt0": 0.0}
PAIR, STILL = "dia22_utt2", "dia13_utt2"
TEXTS: dict[str, str] = {}


class Knowing:
    """A CTC model that knows the clips: it looks for their audio in what it is given, and emits their letters there.

    A clip's letters are evenly between 0.3 s after its beginning and 0.3 s before its end.
    """

    rate, hop_s, blank, delimiter = SAMPLE_RATE, HOP, 0, None
    vocabulary = {letter: i + 1 for i, letter in enumerate(LETTERS)}

    def __init__(self, *_: object) -> None:
        self.known = {name: (audio_of(clip(name)), self.tokens(TEXTS[name])) for name in (*SHIFTS, PAIR, STILL)}

    @classmethod
    def tokens(cls, text: str) -> list[int]:
        return [token for token in spell(text, cls.vocabulary) if token != STAR]

    def emissions(self, samples, /):
        frames = len(samples) // round(HOP * SAMPLE_RATE)
        found = np.full((frames, len(LETTERS) + 1), math.log(0.001), np.float32)
        found[:, 0] = math.log(0.97)
        (audio, tokens), at = max(
            ((known, place(samples, known[0])) for known in self.known.values()), key=lambda one: one[1][1]
        )
        for time, token in zip(times(len(audio) / SAMPLE_RATE, len(tokens)) + at[0], tokens, strict=True):
            if 0 <= (k := round(time / HOP)) < frames:
                found[k] = math.log(0.001)
                found[k, token] = math.log(0.97)
        return found

    def provenance(self):
        return {"model": "knows the clips"}


def times(seconds: float, count: int) -> np.ndarray:
    return np.linspace(0.3, seconds - 0.3, count)


def audio_of(path: Path) -> np.ndarray:
    with MediaReader(path) as media:
        media.finish()
    return media.samples


def place(samples: np.ndarray, part: np.ndarray) -> tuple[float, float]:
    """Where a part is in samples, in seconds, and their correlation there."""
    n = 1 << (len(samples) + len(part)).bit_length()
    both = np.fft.irfft(np.fft.rfft(samples, n) * np.fft.rfft(part, n).conj(), n)
    k = int(np.argmax(both))
    return (k if k < len(samples) else k - n) / SAMPLE_RATE, float(both[k] / np.linalg.norm(part))


def shifted(name: str, seconds: float, out: Path) -> None:
    """A clip with so many seconds of another one before it."""
    sources = [ffmpeg.input(str(clip("dia13_utt1")), t=seconds)] if seconds else []
    streams = []
    for source in [*sources, ffmpeg.input(str(clip(name)))]:
        streams += [source.video.filter("scale", 640, 360).filter("fps", 24), source.audio]
    joined = ffmpeg.concat(*streams, v=1, a=1).node
    job = ffmpeg.output(joined[0], joined[1], str(out), vcodec="libx264", crf=20, acodec="aac", loglevel="error")
    job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """MELD's layout: three shifted clips, one of two people of whom the right one speaks, one of two who do not."""
    root = tmp_path_factory.mktemp("meld")
    folder = root / "train_splits"
    folder.mkdir()
    table = (CLIPS / "train_sent_emo.csv").read_bytes()
    (root / "train_sent_emo.csv").write_bytes(table)
    for row in csv.DictReader(table.decode("utf-8", "replace").splitlines()):
        TEXTS[f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"] = row["Utterance"]
    for name, seconds in SHIFTS.items():
        shifted(name, seconds, folder / f"{name}.mp4")
    side_by_side(["dia27_utt0"], [PAIR], 1, 2.6, folder / f"{PAIR}.mp4")
    side_by_side([STILL], ["dia27_utt0"], 0, 2.4, folder / f"{STILL}.mp4", still=True)
    return root


MODELS = ["--face-model", str(FACES), "--workers", "2", "--device", "cpu"]


def run(*words: object, status: int = 0) -> str:
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def overlay(root, tmp_path_factory):
    """The overlay that the command writes, and what it prints."""
    out = tmp_path_factory.mktemp("overlay") / "overlay.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "CtcModel", Knowing)
        said = run("realign", "meld", root, "--out", out, "--padding", 0, "--lips-model", WEIGHTS, *MODELS)
    return out, said


def rows(path: Path) -> dict[str, dict]:
    return {row["id"].removeprefix("train_"): row for row in map(json.loads, path.read_text().splitlines()[1:])}


def test_shifts_of_real_clips_are_found_within_100_ms(overlay):
    found = rows(overlay[0])
    for name, shift in SHIFTS.items():
        first, last = times(len(audio_of(clip(name))) / SAMPLE_RATE, 2)
        row = found[name]
        assert row["start"] == pytest.approx(first + shift, abs=0.1), name
        assert row["end"] == pytest.approx(last + shift, abs=0.1) and row["score"] > 0.4 and not row["flags"], name
    assert "no audio" in found["dia7_utt0"]["flags"] and found["dia7_utt0"]["start"] is None


def test_faces_are_found_in_the_new_spans(overlay):
    found, said = rows(overlay[0]), overlay[1]
    for name in (*SHIFTS, PAIR):
        row = found[name]
        face = row["face"]
        assert face["span"] == [row["start"], row["end"]] and face["score"] > 0 and face["region"] is None
        assert all(row["start"] - 0.01 <= box[0] <= row["end"] + 0.01 for box in face["boxes"]), name
    assert all(left > 0.5 for _, left, *_ in found[PAIR]["face"]["boxes"]) and found[PAIR]["face"]["confidence"] > 0.5
    assert "speaker not in the picture" in found[STILL]["flags"] and not found[STILL]["face"]["boxes"]
    assert "no speaking face" in found["dia5_utt1"]["flags"]
    assert "yunet" in said and "LR-ASD" in said and "4 speaking faces" in said
    head = json.loads(overlay[0].read_text().splitlines()[0])
    assert head["faces"]["face_model_sha256"] == hashlib.sha256(FACES.read_bytes()).hexdigest()


def extract(root: Path, out: Path, *more: object) -> str:
    words = ["--modalities", "visual", "--visual-model", "denseface", "--visual-weights", "random", *MODELS]
    return run("extract", "meld", root, "--out", out, "--speaker-choice", "motion", *words, *more)


def test_extraction_follows_the_overlay(overlay, root, tmp_path):
    path, _ = overlay
    store = tmp_path / "s.h5"
    said = extract(root, store, "--overlay", path)
    for part in ("overlay.jsonl (sha256", "with the speaker's face", "1 utterance off screen", "left as they are"):
        assert part in said, part
    found = rows(path)
    with h5py.File(store) as opened:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in str(opened.attrs["notes"])
        (feature,) = opened["features/visual"].values()
        ids = [name.decode().removeprefix("train_") for name in opened["utterances/id"][:]]
        present, reasons = feature["present"][:], [text.decode() for text in feature["reason"][:]]
        sure = dict(zip(ids, feature["details/speaker_confidence"][:], strict=True))
        assert not feature["details/scored_frames"][:].any()
    for name in (*SHIFTS, PAIR):
        assert present[ids.index(name)], reasons[ids.index(name)]
        assert sure[name] == pytest.approx(found[name]["face"]["confidence"], abs=1e-4)
    assert reasons[ids.index(STILL)].startswith("speaker not in the picture: greatest score -")
    assert "nothing to do" in extract(root, store, "--overlay", path)
    # Without the overlay only the rows that it concerns are made again.
    said = extract(root, store)
    assert "5 changed, 0 new, 11 unchanged" in said


def test_keep_ignores_that_a_speaker_is_off_screen(overlay, root, tmp_path):
    said = extract(root, tmp_path / "s.h5", "--overlay", overlay[0], "--off-screen", "keep")
    assert "1 utterance off screen" in said and "11 missing file" in said  # and no other reason
    assert "not in the picture" not in said


def test_a_manifest_keeps_the_faces(overlay, root, tmp_path):
    """`manifest build --overlay` and `extract manifest` give what `extract --overlay` does."""
    run("manifest", "build", "meld", root, "--overlay", overlay[0], "--out", tmp_path / "m.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()[1:]]
    faces = {line["id"].removeprefix("train_"): line.get("speaker_face", {}) for line in lines}
    assert len(faces[PAIR]["boxes"]) > 3 and "by the overlay" in faces[STILL]["off_screen"] and not faces["dia7_utt0"]


def test_what_changed_since_is_left_out(overlay, root, tmp_path):
    """Text, video, and the region in which faces were looked for."""
    manifest = read_corpus("meld", root)
    by_id = {u.id.removeprefix("train_"): k for k, u in enumerate(manifest.utterances)}

    def applied(name: str, **changes: object):
        utterances = list(manifest.utterances)
        utterances[by_id[name]] = dataclasses.replace(utterances[by_id[name]], **changes)
        new = apply_overlay(dataclasses.replace(manifest, utterances=utterances), overlay[0])
        return new.utterances[by_id[name]], new.notes[-1]

    assert applied(PAIR)[0].speaker_face is not None
    u, note = applied(PAIR, text="other words")
    assert u.speaker_face is None and u.start is None and "1 utterance whose text, span or media changed" in note
    u, note = applied(PAIR, region=(0.0, 0.0, 0.5, 1.0))
    assert u.speaker_face is None and u.start is not None and "1 utterance whose video or region changed" in note


def test_faces_are_looked_for_again_only_where_they_must_be(overlay, root, tmp_path, monkeypatch):
    monkeypatch.setattr(ctc, "CtcModel", Knowing)
    words = ["realign", "meld", root, "--padding", 0, *MODELS]
    out = tmp_path / "overlay.jsonl"
    out.write_bytes(overlay[0].read_bytes())
    count = len(rows(out))
    assert f"{count} of {count} utterances are known" in run(*words, "--out", out, "--lips-model", WEIGHTS)
    assert out.read_bytes() == overlay[0].read_bytes()
    # Words without faces are kept, and faces are added to them; the result is the same.
    plain = tmp_path / "plain.jsonl"
    run(*words[:5], "--device", "cpu", "--out", plain, "--faces", "no")
    assert "face" not in rows(plain)[PAIR] and not rows(plain)[STILL]["flags"]
    calls = []
    monkeypatch.setattr(Knowing, "emissions", lambda self, samples: calls.append(1))
    run(*words, "--out", plain, "--lips-model", WEIGHTS)
    assert not calls and rows(plain) == rows(overlay[0])


def test_mistakes_are_one_line(root, tmp_path, monkeypatch):
    monkeypatch.setattr(ctc, "CtcModel", Knowing)
    words = ["realign", "meld", root, "--out", tmp_path / "o.jsonl", "--device", "cpu"]
    assert "--faces no" in run(*words, "--faces", "no", "--lips-model", WEIGHTS, status=2)
    missing = run(*words, "--face-model", tmp_path / "none.onnx", status=1)
    assert "--face-model" in missing and "no such file" in missing
    missing = run(*words, "--face-model", FACES, "--lips-model", tmp_path / "none.pt", status=1)
    assert "--lips-model" in missing and not list(tmp_path.iterdir())


def test_without_the_models_auto_says_so(root, tmp_path, monkeypatch):
    from erc_toolkit.extract.alignment import faces
    from erc_toolkit.toolkit.base.errors import UserError

    def absent(*_: object):
        raise UserError("the detector is not on this machine")

    monkeypatch.setattr(ctc, "CtcModel", Knowing)
    monkeypatch.setattr(faces, "face_model", absent)
    words = ["realign", "meld", root, "--out", tmp_path / "o.jsonl", "--device", "cpu"]
    assert "faces: not looked for; the detector is not" in run(*words)
    assert read_overlay(tmp_path / "o.jsonl")[1][0].face is None
    assert "not on this machine" in run(*words, "--faces", "yes", "--overwrite", status=1)


def followed(path: Path, face: GivenFace, choosing: Choosing) -> Watched:
    request = MediaRequest({"visual": Crops(64)}, "yunet", FACES, 5, 0.1, 100, 600, choosing=choosing)
    span = Span(0, None, None, None, ["visual"], face=face)
    (one,) = process((0, Task(path, [span]), request)).utterances
    return one.watched[Crops]


def test_a_given_face_decides(root):
    """The left or the right one, whoever speaks; masked where there is none, and where the confidence is too low."""
    path = root / "train_splits" / f"{PAIR}.mp4"
    one = followed(path, GivenFace(np.zeros((0, 5)), off_screen="no"), Choosing(None, "keep"))
    tracks = [one.boxes[0], one.boxes[-1]]
    half = 0 if tracks[0][1] < 0.5 else 1
    mirrored = [(time, left + (0.5 if half == 0 else -0.5), *rest) for time, left, *rest in one.boxes]
    for boxes, side in ((one.boxes, half), (mirrored, 1 - half)):
        box = np.array(boxes)
        box[:, 3:] *= 1.2  # the other person's face is not in the very same place
        found = followed(path, GivenFace(box, 0.7, 1.5), Choosing(WEIGHTS))
        assert shows(found) == side and found.speaker_confidence == 0.7 and found.scored_frames == 0
    nowhere = np.array([[0.0, 0.0, 0.9, 0.05, 0.05]])
    assert followed(path, GivenFace(nowhere, 0.7), Choosing(None)).reason == LOST
    unsure = followed(path, GivenFace(np.array(one.boxes), 0.3), Choosing(None, when_unsure="mask"))
    assert unsure.reason.startswith("unsure which face speaks")
    off = followed(path, GivenFace(np.zeros((0, 5)), 0.3, -1.0, "greatest score -1.00"), Choosing(None))
    assert off.reason == "speaker not in the picture: greatest score -1.00"
