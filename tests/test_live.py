"""`predict --live`: turns of a stream, with the numbers of the causal prediction of the whole recording."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transcribe_support import RATE, Scripted, in_parts, tones, write_wav

from erc_toolkit.extract.diarization.live import LONGEST_VOICE_S, LivePeople, LiveTurns
from erc_toolkit.extract.diarization.loading import Loader
from erc_toolkit.extract.live import LiveRecording
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.media import KeptSound, StreamedAudio
from erc_toolkit.toolkit.predict.live import LiveOptions, LivePredictor
from erc_toolkit.toolkit.predict.predictor import Predictor

PARTS = [("low", 1.4), ("", 0.8), ("high", 2.0), ("", 0.7), ("low", 0.9), ("", 0.9), ("high", 1.1), ("", 0.4)]
TURNS = [
    (0.0, 1.4, "Ann", "I am so happy to see you!"),
    (2.2, 4.2, "Bob", "What do you want from me?"),
    (2.4, 3.1, "Ann", "So happy!"),  # while the other one speaks
    (4.9, 5.8, "Ann", ""),
    (6.7, 7.8, "Cid", "What, me? What do you want to see?"),
]


def run(*arguments: object, code: int = 0, given: bytes | None = None) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=given, catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(intact, tmp_path_factory) -> Path:
    """A run on a small demo corpus: text, reduced openSMILE, faces."""
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(intact, root / "raw")
    make_text_encoder(root / "little-roberta", ["I am so happy to see you!", "What do you want from me?"] * 3)
    corpus = ["meld", root / "raw", "--out", root / "store.h5", "--text-model", root / "little-roberta"]
    visual = ["--visual-model", "denseface", "--visual-weights", "random", "--face-detector", "haar", "--fps", "1"]
    run("extract", *corpus, "--audio-set", "eGeMAPS", *visual, "--text-context", "2")
    run("reduce", root / "store.h5", "--feature", "audio/eGeMAPS", "--to", "8", "--method", "pca")
    train = ["train", root / "store.h5", "--recipe", "demo", "--set", "train.epochs=1"]
    run(*train, "--set", "data.audio=eGeMAPS-pca8", "--out", root / "run")
    run(*train, "--set", "data.audio=eGeMAPS-pca8", "--set", "model.causal=true", "--out", root / "causal")
    return root


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> Path:
    """Tones with a little noise, so that no sample is like another."""
    samples = tones(PARTS)
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(samples))
    return write_wav(tmp_path_factory.mktemp("wav") / "talk.wav", (samples + noise).astype(np.float32))


@pytest.fixture(scope="module")
def transcript(wav) -> Path:
    path = wav.with_suffix(".json")
    turns = [dict(zip(("start", "end", "speaker", "text"), turn, strict=True)) for turn in TURNS]
    path.write_text(json.dumps({"turns": turns}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained / "run", "cpu")


@pytest.fixture
def scripted(monkeypatch) -> None:
    """Scripted models find the turns."""
    monkeypatch.setattr(Loader, "models", lambda self: Scripted().models())


@pytest.mark.parametrize(("name", "past"), [("run", None), ("causal", None), ("run", 1)])
def test_given_turns_have_the_numbers_of_the_causal_prediction(trained, wav, transcript, tmp_path, name, past):
    offline = Predictor(trained / name, "cpu").predict(wav, transcript, tmp_path / "whole", causal=True, past=past)
    options = LiveOptions(transcript, past, speakers=())
    live = LivePredictor(Predictor(trained / name, "cpu"), str(wav), tmp_path / "live", options)
    turns = live.run(in_parts(wav.read_bytes(), [7000] * 30))
    assert turns == offline  # every probability, bit for bit
    assert len(turns) == len(TURNS) and turns[3].missing["text"] == "empty transcript"
    assert all(turn.missing["visual"] == "no video track" for turn in turns)
    if past is not None:
        everything = Predictor(trained / name, "cpu").predict(wav, transcript, causal=True)
        assert turns[:2] == everything[:2] and turns[4].probabilities != everything[4].probabilities


def test_found_turns_are_a_transcript_that_gives_the_same_numbers(trained, predictor, wav, tmp_path, scripted):
    live = LivePredictor(predictor, str(wav), tmp_path / "live")
    turns = live.run([wav.read_bytes()])
    assert [t.speaker for t in turns] == ["speaker_1", "speaker_2", "speaker_1", "speaker_2"]
    # A first word may begin before its voice.
    assert [t.start for t in turns] == pytest.approx([0.0, 2.2, 4.9, 6.7], abs=0.3)
    assert [t.end for t in turns] == pytest.approx([1.4, 4.2, 5.8, 7.8], abs=0.1)
    assert all(t.text for t in turns)
    # turns.json is itself a transcript.
    offline = predictor.predict(wav, tmp_path / "live" / "turns.json", tmp_path / "whole", causal=True)
    assert offline == turns
    content = json.loads((tmp_path / "live" / "turns.json").read_text(encoding="utf-8"))
    assert content["live"] and content["causal"] and content["absent"] == {"visual": "no video track"}
    assert len(content["delays"]) == 4
    page = (tmp_path / "live" / "report.html").read_text(encoding="utf-8")
    assert "speaker_2" in page and "talk.wav" in page


@given(sizes=st.lists(st.integers(0, 60_000), max_size=30))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_division_of_the_stream_does_not_matter(wav, scripted, sizes):
    data = wav.read_bytes()
    whole, parts = (found_in(in_parts(data, one)) for one in ([], sizes))
    assert whole == parts and len(whole) == 4


def found_in(parts: Iterable[bytes], audio: StreamedAudio | None = None) -> list:
    """The turns that the scripted models find."""
    audio, sound = audio or StreamedAudio(), KeptSound()
    turns = LiveTurns(Scripted().models(), sound)
    found = []
    for part in parts:
        for first in range(0, len(part), 3001):
            sound.add(audio.add(part[first : first + 3001])[1])
            found += turns.advance()
            sound.drop(turns.needed)
    sound.add(audio.end()[1])
    return [*found, *turns.end()]


def test_voices_are_recognised_in_their_gaps_already_and_turns_are_the_same(monkeypatch):
    """Ahead of the end of the pause; a voice that goes on after the gap is recognised as a whole."""
    parts = [("low", 1.2), ("", 0.3), ("low", 0.9), ("", 0.8), ("high", 1.5), ("", 0.3), ("low", 1.3), ("", 0.7)]
    samples = tones(parts)
    noise = 0.002 * np.random.default_rng(1).standard_normal(len(samples))
    data = (np.clip(samples + noise, -1, 1) * 32767).astype("<i2").tobytes()
    loader = Scripted()
    sound, audio, begun, found = KeptSound(), StreamedAudio(RATE), [], []
    finder = LiveTurns(loader.models(), sound)
    submit = finder._ahead._pool.submit

    def noted(*given):
        begun.append((sound.end / RATE, given[2]))
        return submit(*given)

    monkeypatch.setattr(finder._ahead._pool, "submit", noted)
    for first in range(0, len(data), 640):
        sound.add(audio.add(data[first : first + 640])[1])
        found += [(turn, sound.end / RATE) for turn in finder.advance()]
        sound.drop(finder.needed)
    assert not finder.end()
    # The first gap's was for nothing; then a pause, a gap before another voice, a pause.
    ends = [1.2, 2.4, 4.7, 6.3]
    assert [round(at, 1) for at, _ in begun] == [round(end + 0.3, 1) for end in ends]
    assert all(0.4 < at - turn.end < 1.5 for turn, at in found) and len(found) == 3
    monkeypatch.setattr("erc_toolkit.extract.diarization.live._AHEAD", -1)
    assert [spoken(turn) for turn, _ in found] == [spoken(turn) for turn in found_in([data], StreamedAudio(RATE))]


def spoken(turn) -> tuple:
    """What is in a turn, but for the words' texts, in which the scripted recogniser counts its calls."""
    return turn.start, turn.end, turn.speaker, turn.speaker_confidence, [(w.start, w.end) for w in turn.words]


@pytest.mark.parametrize("minutes", [1, 3])
def test_the_audio_that_is_kept_is_bounded(predictor, scripted, minutes):
    """However long the stream, and however long somebody speaks without a pause."""
    pattern = tones([("low", 2.0), ("", 1.0), ("high", 3.0), ("", 0.6)])
    count = round(minutes * 60 * RATE / len(pattern))
    pcm = (pattern * 32767).astype("<i2").tobytes()
    live = LivePredictor(predictor, "-", None)
    turns = live.run(pcm for _ in range(count))
    assert len(turns) == 2 * count
    assert live.stream.most_kept_s < 6
    sound = KeptSound()
    finder = LiveTurns(Scripted().models(), sound)
    part, found = tones([("low", 5.0)]), []
    for _ in range(12 * minutes):
        sound.add(part)
        found += finder.advance()
        sound.drop(finder.needed)
    assert sound.most / RATE < LONGEST_VOICE_S + 7
    found += finder.end()
    assert all(turn.end - turn.start <= LONGEST_VOICE_S + 0.1 for turn in found)
    assert sum(turn.end - turn.start for turn in found) == pytest.approx(60 * minutes, abs=0.5)


def test_a_given_transcript_keeps_no_more_than_its_open_turn(predictor, wav, transcript):
    live = LivePredictor(predictor, "-", None, LiveOptions(transcript))
    live.run(in_parts(wav.read_bytes(), [4096] * 100))
    assert live.stream.most_kept_s < 3  # of a recording of 8.2 s, in which the longest turn takes 2


def test_people_are_recognised_again_and_short_voices_are_nobodys():
    people, eye = LivePeople(0.3), np.eye(4, dtype=np.float32)

    def speaks(direction: int, seconds: float, at: float) -> int:
        windows = [(at + 0.75 * i, at + 0.75 * i + min(1.5, seconds)) for i in range(max(1, round(seconds / 0.75) - 1))]
        (one,) = people.runs([(at, at + seconds)], windows, np.stack([eye[direction]] * len(windows)))
        return one.speaker

    assert [speaks(k, 3.0, 10.0 * i) for i, k in enumerate([2, 0, 2, 1, 0])] == [0, 1, 0, 2, 1]
    assert speaks(3, 0.6, 60.0) in (0, 1, 2) and len(people) == 3  # too short to be somebody new
    assert people.runs([(70.0, 70.3)], [], np.zeros((0, 0), np.float32))[0].speaker in (0, 1, 2)
    few = LivePeople(0.3, most=1)
    for k in (0, 1):
        few.runs([(0.0, 1.5)], [(0.0, 1.5)], eye[k : k + 1])
    assert len(few) == 1


def test_a_turn_ends_where_somebody_else_speaks_after_a_short_gap():
    parts = [("low", 1.5), ("", 0.3), ("high", 1.2), ("", 0.3), ("high", 1.3), ("", 0.3), ("low", 0.6), ("", 0.3)]
    sound, found = KeptSound(), []
    finder = LiveTurns(Scripted().models(), sound)
    for samples in np.array_split(tones([*parts, ("top", 2.0)]), 100):
        sound.add(samples)
        found += [(turn, sound.end / RATE - turn.end) for turn in finder.advance()]
        sound.drop(finder.needed)
    assert [(t.speaker, round(t.end, 1)) for t, _ in found] == [
        ("speaker_1", 1.5),
        ("speaker_2", 4.6),
        ("speaker_1", 5.5),
    ]
    assert all(after < 1.5 for _, after in found)  # seconds of the stream
    (last,) = finder.end()
    assert last.speaker == "speaker_3"


def test_delays_are_counted_from_the_end_of_the_turn(predictor, wav, transcript):
    ticks = iter(range(1000))
    live = LivePredictor(predictor, "-", None, LiveOptions(transcript), clock=lambda: float(next(ticks)))
    live.run(in_parts(wav.read_bytes(), [3200] * 100))
    assert all(delay.worked >= 1 for delay in live.delays)
    # A part has 0.1 s; the turn within the other one waits for that one's end.
    assert all(delay.waited <= 0.11 for i, delay in enumerate(live.delays) if i != 2)
    assert live.delays[2].waited == pytest.approx(1.1, abs=0.11)


def test_the_command_prints_turns_as_they_end_and_writes_the_files(trained, wav, transcript, tmp_path):
    options = ["--live", "--transcript", transcript, "--out", tmp_path / "out", "--device", "cpu"]
    result = CliRunner().invoke(
        main, [str(a) for a in ["predict", trained / "run", "-", *options, "--json"]], input=wav.read_bytes()
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(t["speaker"], t["text"]) for t in lines] == [(who, text) for *_, who, text in TURNS]
    assert all(line["worked"] >= 0 for line in lines)
    content = json.loads((tmp_path / "out" / "turns.json").read_text(encoding="utf-8"))
    assert [t["probabilities"] for t in content["turns"]] == [t["probabilities"] for t in lines]
    for name in ("turns.csv", "turns.srt", "turns.vtt", "report.html"):
        assert (tmp_path / "out" / name).is_file()
    # The same from a file, over the files of the first, and for people.
    shown = run("predict", trained / "run", wav, *options, "--idle", "0")
    assert "Ann: So happy!" in shown and "5 turns in 8.2 s" in shown
    raw = run("predict", trained / "run", "-", *options, "--pcm-rate", "16000", given=wav.read_bytes()[44:])
    assert "5 turns" in raw


def test_ctrl_c_ends_with_the_files_of_the_turns_so_far(trained, wav, transcript, tmp_path, monkeypatch):
    from erc_toolkit.toolkit.predict import streams

    def interrupted(stream, stop):
        yield wav.read_bytes()[: 2 * 16000 * 5]  # 5 s
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(10)

    monkeypatch.setattr(streams, "read_pipe", interrupted)
    options = ["--live", "--transcript", transcript, "--out", tmp_path / "out"]
    shown = run("predict", trained / "run", "-", *options, given=b"")
    assert "4 turns in 5.0 s" in shown and "1 turn of the transcript" in shown
    turns = json.loads((tmp_path / "out" / "turns.json").read_text(encoding="utf-8"))["turns"]
    assert [t["speaker"] for t in turns] == ["Ann", "Bob", "Ann", "Ann"]
    assert [t["missing"].get("audio", "")[:10] for t in turns] == ["", "", "", "beyond the"]


def test_mistakes_are_found_before_the_stream_is_read(trained, wav, transcript, tmp_path, monkeypatch):
    monkeypatch.setattr(LiveRecording, "add", lambda self, data: pytest.fail("the stream was read"))
    run_ = trained / "run"
    given = ["--live", "--transcript", transcript]
    assert "--live" in run("predict", run_, "-", code=2)
    assert "--pcm-rate" in run("predict", run_, wav, "--pcm-rate", "8000", code=2)
    assert "--pause" in run("predict", run_, "-", *given, "--pause", "1", code=2)
    assert "--past" in run("predict", run_, wav, "--past", "1", code=2)
    assert "--audio-track" in run("predict", run_, "-", *given, "--audio-track", "1", code=2)
    assert "--asr-model" in run("predict", run_, "-", *given, "--asr-model", "x", code=2)
    assert "none.wav" in run("predict", run_, tmp_path / "none.wav", *given, code=1)
    assert "none.json" in run("predict", run_, "-", "--live", "--transcript", tmp_path / "none.json", code=1)
    with pytest.raises(UserError, match="visual"):
        LiveRecording({"visual": {}}, ["joy"], transcript=transcript)
    assert "Zoe" in run("predict", run_, "-", *given, "--speaker", "Zoe=1", code=1)
    assert "no-model" in run("predict", run_, "-", "--live", "--asr-model", tmp_path / "no-model", code=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "turns.json").write_text("{}")
    assert "mine" in run("predict", run_, "-", *given, "--out", tmp_path / "mine", code=1)
    monkeypatch.undo()
    out = ["--out", tmp_path / "out"]
    assert "MP4" in run("predict", run_, "-", *given, *out, given=b"\0\0\0\x20ftypisom....", code=1)
    assert "no audio" in run("predict", run_, "-", *given, *out, given=b"", code=1)
    assert not (tmp_path / "out").exists()
