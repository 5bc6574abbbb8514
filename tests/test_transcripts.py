"""Transcripts as recognisers, spreadsheets and people write them: turns, units, and times beyond the recording."""

from __future__ import annotations

import json
import re
import wave
from pathlib import Path

import pytest
from transcript_forms import JSON_FORMS, TABLES, content

from erc_toolkit.extract.recording import read_recording
from erc_toolkit.extract.spans import check_spans
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest


def silence(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * round(8000 * seconds))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Ten seconds of audio."""
    return silence(tmp_path_factory.mktemp("recording") / "ten.wav", 10)


def transcript(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def found(manifest: Manifest) -> list[tuple[float | None, float | None, str, str]]:
    return [(u.start, u.end, u.speaker, u.text) for u in manifest.utterances]


@pytest.mark.parametrize("name", [*TABLES, *JSON_FORMS])
def test_every_form_gives_its_turns(name, recording, tmp_path):
    right = (TABLES.get(name) or JSON_FORMS[name])[1]
    path = transcript(tmp_path, name if name in TABLES else f"{name}.json", content(name))
    manifest = read_recording(recording, path, [])
    assert found(manifest) == right
    assert not any("after the end" in note for note in manifest.notes)


@pytest.mark.parametrize("name", ["whisper.cpp.csv", "whisper.tsv", "whisper.cpp", "assemblyai", "assemblyai-words"])
def test_milliseconds_are_recognised_without_a_duration_and_said(name, tmp_path):
    right = (TABLES.get(name) or JSON_FORMS[name])[1]
    (tmp_path / "unknown.mp4").write_bytes(b"no duration in here")
    path = transcript(tmp_path, name if name in TABLES else f"{name}.json", content(name))
    manifest = read_recording(tmp_path / "unknown.mp4", path, [])
    assert found(manifest) == right
    assert [note for note in manifest.notes if "milliseconds" in note and path.name in note]


def test_whole_seconds_in_the_same_form_stay_seconds(recording, tmp_path):
    path = transcript(tmp_path, "own.csv", "start,end,text\n1,2,hello\n5,6,no\n")
    assert [u.start for u in read_recording(recording, path, []).utterances] == [1, 5]
    (tmp_path / "unknown.mp4").write_bytes(b"x")
    assert [u.start for u in read_recording(tmp_path / "unknown.mp4", path, []).utterances] == [1, 5]
    long = silence(tmp_path / "long.wav", 1000)  # two long turns that fit: no milliseconds
    path = transcript(tmp_path, "speech.csv", "start,end,text\n0,400,hello\n400,900,no\n")
    assert [u.end for u in read_recording(long, path, []).utterances] == [400, 900]


UNKNOWN_MS = [{"start": 1000, "end": 2000, "text": "a"}, {"start": 5000, "end": 6000, "text": "b"}]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.json", json.dumps(UNKNOWN_MS)),
        ("a.json", json.dumps([{"start": 0.0, "end": 2000.0}, *UNKNOWN_MS])),  # the first one begins in the recording
        ("a.json", json.dumps([{"start": 0.0, "end": 5}, *UNKNOWN_MS])),
        ("a.csv", "start,end,speaker,text,score\n1000,2000,A,a,1\n5000,6000,B,b,1\n"),
        ("a.csv", "start;end;text\n1000,0;2000,5;a\n"),
        ("a.csv", "1000,2000,a\n5000,6000,b\n"),
    ],
)
def test_an_unknown_writers_milliseconds_are_refused_and_read_when_told(name, text, recording, tmp_path):
    path = transcript(tmp_path, name, text)
    with pytest.raises(UserError) as error:
        read_recording(recording, path, [])
    message = error.value.message
    assert all(fact in message for fact in (name, "ten.wav", "10.00 s", "--time-unit ms")) and "\n" not in message
    manifest = read_recording(recording, path, [], time_unit="ms")
    assert max(u.end or 0 for u in manifest.utterances) <= 6 and any("--time-unit" in note for note in manifest.notes)


def test_the_option_outranks_the_form(recording, tmp_path):
    path = transcript(tmp_path, "a.csv", TABLES["whisper.cpp.csv"][0])
    with pytest.raises(UserError, match="2 of 2 turns"):
        read_recording(recording, path, [], time_unit="s")


def test_turns_beyond_the_recording_are_counted_or_refused(recording, tmp_path):
    some = transcript(tmp_path, "some.csv", "start,end,text\n1.0,2,a\n9,10.04,b\n9.5,10.5,c\n12,13,d\n")
    manifest = read_recording(recording, some, [])
    (note,) = [note for note in manifest.notes if "after the end" in note]
    assert "some.csv" in note and "2 of 4 turns" in note and "13.00 of 10.00 s" in note
    every = transcript(tmp_path, "every.vtt", "WEBVTT\n\n00:20.000 --> 00:21.000\nAnn: Hi.\n")
    with pytest.raises(UserError) as error:
        read_recording(recording, every, [])
    message = error.value.message
    assert all(fact in message for fact in ("every.vtt", "1 of 1 turn", "ten.wav", "21.00 of 10.00 s"))
    assert "--time-unit" not in message  # subtitles say their unit


def test_a_missing_last_end_is_that_of_the_recording(recording, tmp_path):
    chunks = [{"timestamp": [1.0, None], "text": "a"}, {"timestamp": [5.0, None], "text": "b"}]
    path = transcript(tmp_path, "a.json", json.dumps({"chunks": chunks}))
    manifest = read_recording(recording, path, [])
    assert [(u.start, u.end) for u in manifest.utterances] == [(1, 5), (5, 10)]
    assert sum("no end" in note for note in manifest.notes) == 2


def test_columns_can_be_named(recording, tmp_path):
    numbered = transcript(tmp_path, "a.csv", "1,1.0,2.0,hello\n2,5,6,no\n")
    with pytest.raises(UserError, match=r"a\.csv, line 1: .*--columns"):
        read_recording(recording, numbered, [])
    manifest = read_recording(recording, numbered, [], columns=["number", "Start", "end", "text"])
    assert found(manifest) == [(1, 2, "unknown", "hello"), (5, 6, "unknown", "no")]


@pytest.mark.parametrize(
    "name, text, where",
    [
        ("a.csv", "start,end,text\n1,2,a\n\n3,soon,b\n", "line 4, row 2, end: 'soon'"),
        ("a.csv", 'start,end,text\n1,2,a\n3,4,"b\n5,6,c\n', "line 3: a quote"),
        ("a.csv", "start,end,text\n1,2,a,b\n", "line 2: more fields"),
        ("a.csv", "start,end,text\n1,2,a\0b\n", "line 2, field 'text': contains a NUL"),
        ("a.csv", f"start,end,text\n{'9' * 5000},2,a\n", "line 2, row 1, start: "),
        ("a.csv", "start,end,text\n1e300,2e300,a\n", "line 2, row 1, start: '1e300'"),
        ("a.csv", "start_ms,end_s,text\n1,2,a\n", "line 1: "),
        ("a.json", '[{"start": ' + "9" * 5000 + "}]", "field [0].start: "),
        ("a.json", '[{"start": 1e999, "end": 2}]', "field [0].start: "),
        ("a.json", '[{"start": 1, "end": 2, "text": "\\ud800"}]', "field [0].text: contains an unpaired surrogate"),
        ("a.json", '[{"start": 1, "end": 2, "speaker": "\\u0000"}]', "field [0].speaker: contains a NUL"),
        ("a.json", '{"transcription": [{"offsets": {}, "text": "a"}]}', "turn 1, start: None"),
        ("a.json", '[{"start": 1, "start": 2}]', "field start: occurs twice"),
        ("a.json", "[" * 100_000, "deep"),
        ("a.json", '[{"start": 1, "end": 1e8, "text": "a"}]', "turn 1, end: "),
        ("a.jsonl", '{"start": 1, "end": 2}\n{"start": 1,', "line 2: not JSON"),
        ("a.rttm", "SPEAKER f 1 2.0\n", "line 1: 4 fields"),
    ],
)
def test_mistakes_are_one_line_with_the_place(name, text, where, recording, tmp_path):
    with pytest.raises(UserError) as error:
        read_recording(recording, transcript(tmp_path, name, text), [])
    message = error.value.message
    assert name in message and where in message and "\n" not in message and len(message) < 500


# -- manifests


def spans(root: Path, *rows: tuple[str, float, float]) -> Manifest:
    utterances = [
        Utterance(f"u{i}", "d", i, "S", "hi", None, "train", media=media, start=start, end=end)
        for i, (media, start, end) in enumerate(rows)
    ]
    return Manifest("m", [], root, utterances)


def test_spans_of_a_manifest(recording, tmp_path):
    silence(tmp_path / "ten.wav", 10)
    silence(tmp_path / "two.wav", 2)
    assert check_spans(spans(tmp_path, ("ten.wav", 0, 10), ("two.wav", 0, 2.04))) == []
    assert check_spans(spans(tmp_path, ("none.wav", 0, 10))) == []
    # One file that is too short is a defect; its rows are masked.
    (note,) = check_spans(spans(tmp_path, ("ten.wav", 0, 5), ("two.wav", 7, 8), ("two.wav", 8, 9)))
    assert "2 spans" in note and "two.wav (2 of 2)" in note
    with pytest.raises(UserError, match=r"two\.wav: 1 of 1 span.*8\.00 of 2\.00 s"):
        check_spans(spans(tmp_path, ("two.wav", 7, 8)))
    with pytest.raises(UserError, match=r"ten\.wav: 2 of 2 spans.*milliseconds"):
        check_spans(spans(tmp_path, ("two.wav", 0, 1), ("ten.wav", 100, 3000), ("ten.wav", 3000, 9000)))


@pytest.mark.parametrize("command", ["build", "extract"])
def test_spans_are_checked_before_the_work(command, tmp_path):
    from click.testing import CliRunner

    from erc_toolkit.toolkit.commands.main import main

    silence(tmp_path / "ten.wav", 10)
    table = "id,dialogue,speaker,text,file,start,end\na,d,S,hi,ten.wav,1000,2000\nb,d,S,no,ten.wav,5000,6000\n"
    transcript(tmp_path, "t.csv", table)
    out = ["--out", str(tmp_path / ("m.jsonl" if command == "build" else "s.h5"))]
    start = ["manifest", "build"] if command == "build" else ["extract"]
    result = CliRunner().invoke(main, [*start, "folder", str(tmp_path), *out])
    assert result.exit_code == 1 and result.output.count("\nError: ") + result.output.startswith("Error: ") == 1
    assert "ten.wav" in result.output and "--time-unit ms" in result.output and not Path(out[1]).exists()
    result = CliRunner().invoke(
        main, ["manifest", "build", "folder", str(tmp_path), "--time-unit", "ms", "--out", str(tmp_path / "m.jsonl")]
    )
    assert result.exit_code == 0, result.output
    assert [(u.start, u.end) for u in load_manifest(tmp_path / "m.jsonl").utterances] == [(1, 2), (5, 6)]


# -- names


@pytest.mark.parametrize(
    "name", ["latest", "my clip.mp4", "-x.mp4", "new\nline.mp4", "%d.mp4", "a:b.mp4", "'\".mp4", b"\xff.mp4"]
)
def test_a_link_leads_to_its_target_whatever_it_is_called(name, recording, tmp_path):
    path = transcript(tmp_path, "t.csv", "start,end,text\n1,2,a\n")
    link = tmp_path / (name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    (tmp_path / "second").symlink_to(recording)
    link.symlink_to("second")
    manifest = read_recording(link, path, [])
    media = manifest.utterances[0].media
    assert media == "ten.wav" and manifest.path(media).samefile(recording)
    assert manifest.utterances[0].id.endswith("_0")
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert load_manifest(tmp_path / "m.jsonl").utterances == manifest.utterances


def test_names_that_cannot_be_recorded_are_refused(recording, tmp_path):
    path = transcript(tmp_path, "t.csv", "start,end,text\n1,2,a\n")
    odd = tmp_path / b"\xff.wav".decode("utf-8", "surrogateescape")
    odd.write_bytes(recording.read_bytes())
    for media, fact in (
        (odd, "not UTF-8"),
        (tmp_path / "no\nsuch.wav", "no such file"),
        (tmp_path / "a\0b", "no such"),
    ):
        with pytest.raises(UserError, match=re.escape(fact)) as error:
            read_recording(media, path, [])
        assert error.value.message.isprintable()
    with pytest.raises(UserError, match="NUL"):
        read_recording(recording, tmp_path / "t\0.csv", [])


def test_another_recordings_whole_seconds_are_not_taken_for_milliseconds(tmp_path):
    """In whisper.cpp's form, beyond the end as seconds, and inside as milliseconds: of turns that last 2 ms."""
    from media_support import ffmpeg, tone_at

    from erc_toolkit.extract.recording import read_recording

    ffmpeg(*tone_at(1), tmp_path / "a.wav")
    (tmp_path / "a.csv").write_text("start,end,text\n100,102,hello\n300,302,yes\n")
    with pytest.raises(UserError, match="2 of 2 turns end after the end"):
        read_recording(tmp_path / "a.wav", tmp_path / "a.csv", ["joy"])
    (tmp_path / "a.csv").write_text("start,end,text\n1000,2000,hello\n3000,4020,yes\n")
    found = read_recording(tmp_path / "a.wav", tmp_path / "a.csv", ["joy"])
    assert [(u.start, u.end) for u in found.utterances] == [(1.0, 2.0), (3.0, 4.02)]
