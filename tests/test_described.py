"""Texts that are read with a sentence about the voice: whose sentence it is, what is done again, and what refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from features_support import FLAGS, LABELS, LONG_AGO, arguments, assert_same, content, encoders, names, run
from kill_support import run_until
from scipy.io import wavfile
from test_prosody import voice

from erc_toolkit.extract.encoders.audio.prosody_words import describe
from erc_toolkit.extract.encoders.base import Turn
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.run.assembly import merge, parts_root
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.predict.live import LiveOptions, LivePredictor
from erc_toolkit.toolkit.predict.predictor import Predictor
from erc_toolkit.toolkit.store import FeatureStore

WORDS = ["I am so happy to see you!", "What?", "This is the worst day of my life.", "Hello.", "no", "my day, my day"]
PITCHES = [110, 220, 120, 230, 180, 190, 115, 225, 112, 221]
LOUDNESS = [0.1, 0.05, 0.12, 0.2, 0.02, 0.06, 0.1, 0.05, 0.11, 0.05]


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def speak(path: Path, pitch: float, loudness: float, when: int = LONG_AGO) -> None:
    wavfile.write(path, 16_000, (32_000 * voice(pitch, loudness)).clip(-32_000, 32_000).astype(np.int16))
    os.utime(path, (when, when))


def voices(root: Path) -> Manifest:
    """Ten utterances of two speakers in two dialogues, and one of a third who has no audio."""
    root.mkdir()
    for i, (pitch, loudness) in enumerate(zip(PITCHES, LOUDNESS, strict=True)):
        speak(root / f"u{i}.wav", pitch, loudness)
    rows = [
        Utterance(
            f"u{i}", f"d{i // 6}", i % 6, ("Ann", "Bob")[i % 2], WORDS[i % 6], LABELS[i % 2], "train", f"u{i}.wav"
        )
        for i in range(10)
    ]
    manifest = Manifest("toy", LABELS, root, [*rows, Utterance("x", "d1", 4, "Cid", "And me?", None, "train")])
    write_manifest(manifest, root / "m.jsonl")
    return manifest


def sentences(store: Path) -> list[str]:
    """What `describe` says of the prosody in a store."""
    with FeatureStore.open(store) as opened:
        prosody = opened.feature("audio/prosody")
        speakers = [opened.speaker_names[index] for index in opened.column("speaker")]
        texts = opened.column("text").tolist()
        return describe(prosody.values(), prosody.present(), speakers, prosody.details()["seconds"], texts)


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> dict[str, str]:
    return encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def model(lines) -> Path:
    return Path(lines["text/words"].removeprefix("text:").split("@")[0])


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Manifest:
    return voices(tmp_path_factory.mktemp("spoken") / "wav")


@pytest.fixture(scope="module")
def described(model) -> str:
    return f"text:{model}@describe=prosody"


@pytest.fixture(scope="module")
def store(spoken, described, tmp_path_factory) -> Path:
    """An uninterrupted run; do not change it."""
    out = tmp_path_factory.mktemp("described") / "s.h5"
    run(spoken, out, [described])
    return out


def test_texts_are_read_with_their_sentence(spoken, model, store, described, tmp_path):
    """The rows are those of the encoder, called by hand; the prosody is that of a run with nothing else."""
    assert names(store) == ["audio/prosody", "text/words"]
    told = sentences(store)
    assert len(set(told)) >= 4 and told[10] == "" and any("much" in one for one in told) and sum(map(bool, told)) == 10
    encoder = TextEncoder(str(model), describe="prosody")
    turns = [Turn(u.text, u.speaker, (), sentence) for u, sentence in zip(spoken.utterances, told, strict=True)]
    values, reasons, _ = encoder(turns)
    plain, _, _ = encoder([replace(turn, described="") for turn in turns])
    with FeatureStore.open(store) as opened:
        feature = opened.feature("text/words")
        assert not any(reasons) and feature.present().all()
        np.testing.assert_allclose(feature.values(), values, atol=1e-5)
        apart = np.abs(feature.values() - plain).max(1) > 1e-3
        assert apart.tolist() == [bool(sentence) for sentence in told]
    run(spoken, tmp_path / "p.h5", ["prosody"])
    assert_same(tmp_path / "p.h5", store, "audio/prosody")
    # With prosody asked for, in another order, and by options: the same store.
    run(spoken, tmp_path / "a.h5", [described, "prosody"])
    run(spoken, tmp_path / "b.h5", ["prosody", described])
    words = ["--modalities", "text", "--text-model", model, "--describe", "prosody"]
    call("extract", "manifest", spoken.root / "m.jsonl", "--out", tmp_path / "c.h5", *FLAGS, *words)
    for one in "abc":
        assert content(tmp_path / f"{one}.h5") == content(store)
    assert "nothing to do" in run(spoken, tmp_path / "a.h5", [described])[1][-1]
    # Beside the same model without sentences, which needs a name.
    with pytest.raises(UserError, match="text/words is asked for twice"):
        run(spoken, tmp_path / "d.h5", [described, f"text:{model}"])
    run(spoken, tmp_path / "d.h5", [described, f"text:{model}@name=plain"])
    assert_same(tmp_path / "d.h5", store, "text/words")
    with FeatureStore.open(tmp_path / "d.h5") as opened:
        np.testing.assert_allclose(opened.feature("text/plain").values(), plain, atol=1e-5)


@pytest.mark.slow
def test_killed_between_the_media_and_the_texts(spoken, described, store, tmp_path):
    out = tmp_path / "s.h5"
    words = arguments(spoken, out, [described])
    run_until(words, "finish", r"audio--prosody/\d+-\w+\.npz$", 3, group=True)
    assert not list(parts_root(out).glob("text--*/*.npz"))
    run_until(words, "finish", r"text--words/\d+-\w+\.npz$", 1, group=True)
    prosody = sorted(path.stat().st_mtime_ns for path in parts_root(out).glob("audio--prosody/*.npz"))
    assert len(prosody) >= 5 and not list(parts_root(out).glob("text--*/*.npz")) and not out.exists()
    run_until(words, "finish", r"/s\.h5$", 1, group=True)
    assert sorted(p.stat().st_mtime_ns for p in parts_root(out).glob("audio--prosody/*.npz")) == prosody
    assert "resuming" in call(*words)
    assert content(out) == content(store) and not parts_root(out).exists()


def test_another_voice_changes_the_texts_whose_sentence_changes(spoken, described, store, tmp_path, monkeypatch):
    """And no others are read again: neither those of the other speaker nor those that are told the same."""
    manifest, out = voices(tmp_path / "wav"), tmp_path / "s.h5"
    shutil.copyfile(store, out)
    assert "nothing to do" in run(manifest, out, [described])[1][-1]
    before = sentences(out)
    read: list[Turn] = []
    real = TextEncoder.extract

    def reading(self, utterances, done):
        read.extend(utterances)
        return real(self, utterances, done)

    monkeypatch.setattr(TextEncoder, "extract", reading)
    speak(manifest.root / "u4.wav", 111, 0.3, LONG_AGO + 5)
    run(manifest, out, [described])
    after = sentences(out)
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed[4] and sum(changed) >= 2 and not all(changed) and not any(changed[1::2])
    assert [turn.described for turn in read] == [one for one, other in zip(after, changed, strict=True) if other]
    assert [turn.text for turn in read] == [
        u.text for u, other in zip(manifest.utterances, changed, strict=True) if other
    ]
    run(manifest, tmp_path / "fresh.h5", [described])
    with FeatureStore.open(out) as a, FeatureStore.open(tmp_path / "fresh.h5") as b, FeatureStore.open(store) as old:
        mine, fresh, earlier = (one.feature("text/words") for one in (a, b, old))
        assert mine.made_from() == fresh.made_from()
        np.testing.assert_allclose(mine.values(), fresh.values(), atol=1e-5)
        keys = zip(mine.made_from()[0], earlier.made_from()[0], strict=True)
        assert [x != y for x, y in keys] == changed
        # To the last bits only: a kept row may be that of an equal text in another batch.
        same = np.abs(mine.values() - earlier.values()).max(1) < 1e-5
        assert (same | changed).all() and not (same & changed).any()
    assert_same(out, tmp_path / "fresh.h5", "audio/prosody")
    # Another voice that tells the same: nothing is read.
    read.clear()
    speak(manifest.root / "u4.wav", 111.2, 0.3, LONG_AGO + 9)
    run(manifest, out, [described])
    assert sentences(out) == after and not read
    with FeatureStore.open(out) as a, FeatureStore.open(tmp_path / "fresh.h5") as b:
        assert a.feature("text/words").made_from() == b.feature("text/words").made_from()
        assert a.feature("audio/prosody").made_from()[0][4] != b.feature("audio/prosody").made_from()[0][4]


def test_a_run_without_the_texts(spoken, described, model, store, tmp_path):
    """Keeps them as long as no voice changed; then they are left out, with the reason, until they are read again."""
    manifest, out = voices(tmp_path / "wav"), tmp_path / "s.h5"
    shutil.copyfile(store, out)
    for line in ("opensmile:IS09", f"text:{model}@name=plain", "prosody"):
        run(manifest, out, [line])
        assert_same(out, store, "text/words")
    speak(manifest.root / "u4.wav", 111, 0.3, LONG_AGO + 5)
    _, printed = run(manifest, out, ["opensmile:IS09"])
    assert any(line.startswith("text/words: not kept, since audio/prosody changed") for line in printed)
    assert "text/words" not in names(out)
    run(manifest, out, [described])
    run(manifest, tmp_path / "fresh.h5", [described])
    for name in ("text/words", "audio/prosody"):
        assert_same(out, tmp_path / "fresh.h5", name)


def test_a_corpus_without_audio(spoken, described, model, tmp_path):
    """Its texts are read as they are, with a note; and they are kept by later runs."""
    rows = [replace(u, media=None) for u in spoken.utterances]
    manifest, out = Manifest("toy", LABELS, spoken.root, rows), tmp_path / "s.h5"
    _, printed = run(manifest, out, [described])
    assert "audio/prosody: no utterance has audio, so that no text is described" in printed
    assert names(out) == ["text/words"]
    run(manifest, tmp_path / "plain.h5", [f"text:{model}"])
    with FeatureStore.open(out) as a, FeatureStore.open(tmp_path / "plain.h5") as b:
        assert (a.feature("text/words").values() == b.feature("text/words").values()).all()
    run(manifest, out, [described])
    assert names(out) == ["text/words"]
    _, printed = run(manifest, out, [f"text:{model}@name=plain"])
    assert names(out) == ["text/plain", "text/words"], printed


def test_shards_need_the_voices_of_all(spoken, described, store, tmp_path):
    out = tmp_path / "s.h5"
    with pytest.raises(UserError, match="--shard: describe=prosody.*--feature prosody first") as error:
        run(spoken, out, [described], shard=(1, 2))
    assert "\n" not in error.value.message and not list(tmp_path.rglob("*.npz")) and not out.exists()
    for i in (1, 2):
        run(spoken, out, ["prosody"], shard=(i, 2))
    merge(out, [parts_root(out)])
    for i in (1, 2):
        run(spoken, out, [described], shard=(i, 2))
    merge(out, [parts_root(out)])
    assert content(out) == content(store)
    assert "nothing to do" in run(spoken, out, [described])[1][-1]


# -- training and prediction


@pytest.fixture(scope="module")
def trained(intact, lines, model, tmp_path_factory) -> Path:
    """A run on the demo corpus: described texts, and the layers of a speech model with learned weights."""
    root = tmp_path_factory.mktemp("trained")
    features = [f"text:{model}@describe=prosody,context=1", lines["audio/wavlm"]]
    given = [word for line in features for word in ("--feature", line)]
    call("extract", "meld", intact, "--out", root / "s.h5", "--device", "cpu", *given)
    settings = ["model.name=bigru", "model.hidden=8", "train.epochs=1", "data.modalities=[text,audio]"]
    settings += ["data.text=words", "data.audio={feature: wavlm, layers: learned}"]
    words = [word for one in settings for word in ("--set", one)]
    call("train", root / "s.h5", "--out", root / "run", "--device", "cpu", "--recipe", "bigru-demo", *words)
    return root


@pytest.fixture(scope="module")
def talk(intact, tmp_path_factory) -> Path:
    """Four clips of the demo corpus in one recording, with six turns of one speaker."""
    from erc_toolkit.toolkit.media import ffmpeg_binary, media_duration

    folder = tmp_path_factory.mktemp("talk")
    found = sorted((intact / "train_splits").glob("dia0_utt[0-3].mp4"))
    (folder / "list.txt").write_text("".join(f"file '{clip}'\n" for clip in found))
    command = [
        "-v",
        "error",
        "-f",
        "concat",
        "-safe",
        "0",
        "-i",
        folder / "list.txt",
        "-c",
        "copy",
        folder / "talk.mp4",
    ]
    subprocess.run([ffmpeg_binary(), *map(str, command)], check=True)
    length = (media_duration(folder / "talk.mp4") - 0.2) / 6
    turns = [{"start": i * length, "end": (i + 1) * length, "speaker": "Ann", "text": WORDS[i]} for i in range(6)]
    (folder / "talk.json").write_text(json.dumps({"turns": turns}), encoding="utf-8")
    return folder / "talk.mp4"


@pytest.mark.slow
def test_a_run_on_described_texts_and_layers_predicts(trained, talk, model, tmp_path):
    with FeatureStore.open(trained / "s.h5") as store:
        assert store.feature("audio/wavlm").layers == 3 and store.feature("audio/wavlm").dim == 3 * 32
        assert {"audio/prosody", "audio/wavlm", "text/words"} == set(store.feature_names())
    call("eval", trained / "run", "--device", "cpu")
    call("predict", trained / "run", talk, "--transcript", talk.with_suffix(".json"), "--out", tmp_path / "o")
    content_of = json.loads((tmp_path / "o" / "turns.json").read_text(encoding="utf-8"))
    assert content_of["features"] == {"text": "text/words", "audio": content_of["features"]["audio"]}
    assert "wavlm" in content_of["features"]["audio"] and content_of["absent"] == {}
    assert all(sum(turn["probabilities"].values()) == pytest.approx(1) for turn in content_of["turns"])
    told = sentences(tmp_path / "o" / "features.h5")
    assert sum(map(bool, told)) >= 4 and len(set(told)) > 1
    turns = [Turn(WORDS[i], "Ann", (f"Ann: {WORDS[i - 1]}",) if i else (), sentence) for i, sentence in enumerate(told)]
    with FeatureStore.open(tmp_path / "o" / "features.h5") as new, FeatureStore.open(trained / "s.h5") as old:
        values, _, _ = TextEncoder(str(model), context=1, describe="prosody")(turns)
        np.testing.assert_allclose(new.feature("text/words").values(), values, atol=1e-5)
        for name in ("text/words", "audio/wavlm", "audio/prosody"):
            for key in ("extractor", "model", "parameters", "options"):
                assert new.feature(name).attrs.get(key) == old.feature(name).attrs.get(key), (name, key)


@pytest.mark.slow
def test_streams_and_causal_predictions_refuse_in_one_line(trained, talk, tmp_path):
    with pytest.raises(UserError, match="a sentence about the voice.*use predict on the whole recording") as error:
        LivePredictor(Predictor(trained / "run", "cpu"), str(talk), None, LiveOptions(talk.with_suffix(".json")))
    assert "\n" not in error.value.message
    causal = ["predict", trained / "run", talk, "--causal", "--transcript", talk.with_suffix(".json")]
    output = call(*causal, "--out", tmp_path / "c", code=1)  # a later turn would change the sentence of an earlier one
    assert output.splitlines()[-1].startswith("Error: ") and output.splitlines()[-1].endswith("leave --causal out")
    words = ["predict", trained / "run", talk, "--live", "--transcript", talk.with_suffix(".json")]
    output = call(*words, "--out", tmp_path / "o", code=1)
    assert output.splitlines()[-1].startswith("Error: ") and "use predict on the whole recording" in output
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())
