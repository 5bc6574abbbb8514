"""The extraction run from raw clips to the store, through the command line, with real media and its defects."""

from __future__ import annotations

import json
import subprocess
import wave

import numpy as np
import pytest
from click.testing import CliRunner
from kill_support import run_until

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.clips import write_clip
from erc_toolkit.toolkit.media import FULL_SCALE, ffmpeg_binary
from erc_toolkit.toolkit.store import FeatureStore

SMALL = [
    "--audio-set",
    "eGeMAPSv02",
    "--visual-model",
    "denseface",
    "--visual-weights",
    "random",
    "--face-detector",
    "haar",
    "--smallest-face",
    "0.25",
]


def run(*arguments) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def samples_via_wav(path) -> np.ndarray:
    """The audio of a clip, decoded in another way: through a WAV file written by ffmpeg, as in the field's recipes."""
    wav = path.with_suffix(".test.wav")
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", "-i", path, "-ac", "1", "-ar", "16000", wav], check=True)
    with wave.open(str(wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    wav.unlink()
    return np.clip(samples, -1, FULL_SCALE).astype(np.float32)


@pytest.fixture(scope="module")
def extracted(raw, text_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    command = ["extract", "meld", raw, "--out", folder / "store.h5", "--text-model", text_encoder, *SMALL]
    output = run(*command, "--save-crops", folder / "crops")
    return folder / "store.h5", output, folder / "crops"


DEFECTS = {
    "train_dia0_utt0": ("unreadable file", "unreadable file"),
    "train_dia0_utt1": ("missing file", "missing file"),
    "train_dia0_utt2": ("no audio track", "no face found"),
    "train_dia0_utt3": ("silent audio", "black frames"),
    "train_dia0_utt4": ("", "no video track"),
    "train_dia1_utt0": ("empty file", "empty file"),
}


def test_exactly_the_defects_are_masked(extracted):
    path, output, _ = extracted
    with FeatureStore.open(path) as store:
        ids = store.column("id")
        for k, name in enumerate(("audio/eGeMAPSv02", "visual/denseface")):
            reasons = {i: r.split(":")[0] for i, r in zip(ids, store.feature(name).reasons(), strict=True) if r}
            assert reasons == {i: d[k] for i, d in DEFECTS.items() if d[k]}
        assert store.feature("text/" + store.feature_names()[1].split("/")[1]).present().all()
        store.verify()
    assert "missing file" in output and f"wrote {path}" in output


def test_audio_equals_the_wav_recipe(raw, extracted):
    """Exactly opensmile's result on the decoded samples; equal to a WAV file's samples within 16-bit rounding."""
    import opensmile

    from erc_toolkit.toolkit.media import MediaReader

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    with FeatureStore.open(extracted[0]) as store:
        values = store.feature("audio/eGeMAPSv02").values()
        names = store.feature("audio/eGeMAPSv02").dimension_names()
        rows = [i for i, p in enumerate(store.feature("audio/eGeMAPSv02").present()) if p][-5:]
        for row in rows:
            clip = raw / store.column("media")[row]
            with MediaReader(clip) as media:
                media.finish()
            table = smile.process_signal(media.samples, 16000)
            assert list(table.columns) == names and (values[row] == table.to_numpy(np.float32)[0]).all()
            plain = samples_via_wav(clip)
            assert len(plain) == len(media.samples) and np.abs(plain - media.samples).max() <= 1 / 32768
            assert store.feature("audio/eGeMAPSv02").details()["seconds"][row] == len(plain) / 16000


def test_crops_are_written_and_faces_counted(extracted):
    import cv2

    path, _, crops = extracted
    with FeatureStore.open(path) as store:
        feature = store.feature("visual/denseface")
        present, details = feature.present(), feature.details()
        assert len(list(crops.glob("*.png"))) == present.sum() > 10
        assert (details["faces"][present] >= 0.8 * details["frames"][present]).all()
        sheet = cv2.imread(str(crops / f"{store.column('id')[int(np.argmax(present))]}.png"))
        assert sheet.shape[0] == 64 and sheet.shape[1] % 64 == 0 and sheet.std() > 20


def test_provenance(extracted):
    found = json.loads(run("info", extracted[0], "--json"))
    visual = found["features"]["visual/denseface"]["made"]
    assert visual["parameters"]["face_detector"] == "haar" and visual["weights"] == "random, seed 0"
    assert len(visual["weights_sha256"]) == 64 and visual["versions"]["opencv"]
    assert visual["parameters"].get("smallest_face") == 0.25
    assert found["features"]["audio/eGeMAPSv02"]["made"]["versions"]["opensmile"] == "2.6.0"
    assert found["features"]["audio/eGeMAPSv02"]["reasons"]["missing file"] == 1


@pytest.mark.slow
def test_a_second_run_produces_the_same_content(raw, extracted, text_encoder, tmp_path):
    """The number of workers does not matter."""
    run("extract", "meld", raw, "--out", tmp_path / "again.h5", "--text-model", text_encoder, *SMALL, "--workers", 1)
    with FeatureStore.open(extracted[0]) as one, FeatureStore.open(tmp_path / "again.h5") as two:
        assert one.content_hash == two.content_hash


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Six seconds in one file: a different tone each second; the left half of the frame black, the right half grey."""
    folder = tmp_path_factory.mktemp("long")
    t = np.arange(48000) / 48000
    audio = np.concatenate([0.3 * np.sin(2 * np.pi * (200 + 100 * k) * t) for k in range(6)]).astype(np.float32)
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, 80:] = 130
    write_clip(folder / "long.mp4", [image] * 90, audio, fps=15)
    return folder / "long.mp4"


def test_spans_of_one_long_file(long_clip, tmp_path):
    import opensmile

    from erc_toolkit.toolkit.media import MediaReader

    rows = [
        {"id": f"u{k}", "dialogue": "d", "speaker": "S", "text": "x", "media": "long.mp4", **span}
        for k, span in enumerate(
            [
                {"start": 0, "end": 1, "region": [0, 0, 0.5, 1]},
                {"start": 2.5, "end": 4, "region": [0.5, 0, 1, 1]},
                {"start": 5, "end": 6},
                {"start": 5, "end": 9},
                {"start": 3, "end": 2},
                {"start": -1, "end": 1},
                {"start": 2, "end": 2.001},
                {"start": 7, "end": 8},
                {"start": 1, "end": 2, "mask": {"audio": "microphone off", "visual": "camera off"}},
            ]
        )
    ]
    (long_clip.parent / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(
        "extract", "manifest", long_clip.parent / "m.jsonl", "--out", tmp_path / "s.h5", "--modalities", "audio", *SMALL
    )
    with MediaReader(long_clip) as media:
        media.finish()
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("audio/eGeMAPSv02")
        for row, (start, end) in enumerate([(0, 1), (2.5, 4), (5, 6)]):
            expected = smile.process_signal(media.samples[int(start * 16000) : int(end * 16000)], 16000)
            assert (feature.values()[row] == expected.to_numpy(np.float32)[0]).all()
        kinds = [r.split(":")[0] for r in feature.reasons()]
        assert kinds == [
            "",
            "",
            "",
            "beyond the end of the file",
            "invalid time span",
            "invalid time span",
            "audio too short for eGeMAPSv02",
            "beyond the end of the file",
            "microphone off",
        ]
        assert store.column("start_s")[1] == 2.5


def test_a_modality_that_no_utterance_has_fails(long_clip, tmp_path):
    """Neither half of the frame shows a face, and a store without a single visual row would be useless."""
    rows = [
        {"id": f"u{k}", "dialogue": "d", "speaker": "S", "media": "long.mp4", "start": k, "end": k + 1}
        for k in range(3)
    ]
    rows[0]["region"] = [0, 0, 0.5, 1]
    (long_clip.parent / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        "extract",
        "manifest",
        str(long_clip.parent / "v.jsonl"),
        "--out",
        str(tmp_path / "v.h5"),
        "--modalities",
        "visual",
        *SMALL,
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert all(fact in result.output for fact in ("visual/denseface", "no face found", str(tmp_path / "v.h5")))
    assert not list(tmp_path.iterdir())


def test_a_separate_audio_file(long_clip, tmp_path):
    """A close microphone in addition to a camera: audio from one file, frames from the other."""
    tone = (0.3 * np.sin(np.arange(32000) / 20)).astype(np.float32)
    write_clip(long_clip.parent / "mic.m4a", None, tone)
    row = {
        "id": "u",
        "dialogue": "d",
        "speaker": "S",
        "text": "x",
        "media": "none.mp4",
        "audio": "mic.m4a",
        "start": 1,
        "end": 2,
    }
    (long_clip.parent / "a.jsonl").write_text(json.dumps(row))
    run(
        "extract", "manifest", long_clip.parent / "a.jsonl", "--out", tmp_path / "a.h5", "--modalities", "audio", *SMALL
    )
    with FeatureStore.open(tmp_path / "a.h5") as store:
        seconds = store.feature("audio/eGeMAPSv02").details()["seconds"][0]
        assert store.feature("audio/eGeMAPSv02").present()[0] and abs(seconds - 32000 / 48000) < 0.1


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_store(raw, tmp_path, text_encoder):
    """A run that is killed leaves nothing under the store's name."""
    command = ["extract", "meld", raw, "--out", tmp_path / "s.h5", "--text-model", text_encoder, *SMALL]
    run_until(command, "finish", r"audio--eGeMAPSv02/\d+-\w+\.npz$", group=True)
    assert not (tmp_path / "s.h5").exists()


def test_meld_mini(shared, tmp_path, text_encoder):
    """Real people talking: a face in every intact clip, and exactly the defective clips masked."""
    run(
        "extract",
        "meld",
        shared / "corpora" / "meld-mini",
        "--out",
        tmp_path / "m.h5",
        "--text-model",
        text_encoder,
        "--audio-set",
        "IS10",
        "--visual-model",
        "denseface",
        "--visual-weights",
        "random",
        "--face-model",
        shared / "models" / "yunet_n_640_640.onnx",
    )
    found = json.loads(run("info", tmp_path / "m.h5", "--json", "--missing"))["features"]
    assert {i: r.split(":")[0] for i, r in found["audio/IS10"]["missing"].items()} == {
        "train_dia5_utt2": "unreadable file",
        "train_dia7_utt0": "no audio track",
        "train_dia13_utt0": "silent audio",
        "test_dia0_utt1": "missing file",
    }
    assert {i: r.split(":")[0] for i, r in found["visual/denseface"]["missing"].items()} == {
        "train_dia5_utt2": "unreadable file",
        "train_dia13_utt0": "black frames",
        "test_dia0_utt1": "missing file",
    }
    with FeatureStore.open(tmp_path / "m.h5") as store:
        details = store.feature("visual/denseface").details()
        present = store.feature("visual/denseface").present()
        # Counts of the chosen face; the film also shows others.
        assert details["faces"][present].sum() > 0.75 * details["frames"][present].sum()
        alone = details["tracks"] == 1
        assert (details["speaker_confidence"][alone] == 1).all() and 5 < alone.sum() < present.sum()
        assert (details["speaker_confidence"][present & ~alone] < 1).all()


@pytest.mark.slow
def test_iemocap_mini_shows_who_speaks(shared, tmp_path):
    """The two actors sit side by side in one frame: each turn's crops show the actor who speaks."""
    run(
        "extract",
        "iemocap",
        shared / "corpora" / "iemocap-mini",
        "--out",
        tmp_path / "i.h5",
        "--modalities",
        "visual",
        "--visual-model",
        "denseface",
        "--visual-weights",
        "random",
        "--face-model",
        shared / "models" / "yunet_n_640_640.onnx",
    )
    with FeatureStore.open(tmp_path / "i.h5") as store:
        who = np.array([id.split("_")[-1][0] for id in store.column("id")])
        dialogue, values = store.column("dialogue"), store.feature("visual/denseface").values()
        assert store.feature("visual/denseface").present().all() and set(who) == {"F", "M"}
    for row in range(len(who)):
        elsewhere = np.flatnonzero(dialogue != dialogue[row])
        nearest = elsewhere[np.linalg.norm(values[elsewhere] - values[row], axis=1).argmin()]
        assert who[nearest] == who[row]
