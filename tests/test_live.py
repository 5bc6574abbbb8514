"""`predict --live`: turns of a stream, with the numbers of the causal prediction of the whole recording."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from transcribe_support import RATE, Scripted, in_parts, tones, write_wav

from erc_toolkit.extract.diarization.loading import Loader
from erc_toolkit.extract.live import LiveRecording
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.media import ffmpeg_binary
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


@pytest.fixture(scope="module")
def filmed(intact, tmp_path_factory) -> Path:
    """Three clips of the demo corpus one after another, as MPEG-TS, with a transcript beside it."""
    clips = sorted((intact / "train_splits").glob("dia0_utt[0-2].mp4"))
    path = tmp_path_factory.mktemp("filmed") / "talk.ts"
    parts = [stream for one in clips for stream in (ffmpeg.input(str(one)).video, ffmpeg.input(str(one)).audio)]
    video, audio = (ffmpeg.concat(*parts, v=1, a=1).node[i] for i in (0, 1))
    job = ffmpeg.output(video, audio, str(path), vcodec="libx264", g=30, acodec="aac", loglevel="error")
    job.run(cmd=ffmpeg_binary(), overwrite_output=True)
    turns = [
        (0.2, 1.9, "Ann", "I am so happy to see you!"),
        (1.0, 1.6, "Bob", "What?"),  # while the other one speaks
        (2.4, 4.1, "Bob", "What do you want from me?"),
        (4.5, 6.4, "Ann", "To see you!"),
    ]
    rows = [dict(zip(("start", "end", "speaker", "text"), turn, strict=True)) for turn in turns]
    path.with_suffix(".json").write_text(json.dumps({"turns": rows}), encoding="utf-8")
    return path


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


def test_a_stream_with_video_has_the_numbers_of_the_causal_prediction(predictor, filmed, tmp_path):
    transcript = filmed.with_suffix(".json")
    streamed_mp4 = {"movflags": "frag_keyframe+empty_moov", "bsf:a": "aac_adtstoasc"}
    for ending, options in (("ts", {}), ("mkv", {"f": "matroska"}), ("mp4", streamed_mp4)):
        path = tmp_path / f"copy.{ending}"
        ffmpeg.input(str(filmed)).output(str(path), c="copy", loglevel="error", **options).run(cmd=ffmpeg_binary())
        whole = predictor.predict(path, transcript, tmp_path / ending, causal=True)
        live = LivePredictor(predictor, str(path), tmp_path / f"live-{ending}", LiveOptions(transcript))
        turns = live.run(in_parts(path.read_bytes(), [3000] * 300))
        assert turns == whole  # every probability, bit for bit
        assert not any("visual" in turn.missing for turn in turns[:3])
        assert live.stream.absent == {} and "beyond the end" in turns[3].missing["audio"]
        # Not only at the end of the stream; the turn within the other one waits for that.
        assert all(live.delays[i].waited < 1.2 for i in (0, 2))


def test_found_turns_of_a_stream_with_video(predictor, filmed, tmp_path, scripted):
    live = LivePredictor(predictor, str(filmed), tmp_path / "live")
    turns = live.run(in_parts(filmed.read_bytes(), [5000] * 100))
    assert turns and all("visual" not in turn.missing for turn in turns)
    assert predictor.predict(filmed, tmp_path / "live" / "turns.json", tmp_path / "whole", causal=True) == turns


def test_a_stream_of_pictures_alone_and_of_sound_alone(predictor, filmed, tmp_path, scripted, capsys):
    transcript = filmed.with_suffix(".json")
    for kind, absent, ending in (("an", "audio", "ts"), ("vn", "visual", "ogg")):
        path = tmp_path / f"one.{ending}"
        codec = {"c": "copy"} if kind == "an" else {"acodec": "libvorbis"}
        ffmpeg.input(str(filmed)).output(str(path), loglevel="error", **{kind: None}, **codec).run(cmd=ffmpeg_binary())
        live = LivePredictor(predictor, str(path), tmp_path / kind, LiveOptions(transcript))
        turns = live.run([path.read_bytes()])
        assert list(live.stream.absent) == [absent] and "track" in live.stream.absent[absent]
        assert turns == predictor.predict(path, transcript, tmp_path / f"whole-{kind}", causal=True)
    with pytest.raises(UserError, match="--transcript"):
        LivePredictor(predictor, "-", None).run([(tmp_path / "one.ts").read_bytes()])


def test_models_for_faces_are_asked_for_by_streams_with_video_only(trained, wav, filmed, tmp_path, monkeypatch):
    lost = tmp_path / "run"
    shutil.copytree(trained / "run", lost)

    def refused(*_: object):
        raise UserError("the face detector is lost")

    monkeypatch.setattr("erc_toolkit.extract.run.extractors.face_model", refused)
    predictor = Predictor(lost, "cpu")
    spoken = LivePredictor(predictor, "-", None, LiveOptions(wav.with_suffix(".json"))).run([wav.read_bytes()])
    assert all(turn.missing["visual"] == "no video track" for turn in spoken)
    live = LivePredictor(predictor, "-", None, LiveOptions(filmed.with_suffix(".json")))
    with pytest.raises(UserError, match="detector is lost"):
        live.run([filmed.read_bytes()])


def test_a_turn_does_not_wait_for_pictures_for_ever(predictor, filmed, tmp_path):
    """The video ends after 2 s, the sound goes on."""
    path = tmp_path / "short.mkv"
    source = ffmpeg.input(str(filmed))
    audio = source.audio.filter("apad", whole_dur=9)
    job = ffmpeg.output(source.video.filter("trim", end=2), audio, str(path), vcodec="libx264", acodec="aac")
    job.global_args("-v", "error").run(cmd=ffmpeg_binary())
    live = LivePredictor(predictor, str(path), None, LiveOptions(filmed.with_suffix(".json")))
    turns = live.run(in_parts(path.read_bytes(), [200] * 3000))
    assert "no picture in time" in turns[2].missing["visual"] and "visual" not in turns[0].missing
    assert 3 <= live.delays[2].waited < 4


@pytest.mark.parametrize("minutes", [1, 3])
def test_the_audio_that_is_kept_is_bounded(predictor, scripted, minutes):
    """However long the stream is."""
    pattern = tones([("low", 2.0), ("", 1.0), ("high", 3.0), ("", 0.6)])
    count = round(minutes * 60 * RATE / len(pattern))
    pcm = (pattern * 32767).astype("<i2").tobytes()
    live = LivePredictor(predictor, "-", None)
    turns = live.run(pcm for _ in range(count))
    assert len(turns) == 2 * count
    assert live.stream.most_kept_s < 6


def test_a_given_transcript_keeps_no_more_than_its_open_turn(predictor, wav, transcript):
    live = LivePredictor(predictor, "-", None, LiveOptions(transcript))
    live.run(in_parts(wav.read_bytes(), [4096] * 100))
    assert live.stream.most_kept_s < 3  # of a recording of 8.2 s, in which the longest turn takes 2


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
    assert "Zoe" in run("predict", run_, "-", *given, "--speaker", "Zoe=1", code=1)
    assert "no-model" in run("predict", run_, "-", "--live", "--asr-model", tmp_path / "no-model", code=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "turns.json").write_text("{}")
    assert "mine" in run("predict", run_, "-", *given, "--out", tmp_path / "mine", code=1)
    monkeypatch.undo()
    out = ["--out", tmp_path / "out"]
    assert "MP4 must" in run("predict", run_, "-", *given, *out, given=b"\0\0\0\x20ftypisom....", code=1)
    assert "no audio" in run("predict", run_, "-", *given, *out, given=b"", code=1)
    assert not (tmp_path / "out").exists()
