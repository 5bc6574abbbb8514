"""`predict` and `package`: from a new recording to subtitles with emotions, with the same extraction as the run's."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit.extract import recording
from erc_toolkit.extract.recording import extract_recording, read_recording, recorded_options
from erc_toolkit.extract.transcripts.subtitles.files import parse_cues, parse_subtitles
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest
from erc_toolkit.toolkit.predict.predictor import Predictor
from erc_toolkit.toolkit.predict.turns import Turn, subrip, table, webvtt
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.inference.turn_classifier import TurnClassifier, extraction_of


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(intact, tmp_path_factory):
    """A run on a small demo corpus: text, reduced openSMILE, faces; with a copy of its text encoder."""
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(intact, root / "raw")
    make_text_encoder(root / "little-roberta", ["I am so happy to see you!", "What do you want from me?"] * 3)
    run(
        "extract",
        "meld",
        root / "raw",
        "--out",
        root / "store.h5",
        "--text-model",
        root / "little-roberta",
        "--audio-set",
        "eGeMAPS",
        "--visual-model",
        "denseface",
        "--visual-weights",
        "random",
        "--face-detector",
        "haar",
        "--fps",
        "2",
    )
    run("reduce", root / "store.h5", "--feature", "audio/eGeMAPS", "--to", "8", "--method", "pca")
    run(
        "train",
        root / "store.h5",
        "--out",
        root / "run",
        "--recipe",
        "demo",
        "--set",
        "train.epochs=2",
        "--set",
        "data.audio=eGeMAPS-pca8",
    )
    return root


@pytest.fixture(scope="module")
def scene(trained) -> Path:
    """The clips of one demo dialogue, in a row in one video, with subtitles that name the speakers."""
    from erc_toolkit.toolkit.media import ffmpeg_binary

    folder = trained / "scene"
    folder.mkdir()
    table = trained / "raw" / "test_sent_emo.csv"
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    clips, cues, now = [], [], 0.0
    with FeatureStore.open(trained / "store.h5") as store:
        seconds = dict(zip(store.column("id"), store.feature("audio/eGeMAPS").details()["seconds"], strict=True))
    for row in rows[:4]:
        name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        clips.append(next((trained / "raw" / "output_repeated_splits_test").glob(f"{name}.mp4")))
        length = seconds[f"test_{name}"]
        cues.append((now, now + length, row["Speaker"], row["Utterance"]))
        now += length
    (folder / "list.txt").write_text("".join(f"file '{clip}'\n" for clip in clips))
    command = [
        ffmpeg_binary(),
        "-v",
        "error",
        "-f",
        "concat",
        "-safe",
        "0",
        "-i",
        str(folder / "list.txt"),
        "-c",
        "copy",
        str(folder / "scene.mp4"),
    ]
    subprocess.run(command, check=True)
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-i", str(folder / "scene.mp4"), "-vn", str(folder / "scene.wav")], check=True
    )
    stamp = "{:02d}:{:02d}:{:02d},{:03d}"

    def at(s: float) -> str:
        ms = round(1000 * s)
        return stamp.format(ms // 3600000, ms // 60000 % 60, ms // 1000 % 60, ms % 1000)

    srt = "\n".join(f"{i}\n{at(a)} --> {at(b)}\n{who}: {text}\n" for i, (a, b, who, text) in enumerate(cues, 1))
    (folder / "scene.srt").write_text(srt, encoding="utf-8")
    turns = [{"start": a, "end": b, "speaker": who, "text": text} for a, b, who, text in cues]
    (folder / "scene.json").write_text(json.dumps({"segments": turns}), encoding="utf-8")
    return folder / "scene.mp4"


@pytest.fixture(scope="module")
def predicted(trained, scene) -> Path:
    output = run("predict", trained / "run", scene, "--transcript", scene.with_suffix(".srt"), "--out", trained / "out")
    assert "wrote" in output and "turns.srt" in output
    return trained / "out"


def test_a_recording_becomes_turns_with_emotions(trained, scene, predicted):
    content = json.loads((predicted / "turns.json").read_text(encoding="utf-8"))
    cues = parse_subtitles(scene.with_suffix(".srt").read_text(encoding="utf-8"))
    assert [(t["speaker"], t["text"]) for t in content["turns"]] == [(c.speaker, c.text) for c in cues]
    for turn in content["turns"]:
        p = turn["probabilities"]
        assert list(p) == content["labels"] and sum(p.values()) == pytest.approx(1)
        assert turn["emotion"] == max(p, key=p.get) and turn["probability"] == p[turn["emotion"]]
        assert set(turn["opinions"]) == {"text", "audio", "visual"}
    assert content["features"]["audio"] == "audio/eGeMAPS-pca8" and content["absent"] == {}
    rows = list(csv.DictReader(io.StringIO((predicted / "turns.csv").read_text(encoding="utf-8"))))
    assert [r["emotion"] for r in rows] == [t["emotion"] for t in content["turns"]]
    assert "audio_emotion" in rows[0] and f"p_{content['labels'][0]}" in rows[0]
    # What we write are subtitles that our own parser, and players, read.
    for name in ("turns.srt", "turns.vtt"):
        back = parse_cues((predicted / name).read_text(encoding="utf-8")).cues
        assert [c.start for c in back] == [c.start for c in cues]
        assert all(
            t["emotion"] in c.text or t["emotion"] in c.speaker for c, t in zip(back, content["turns"], strict=False)
        )
    assert content["speakers"]["use"] == "embedding" and set(content["speakers"]["given"]) == {c.speaker for c in cues}
    page = (predicted / "report.html").read_text(encoding="utf-8")
    assert 'src="../scene/scene.mp4"' in page
    assert "scene.mp4" in page and "predictions of a model" in page and "http" not in page.split("</style>")[1]


def test_a_recording_without_a_transcript_gets_its_turns_which_can_be_corrected(trained, scene, monkeypatch):
    from transcribe_support import make_voices, make_whisper

    from erc_toolkit.extract.diarization.loading import Loader

    models = ["--asr-model", make_whisper(trained / "whisper"), "--speaker-model", make_voices(trained / "voices")]
    command = ["predict", trained / "run", scene, "--out", trained / "found", "--language", "en", *models]
    assert "--speaker-count" in run(*command, "--speaker-count", "1", "--transcript", scene.with_suffix(".srt"), code=2)
    run(*command, "--names", "Ann")
    found = json.loads((trained / "found" / "transcript.json").read_text(encoding="utf-8"))["turns"]
    turns = json.loads((trained / "found" / "turns.json").read_text(encoding="utf-8"))["turns"]
    assert turns and turns[0]["speaker"] == "Ann"
    assert [(t["start"], t["end"], t["text"]) for t in turns] == [(t["start"], t["end"], t["text"]) for t in found]
    assert "transcript.json" in (trained / "found" / "report.html").read_text(encoding="utf-8")
    # The next run takes what was corrected there, and needs no model for it.
    monkeypatch.setattr(Loader, "models", lambda self: pytest.fail("models were loaded"))
    monkeypatch.setattr(Loader, "recogniser", lambda self: pytest.fail("models were loaded"))
    rttm = trained / "found" / "transcript.rttm"
    rttm.write_text(rttm.read_text(encoding="utf-8").replace(" Ann ", " Zoe "), encoding="utf-8")
    assert "transcript.rttm" in run(*command, "--names", "Ann")
    again = json.loads((trained / "found" / "turns.json").read_text(encoding="utf-8"))["turns"]
    assert again[0]["speaker"] == "Zoe" and [t["text"] for t in again] == [t["text"] for t in turns]


def test_features_are_those_of_the_run(trained, predicted):
    """The recording's features are extracted by the same models with the same parameters, as the store records."""
    with FeatureStore.open(trained / "store.h5") as old, FeatureStore.open(predicted / "features.h5") as new:
        for name in ("text/little-roberta", "audio/eGeMAPS", "visual/denseface"):
            a, b = old.feature(name).attrs, new.feature(name).attrs
            for key in ("extractor", "model", "parameters", "weights_sha256", "options"):
                assert a.get(key) == b.get(key), (name, key)
        assert new.labels == old.labels and (new.column("label") == -1).all()


def test_reduction_and_predictions_are_the_runs_own(trained):
    """On the run's own test dialogues, `TurnClassifier` agrees with the predictions.csv of `eval`."""
    rows = {
        r["id"]: r
        for r in csv.DictReader(io.StringIO((trained / "run" / "predictions.csv").read_text(encoding="utf-8")))
    }
    judge = TurnClassifier(trained / "run", "cpu", lambda line: None)
    with FeatureStore.open(trained / "store.h5") as store:
        turns = {t.id: t for t in judge.turns(store)[0]}
    assert rows
    for name, row in rows.items():
        assert turns[name].emotion == row["predicted"]
        assert turns[name].probability == pytest.approx(float(row[f"p_{row['predicted']}"]), abs=2e-5)
        assert {m: o and o[0] for m, o in turns[name].opinions.items()} == {
            m: row[f"predicted_{m}"] or None for m in ("text", "audio", "visual")
        }


def test_causal_judges_from_the_past_alone(trained, scene, predicted):
    """Each turn is predicted as in a dialogue that ends with it; later turns make no difference."""
    judge = TurnClassifier(trained / "run", "cpu", lambda line: None)
    with FeatureStore.open(predicted / "features.h5") as store:
        turns, batch = judge.turns(store, causal=True)
        import torch

        for end in range(1, len(turns) + 1):
            with torch.inference_mode():
                alone = judge.model(batch.rows(0, end)).logits[-1].double().softmax(-1).cpu()
            assert list(turns[end - 1].probabilities.values()) == pytest.approx(alone.tolist(), abs=1e-9)
        both_ways, _ = judge.turns(store)
    assert turns[-1].probabilities == pytest.approx(both_ways[-1].probabilities, abs=1e-6)
    assert any(abs(a.probability - b.probability) > 1e-4 for a, b in zip(turns[:-1], both_ways[:-1], strict=True))
    output = run(
        "predict", trained / "run", scene, "--transcript", scene.with_suffix(".srt"), "--out", predicted, "--causal"
    )
    assert "nothing to do" in output  # the features are there already
    assert json.loads((predicted / "turns.json").read_text())["causal"] is True


def test_another_recording_of_the_same_name(trained, scene, tmp_path):
    """With the same --out, each prediction is that of its own recording and transcript, as in a new folder."""
    from erc_toolkit.toolkit.media import ffmpeg_binary

    cues = json.loads(scene.with_suffix(".json").read_text(encoding="utf-8"))["segments"]
    for folder in "ab":
        (tmp_path / folder).mkdir()
    shutil.copy(scene, tmp_path / "a" / "take7.mp4")
    late = str(cues[1]["start"])  # the same conversation from the second turn on: other words at the same time
    cut = [ffmpeg_binary(), "-v", "error", "-ss", late, "-i", str(scene), str(tmp_path / "b" / "take7.mp4")]
    subprocess.run(cut, check=True)
    length = cues[-1]["end"] - cues[1]["start"]
    turns = [turn for turn in cues if turn["end"] <= length]
    assert len(turns) > 1
    (tmp_path / "t.json").write_text(json.dumps(turns), encoding="utf-8")
    corrected = [{**turns[0], "text": "What do you want from me?"}, *turns[1:]]
    (tmp_path / "c.json").write_text(json.dumps(corrected), encoding="utf-8")

    def predicted(recording: str, transcript: str, out: str) -> tuple[list, str]:
        words = ["predict", trained / "run", tmp_path / recording / "take7.mp4", "--transcript", tmp_path / transcript]
        printed = run(*words, "--out", tmp_path / out)
        return json.loads((tmp_path / out / "turns.json").read_text())["turns"], printed

    first, _ = predicted("a", "t.json", "p")
    second, printed = predicted("b", "t.json", "p")
    assert f"{len(turns)} changed" in printed
    assert second == predicted("b", "t.json", "q")[0] and second != first
    third, printed = predicted("b", "c.json", "p")
    assert "audio/eGeMAPS: already in" in printed and "1 changed, 0 new" in printed
    fresh = predicted("b", "c.json", "r")[0]
    assert [t["text"] for t in third] == [t["text"] for t in fresh] and third != second
    for a, b in zip(third, fresh, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_audio_without_video_and_silence(trained, scene, tmp_path):
    output = run(
        "predict",
        trained / "run",
        scene.with_suffix(".wav"),
        "--transcript",
        scene.with_suffix(".json"),
        "--out",
        tmp_path / "o",
    )
    assert "visual: absent in this recording" in output
    content = json.loads((tmp_path / "o" / "turns.json").read_text(encoding="utf-8"))
    assert "no video" in content["absent"]["visual"]
    assert all(t["opinions"]["visual"] is None and t["missing"]["visual"] for t in content["turns"])
    assert all(t["opinions"]["audio"] for t in content["turns"])
    assert "visual" in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    silent = tmp_path / "silent.json"
    silent.write_text(json.dumps([{"start": 0, "end": 1, "speaker": "A", "text": ""}]))
    from scipy.io import wavfile

    wavfile.write(tmp_path / "silent.wav", 16000, np.zeros(16000, np.int16))
    output = run(
        "predict", trained / "run", tmp_path / "silent.wav", "--transcript", silent, "--out", tmp_path / "p", code=1
    )
    assert all(fact in output for fact in ("silent.wav: ", "text", "audio", "visual"))


def test_what_can_be_refused_is_refused_before_extraction(trained, scene, tmp_path):
    out = tmp_path / "o"
    given = ["--transcript", scene.with_suffix(".json"), "--out", out]
    text = tmp_path / "clip.mp4"
    text.write_text("Not a recording,\nbut a text.\n")
    assert "is no recording" in (said := run("predict", trained / "run", text, *given, code=1)) and str(text) in said
    assert said.startswith("Error: ") and said.count("\n") == 1
    for choice, code in (("Zed=1", 1), ("=1", 2)):
        assert choice in run("predict", trained / "run", scene, *given, "--speaker", choice, code=code)
    names = {turn["speaker"] for turn in json.loads(scene.with_suffix(".json").read_text())["segments"]}
    name = sorted(names)[0]
    said = run("predict", trained / "run", scene, *given, "--speaker", f"{name}=nobody", code=1)
    assert f"{name}=nobody" in said and "text:" not in said  # no encoder was loaded
    assert not out.exists()


@pytest.mark.slow
def test_a_full_disk_is_refused_before_extraction(trained, scene, tmp_path):
    command = [sys.executable, "-m", "erc_toolkit", "predict", str(trained / "run"), str(scene)]
    command += ["--transcript", str(scene.with_suffix(".json")), "--out", str(tmp_path / "o")]
    limit = 'ulimit -f 1000; exec "$@"'  # 1,000 KiB, as a disk with no more space
    found = subprocess.run(["bash", "-c", limit, "bash", *command], capture_output=True, text=True, timeout=300)
    assert found.returncode == 1 and "Traceback" not in found.stderr, found.stderr
    assert found.stderr.splitlines()[-1].startswith("Error: ") and str(tmp_path / "o") in found.stderr
    assert "text:" not in found.stdout  # no encoder was loaded


def test_any_number_of_speakers_and_turns_beyond_the_end(trained, scene, tmp_path):
    """The model's store has at most a few speakers in a dialogue; the graphs ask only who is the same."""
    turns = [
        {"start": i / 4, "end": i / 4 + 0.2, "speaker": f"Person {i % 12}", "text": "مرحبا" if i == 3 else f"Turn {i}."}
        for i in range(16)
    ]
    turns[-1] |= {"start": 30, "end": 31}
    (tmp_path / "crowd.json").write_text(json.dumps(turns))
    wav, out = scene.with_suffix(".wav"), tmp_path / "o"
    given = ["--transcript", tmp_path / "crowd.json", "--out", out, "--speaker", "Person 3=1"]
    said = run("predict", trained / "run", wav, *given)
    assert "1 of 16 turns end after the end" in said and "speakers: " in said and "mean" in said
    content = json.loads((out / "turns.json").read_text(encoding="utf-8"))
    given = content["speakers"]["given"]
    assert given["Person 3"] == {"as": "1", "why": "--speaker"} and len(given) == 12
    assert {given[name]["as"] for name in list(given)[-3:]} == {"the mean"}
    assert {t["missing"]["visual"] for t in content["turns"]} == {"no video track"} == {content["absent"]["visual"]}
    assert "audio" in content["turns"][-1]["missing"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'src="' in page and "<audio" in page and str(tmp_path) not in page and "Person 11" in page


@pytest.mark.slow
def test_extraction_and_classification_are_on_the_same_device(trained, scene, tmp_path, monkeypatch):
    asked = []

    def pick(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    for place in ("toolkit.base.device", "extract.recording", "train.inference.turn_classifier"):
        monkeypatch.setattr(f"erc_toolkit.{place}.pick_device", pick)
    given = [trained / "run", scene, "--transcript", scene.with_suffix(".json"), "--out", tmp_path / "o"]
    run("predict", *given, "--device", "cuda:1")
    # The classifier, the text encoder, the face network and the run; openSMILE is always on the CPU.
    assert asked.count("cpu") == 1 and asked.count("cuda:1") >= 3 and set(asked) == {"cpu", "cuda:1"}


@pytest.mark.slow
def test_a_package_works_elsewhere(trained, scene, predicted, tmp_path):
    run("package", trained / "run", "--out", tmp_path / "pkg")
    run("package", trained / "run", "--out", tmp_path / "pkg")  # an unchanged package is replaced
    files = {p.relative_to(tmp_path / "pkg").as_posix() for p in (tmp_path / "pkg").rglob("*") if p.is_file()}
    assert {"config.yaml", "model.safetensors", "labels.json", "extraction.yaml", "README.md", "result.json"} <= files
    assert any(name.startswith("encoders/text_model/little-roberta/") for name in files)
    assert not [name for name in files if name.endswith((".pt", ".bin", ".pkl"))]
    for name in ("config.yaml", "labels.json", "extraction.yaml", "README.md", "result.json"):
        assert str(trained) not in (tmp_path / "pkg" / name).read_text(encoding="utf-8"), name
    card = (tmp_path / "pkg" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    result = json.loads((trained / "run" / "result.json").read_text())["result"]
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * result["test"]["weighted_f1"], 2)
    assert "audEERING" in card and "validation" in card

    # Another folder, without the original files, and a script of three lines without `if __name__ == "__main__"`.
    shutil.move(tmp_path / "pkg", tmp_path / "elsewhere")
    hidden = trained / "little-roberta-hidden"
    (trained / "little-roberta").rename(hidden)
    try:
        lost = run(
            "predict",
            trained / "run",
            scene,
            "--transcript",
            scene.with_suffix(".srt"),
            "--out",
            tmp_path / "x",
            code=1,
        )
        assert "little-roberta" in lost and "--text-model" in lost
        (tmp_path / "three.py").write_text(
            "from erc_toolkit.toolkit.predict.predictor import Predictor\n"
            "predictor = Predictor('elsewhere')\n"
            f"turns = predictor.predict({str(scene)!r}, {str(scene.with_suffix('.srt'))!r})\n"
            "print([(t.emotion, t.probability) for t in turns])\n"
        )
        done = subprocess.run([sys.executable, "three.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # The same model may also be given by its current path.
        moved = tmp_path / "moved" / "little-roberta"
        moved.parent.mkdir()
        shutil.copytree(hidden, moved)
        run(
            "predict",
            trained / "run",
            scene,
            "--transcript",
            scene.with_suffix(".srt"),
            "--out",
            tmp_path / "y",
            "--text-model",
            moved,
        )
    finally:
        hidden.rename(trained / "little-roberta")
    expected = json.loads((tmp_path / "y" / "turns.json").read_text(encoding="utf-8"))["turns"]
    found = eval(done.stdout, {"__builtins__": {}})
    assert [e for e, _ in found] == [t["emotion"] for t in expected]
    assert [p for _, p in found] == pytest.approx([t["probability"] for t in expected], abs=1e-6)


@pytest.mark.slow
def test_a_link_and_a_recognisers_milliseconds(trained, scene, tmp_path):
    """The link's target is opened, whatever the link is called; the unit is said; a wrong one is refused at once."""
    (tmp_path / "latest").symlink_to(scene)
    turns = json.loads(scene.with_suffix(".json").read_text())["segments"]
    rows = [f'{round(1000 * t["start"])},{round(1000 * t["end"])},"{t["text"]}"' for t in turns]
    (tmp_path / "t.csv").write_text("\n".join(["start,end,text", *rows]), encoding="utf-8")
    given = ["predict", trained / "run", tmp_path / "latest", "--transcript", tmp_path / "t.csv", "--out"]
    output = run(*given, tmp_path / "no", "--time-unit", "s", code=1)
    assert "t.csv" in output and "of 4 turns" in output and not (tmp_path / "no").exists()
    output = run(*given, tmp_path / "out")
    assert "note: t.csv: times read as milliseconds" in output
    content = json.loads((tmp_path / "out" / "turns.json").read_text(encoding="utf-8"))
    assert [t["id"] for t in content["turns"]] == [f"latest_{i}" for i in range(4)]
    assert all(abs(t["start"] - u["start"]) < 0.001 for t, u in zip(content["turns"], turns, strict=True))
    assert all(t["opinions"]["audio"] and t["opinions"]["visual"] for t in content["turns"])
    assert "NUL" in run(*given, f"{tmp_path}/a\0b", code=1)


def test_another_model_is_refused(trained, scene, tmp_path):
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    other = make_text_encoder(
        tmp_path / "little-roberta", ["Other words altogether, to make another vocabulary."] * 3, seed=9
    )
    output = run(
        "predict",
        trained / "run",
        scene,
        "--transcript",
        scene.with_suffix(".srt"),
        "--out",
        tmp_path / "o",
        "--text-model",
        other,
        code=1,
    )
    assert "weights sha256" in output
    output = run(
        "predict",
        trained / "run",
        scene,
        "--transcript",
        scene.with_suffix(".srt"),
        "--audio-model",
        "x",
        "--out",
        tmp_path / "p",
        code=1,
    )
    assert output.count("\n") <= 6


def test_a_hostile_package_stays_in_its_folder(trained, tmp_path):
    run("package", trained / "run", "--out", tmp_path / "pkg")
    config = tmp_path / "pkg" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("encoders/text_model/little-roberta", "encoders/../../outside"), encoding="utf-8")
    with pytest.raises(UserError, match="pkg: its text_model .*outside.* --text-model"):
        extraction_of(tmp_path / "pkg")
    made, _ = extraction_of(tmp_path / "pkg", ["text_model"])
    assert made["text"]["text_model"] == "encoders/../../outside"
    for broken in ("options: 3", "options: [1]"):
        config.write_text(text.replace("options:\n", f"{broken}\n        other:\n", 1), encoding="utf-8")
        with pytest.raises(UserError, match="config.yaml|text"):
            extraction_of(tmp_path / "pkg")


def test_a_converted_feature_cannot_be_extracted_again(trained, scene, tmp_path):
    run(
        "export",
        trained / "store.h5",
        "--format",
        "npz",
        "--out",
        tmp_path / "x.npz",
        "--feature",
        "text/little-roberta",
        "--feature",
        "audio/eGeMAPS",
    )
    run("convert", tmp_path / "x.npz", "--out", tmp_path / "x.h5")
    run(
        "train",
        tmp_path / "x.h5",
        "--out",
        tmp_path / "run",
        "--recipe",
        "demo",
        "--set",
        "train.epochs=1",
        "--set",
        "data.modalities=[text]",
    )
    output = run(
        "predict", tmp_path / "run", scene, "--transcript", scene.with_suffix(".srt"), "--out", tmp_path / "o", code=1
    )
    assert "text" in output and "converted" in output and output.count("\n") == 1
    assert "converted" in run("package", tmp_path / "run", "--out", tmp_path / "pkg", code=1)


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"save_crops": "/tmp"}, "'save_crops'"),
        ({"workers": 10**6}, "'workers'"),
        ({"fps": 1e9}, "fps"),
        ({"fps": "many"}, "fps"),
        ({"fps": [1]}, "fps: [1]"),
        ({"face_detector": "mine"}, "face_detector"),
        ({"most_frames": 0}, "most_frames"),
        ({"most_frames": True}, "most_frames: True"),
        ({"text_model": "x"}, "'text_model'"),
    ],
)
def test_a_package_can_only_set_options_of_features(change, wanted):
    assert recorded_options("visual", {"fps": 2.0, "face_model": None, "most_frames": 7}).most_frames == 7
    with pytest.raises(UserError, match=re.escape(wanted)):
        recorded_options("visual", {"fps": 2.0, **change})


def test_tf32_is_float32_without_cuda(monkeypatch, tmp_path):
    used: list[str] = []
    monkeypatch.setattr(recording, "extract", lambda manifest, out, options, **_: used.append(options.precision))
    monkeypatch.setattr(recording, "slowness", lambda *_: "")  # is measured, so it depends on the machine
    for precision, lines in (("tf32", 1), ("bfloat16", 0)):
        said: list[str] = []
        options = {"text": {"precision": precision}}
        extract_recording(Manifest("x", [], tmp_path, []), tmp_path, options, device="cpu", notify=said.append)
        assert len(said) == lines and all("tf32" in line for line in said)
    assert used == ["float32", "bfloat16"]


GOOD = [
    {"start": 0.5, "end": 1.25, "speaker": "Ann", "text": "Hi, you."},
    {"start": 61.0, "end": 62.0, "speaker": "Bob", "text": "“No.”"},
]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", 'start,end,speaker,text\n0.5,1.25,Ann,"Hi, you."\n61,62,Bob,“No.”\n'),
        (
            "b.csv",
            '\ufeffSpeaker,Utterance,StartTime,EndTime\nAnn,"Hi, you.","00:00:00,500","00:00:01,250"\n'
            "Bob,“No.”,1:01,00:01:02.0\n",
        ),
        ("c.json", json.dumps(GOOD)),
        ("d.json", json.dumps({"segments": GOOD[::-1], "language": "en"})),
        ("e.srt", "1\n00:00:00,500 --> 00:00:01,250\nAnn: Hi, you.\n\n2\n00:01:01,000 --> 00:01:02,000\nBob: “No.”\n"),
        ("f.vtt", "WEBVTT\n\n00:00.500 --> 00:01.250\n<v Ann>Hi, you.\n\n01:01.000 --> 01:02.000\n<v Bob>“No.”\n"),
    ],
)
def test_transcripts(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    manifest = read_recording(tmp_path / "clip.mp4", tmp_path / name, ["joy"])
    found = [{"start": u.start, "end": u.end, "speaker": u.speaker, "text": u.text} for u in manifest.utterances]
    assert found == GOOD and [u.id for u in manifest.utterances] == ["clip_0", "clip_1"] and manifest.labels == ["joy"]


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("a.csv", "start,end,speaker,text\nx,1,A,hi\n", "row 1, start: 'x'"),
        ("a.csv", "speaker,text\nA,hi\n", "row 1, start: None"),
        ("a.csv", "", "no turn"),
        ("a.json", "{", "JSON"),
        ("a.json", "3", "list of turns"),
        ("a.json", "[3]", "turn 1: "),
        ("a.json", '[{"start": -1, "end": 2}]', "turn 1, start: -1"),
        ("a.json", '[{"start": NaN, "end": 2}]', "turn 1, start: nan"),
        ("a.txt", "hi", ".srt, .vtt, .csv or .json"),
        ("a.srt", "1\nhi\n", "line 1: '1'"),
    ],
)
def test_bad_transcripts_are_named(name, text, wanted, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(UserError) as error:
        read_recording(tmp_path / "clip.mp4", tmp_path / name, ["joy"])
    assert wanted in error.value.message and name in error.value.message and "\n" not in error.value.message


def test_missing_files_are_named(trained, scene, tmp_path):
    for arguments in ((tmp_path / "none.mp4", scene.with_suffix(".srt")), (scene, tmp_path / "none.srt")):
        output = run(
            "predict", trained / "run", arguments[0], "--transcript", arguments[1], "--out", tmp_path / "o", code=1
        )
        assert f"{tmp_path}/none." in output
    (tmp_path / "latin.srt").write_bytes(b"\xff\xfe\x00")
    output = run(
        "predict", trained / "run", scene, "--transcript", tmp_path / "latin.srt", "--out", tmp_path / "o", code=1
    )
    assert "latin.srt" in output and "UTF-8" in output
    assert "config.yaml" in run("predict", tmp_path, scene, "--transcript", scene.with_suffix(".srt"), code=1)
    with pytest.raises(UserError, match="nothing"):
        Predictor(trained / "run", models={"audio_model": "x"} | {"nothing": "y"})


names = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=12)


@given(names, names, st.floats(0, 1e5), st.sampled_from(["joy", "a b", "<c>", "-->"]))
def test_subtitles_never_break(speaker, text, start, emotion):
    """Any transcript results in one cue per turn, and a table with as many rows."""
    turn = Turn("x", speaker, text, start, start + 1, emotion, 0.5, {emotion: 0.5}, {"text": None}, {})
    for made in (subrip([turn, turn]), webvtt([turn, turn])):
        assert made.count(" --> ") == 2 and len(parse_cues(made).cues) >= 2
    assert len(list(csv.DictReader(io.StringIO(table([turn, turn]), newline="")))) == 2


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium on this machine"
)
def test_a_browser_finds_the_recording_beside_the_page_or_says_so(trained, scene, predicted, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")

    def dom(page: Path) -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command = [str(browser), *options, f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom"]
        return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout

    place = re.compile(r'<(?:video|audio) id="player"[^>]*>|<p[^>]* id="unplayed"[^>]*>')
    shutil.copytree(scene.parent, tmp_path / "moved" / "scene")
    shutil.copytree(predicted, tmp_path / "moved" / "out")
    wav = (predicted / "report.html").read_text(encoding="utf-8").replace("scene/scene.mp4", "scene/scene.wav")
    (tmp_path / "moved" / "out" / "wav.html").write_text(wav, encoding="utf-8")
    player, note = place.findall(dom(tmp_path / "moved" / "out" / "wav.html"))
    assert "hidden" not in player and "hidden" in note
    shutil.rmtree(tmp_path / "moved" / "scene")
    shown = dom(tmp_path / "moved" / "out" / "wav.html")
    player, note = place.findall(shown)
    assert "hidden" in player and "hidden" not in note and "../scene/scene.wav" in shown
    turns = json.loads((predicted / "turns.json").read_text(encoding="utf-8"))["turns"]
    assert shown.count('class="play"') == len(turns) == shown.count("<rect")
