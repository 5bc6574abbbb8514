"""The command `transcribe`, with real silero-vad and little random models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_support import erc
from kill_support import run_until
from transcribe_support import content_of, demo_voice, make_voices, make_whisper, tones, write_wav

from erc_toolkit.extract.diarization import recognition
from erc_toolkit.extract.encoders import hub
from erc_toolkit.toolkit.base import extras
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import load_manifest

PARTS = [("", 0.5), ("low", 3), ("", 0.5), ("high", 2), ("", 2), ("low", 2), ("", 0.5), ("high", 3), ("", 0.5)]


@pytest.fixture
def talk(tmp_path) -> Path:
    return write_wav(tmp_path / "talk.wav", tones(PARTS))


@pytest.fixture(scope="module")
def little(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_whisper(folder / "whisper")
    make_voices(folder / "voices")
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Two of the demo's voices, far apart, for two minutes."""
    rng = np.random.default_rng(0)
    parts = []
    for i in range(3):
        parts += [demo_voice(("Alma", "Boris")[i % 2], 3, i), rng.normal(0, 1e-3, 45 * 16000).astype(np.float32)]
    return write_wav(tmp_path_factory.mktemp("scene") / "scene.wav", np.concatenate(parts))


def words_of(little: Path, *more: object) -> list[str]:
    models = ["--asr-model", little / "whisper", "--speaker-model", little / "voices", "--device", "cpu"]
    return [str(word) for word in (*models, "--language", "en", *more)]


def test_a_killed_run_loses_at_most_a_piece_and_gives_the_same(little, scene, tmp_path):
    arguments = ["transcribe", scene, "--out", tmp_path / "turns.json", *words_of(little)]
    run_until(arguments, "append", r"turns\.json\.part$", 2)
    part = tmp_path / "turns.json.part"
    kept = part.read_text(encoding="utf-8").splitlines()
    assert len(kept) == 2 and not (tmp_path / "turns.json").exists()  # its header and the first piece
    part.write_text("\n".join([*kept, kept[1][: len(kept[1]) // 2]]), encoding="utf-8")  # as after a power failure
    done = erc(*arguments)
    assert done.returncode == 0 and "continuing after" in done.stdout, done.stdout + done.stderr
    assert not part.exists()
    whole = tmp_path / "whole"
    whole.mkdir()
    done = erc("transcribe", scene, "--out", whole / "turns.json", *words_of(little))
    assert done.returncode == 0 and "continuing" not in done.stdout
    one, two = (content_of(folder / "turns.json") for folder in (tmp_path, whole))
    assert one["turns"] == two["turns"] and len(one["turns"]) >= 3


def test_a_folder_goes_on_after_a_bad_file(little, tmp_path):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    write_wav(root / "sub" / "good.wav", demo_voice("Alma", 3))
    (root / "bad.mp4").write_bytes(b"no media")
    write_wav(root / "silent.wav", np.zeros(32000, np.float32))
    (root / "notes.txt").write_text("no recording")
    command = ["transcribe", root, "--out", tmp_path / "out", *words_of(little)]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 3 and "bad.mp4" in result.output, result.output
    assert "1 recording left out" in result.output and "silent.wav" in result.output.splitlines()[-1]
    assert content_of(tmp_path / "out" / "sub" / "good.json")["turns"]
    assert content_of(tmp_path / "out" / "silent.json")["reason"] == "no voice was found"
    assert not (tmp_path / "out" / "bad.json").exists()
    # The manifest of the same folder; the turns are there already, and a name is corrected in place.
    srt = tmp_path / "out" / "sub" / "good.vtt"
    srt.write_text(srt.read_text(encoding="utf-8").replace("<v speaker_1>", "<v Ann>"), encoding="utf-8")
    result = CliRunner().invoke(
        main,
        ["manifest", "build", "recordings", str(root), "--work", str(tmp_path / "out"), "--out"]
        + [str(tmp_path / "m.jsonl"), *words_of(little)[:4], "--language", "en"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    manifest = load_manifest(tmp_path / "m.jsonl")
    assert {u.dialogue for u in manifest.utterances} == {"sub/good"}
    assert {u.speaker for u in manifest.utterances} == {"Ann"} or not manifest.utterances[0].text
    assert any("bad.mp4" in note for note in manifest.notes) and any("silent" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("x.mp4", b"no media at all", "x.mp4"), ("empty.wav", b"", "empty.wav"), (None, None, "no such file")],
)
def test_what_is_no_recording_is_one_line_before_any_model(tmp_path, name, content, message):
    path = tmp_path / (name or "missing.mp4")
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(main, ["transcribe", str(path), "--out", str(tmp_path / "t.json")])
    assert result.exit_code == 1 and message in result.output and len(result.output.splitlines()) == 1


def test_models_that_cannot_be_reached_are_one_line_before_the_recording_is_decoded(talk, little, monkeypatch):
    for module in (recognition, hub):
        monkeypatch.setattr(module, "hub_unreachable", lambda: True)
    for option in ("--asr-model", "--speaker-model"):
        words = words_of(little)
        words[words.index(option) + 1] = "nobody/nothing"
        result = CliRunner().invoke(main, ["transcribe", str(talk), "--out", str(talk.with_name("t.json")), *words])
        assert result.exit_code == 1 and option in result.output and "Traceback" not in result.output
        assert not talk.with_name("t.json.part").exists()


def test_without_the_extra_the_remedy_is_named(talk, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["transcribe", str(talk), "--out", str(talk.with_name("t.json"))])
    assert result.exit_code == 1 and "pip install 'erc-toolkit[recordings]'" in result.output


def test_the_extra_is_imported_only_by_what_needs_it():
    ours = "recording diarization.transcribe corpora.recordings commands.transcribe".split()
    names = ("faster_whisper", "ctranslate2", "onnxruntime", "silero_vad", "sklearn")
    code = "import sys, json, importlib\n"
    code += "".join(f"importlib.import_module('erc_toolkit.extract.{name}')\n" for name in ours)
    code += f"print(json.dumps([name for name in {names} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
