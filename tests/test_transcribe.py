"""`erc-toolkit transcribe`: from a recording to its files, corrections by hand, continuing, and bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from transcribe_support import Scripted, content_of, tones, write_wav

from erc_toolkit.extract.diarization.faces import FaceLink
from erc_toolkit.extract.diarization.loading import Options
from erc_toolkit.extract.diarization.outputs import work_path
from erc_toolkit.extract.diarization.transcribe import transcribe
from erc_toolkit.extract.recording import read_recording
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import load_manifest

PARTS = [("", 0.5), ("low", 3), ("", 0.5), ("high", 2), ("", 2), ("low", 2), ("", 0.5), ("high", 3), ("", 0.5)]


@pytest.fixture
def talk(tmp_path) -> Path:
    return write_wav(tmp_path / "talk.wav", tones(PARTS))


def found(talk: Path, loader: Scripted | None = None, **more):
    """The result of `transcribe` with scripted models."""
    options = more.pop("options", Options(language="en"))
    out = more.pop("out", talk.with_name("turns.json"))
    return transcribe(talk, out, options, loader=loader or Scripted(), notify=lambda _: None, **more)


def turns_of(out: Path) -> list[tuple[str, str]]:
    return [(turn["speaker"], turn["text"]) for turn in content_of(out)["turns"]]


def test_a_recording_becomes_turns_in_every_format(talk):
    result = found(talk, options=Options(language="en", names=("Ann",)))
    out = talk.with_name("turns.json")
    content = content_of(out)
    assert result.written and content["format"] == "erc-toolkit turns" and content["version"] == 1
    assert [turn["speaker"] for turn in content["turns"]] == ["Ann", "speaker_2", "Ann", "speaker_2"]
    assert [(p["name"], p["turns"]) for p in content["people"]] == [("Ann", 2), ("speaker_2", 2)]
    assert [t["start"] for t in content["turns"]] == pytest.approx([0.5, 4.0, 8.0, 10.5], abs=0.2)
    assert all(turn["words"] and turn["probability"] == 0.9 and turn["marks"] == [] for turn in content["turns"])
    assert content["media"]["file"] == "talk.wav" and len(content["media"]["sha256"]) == 64
    assert content["provenance"]["models"]["recognition"]["weights_sha256"] == "b"
    # Our own readers get the same from each, and the manifest is one.
    for ending in (".json", ".srt", ".vtt", ".rttm"):
        manifest = read_recording(talk, out.with_suffix(ending), ["joy"])
        assert [u.speaker for u in manifest.utterances] == ["Ann", "speaker_2", "Ann", "speaker_2"], ending
        assert [u.start for u in manifest.utterances] == [t["start"] for t in content["turns"]]
        if ending != ".rttm":
            assert [u.text for u in manifest.utterances] == [t["text"] for t in content["turns"]]
    manifest = load_manifest(out.with_suffix(".jsonl"))
    assert [u.text for u in manifest.utterances] == [t["text"] for t in content["turns"]]
    assert manifest.path(manifest.utterances[0].media or "").samefile(talk)
    assert not work_path(out).exists() and not list(talk.parent.glob(".*"))


def test_names_that_are_too_many_or_too_few_are_said(talk):
    few = found(talk, options=Options(language="en", names=("Ann",)))
    assert any("speaker_2" in line for line in few.lines)
    many = found(talk, options=Options(language="en", names=("Ann", "Bob", "Cid")))
    assert any("Cid" in line for line in many.lines)
    assert [who for who, _ in turns_of(talk.with_name("turns.json"))] == ["Ann", "Bob", "Ann", "Bob"]  # no model ran
    with pytest.raises(UserError, match="--names"):
        found(talk, options=Options(names=("Ann", "Ann")))
    with pytest.raises(UserError, match="--names"):
        found(talk, options=Options(names=("A:B",)))


def test_the_number_of_speakers_can_be_given(talk):
    found(talk, options=Options(language="en", speakers=1))
    assert {who for who, _ in turns_of(talk.with_name("turns.json"))} == {"speaker_1"}
    result = found(talk, options=Options(language="en", speakers=2))
    assert len({turn.speaker for turn in result.document.turns}) == 2


def test_a_finished_recording_needs_no_model_again(talk):
    found(talk)
    loader = Scripted()
    result = found(talk, loader)
    assert not result.written and loader.asked == []
    talk.with_name("turns.vtt").unlink()
    assert found(talk, loader).written and loader.asked == [] and talk.with_name("turns.vtt").is_file()
    assert found(talk, loader, options=Options(language="en", pause=5)).written and loader.asked == ["models"]


@pytest.mark.parametrize("ending", [".json", ".srt", ".vtt", ".rttm"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_name_is_corrected_in_any_format_without_a_model(talk, ending, elsewhere, tmp_path):
    found(talk)
    out = talk.with_name("turns.json")
    before = content_of(out)
    path = out.with_suffix(ending)
    if elsewhere:
        path = Path(shutil.copy(path, tmp_path / f"mine{ending}"))
    text = path.read_text(encoding="utf-8").replace("speaker_2", "Bob")
    if ending == ".json":
        text = re.sub(r'("written": \{[^}]*)"Bob"', r'\1"speaker_2"', text)
    path.write_text(text, encoding="utf-8")
    loader = Scripted()
    found(talk, loader, corrected=path if elsewhere else None)
    after = content_of(out)
    assert loader.asked == []
    assert [turn["speaker"] for turn in after["turns"]] == ["speaker_1", "Bob", "speaker_1", "Bob"]
    for old, new in zip(before["turns"], after["turns"], strict=True):
        for field in ("start", "end", "text", "words", "marks", "speaker_confidence", "edited"):
            assert old[field] == new[field], field
    if elsewhere:
        assert path.read_text(encoding="utf-8") == text  # it is the user's
    for other in (".srt", ".vtt", ".rttm"):
        assert "Bob" in out.with_suffix(other).read_text(encoding="utf-8")
    assert not found(talk, loader).written and loader.asked == []
    assert [who for who, _ in turns_of(out)] == ["speaker_1", "Bob", "speaker_1", "Bob"]


@pytest.mark.parametrize("ending", [".json", ".srt", ".vtt"])
def test_an_edited_text_is_kept_and_its_unchanged_words_keep_their_times(talk, ending):
    found(talk)
    out = talk.with_name("turns.json")
    first = content_of(out)["turns"][0]
    words = first["text"].split()
    path = out.with_suffix(ending)
    text = path.read_text(encoding="utf-8")
    changed = " ".join([words[0], "really", *words[2:]])
    assert first["text"] in text
    path.write_text(text.replace(first["text"], changed), encoding="utf-8")
    loader = Scripted()
    found(talk, loader)
    turn = content_of(out)["turns"][0]
    assert loader.asked == [] and turn["text"] == changed and turn["edited"] == ["text"]
    assert turn["words"][0] == first["words"][0] and turn["words"][2:] == first["words"][2:]
    assert turn["words"][1] == {"start": None, "end": None, "text": "really", "probability": None}
    # Another correction later keeps the first one.
    rttm = out.with_suffix(".rttm")
    rttm.write_text(rttm.read_text(encoding="utf-8").replace("speaker_1", "Ann"), encoding="utf-8")
    found(talk, loader)
    turn = content_of(out)["turns"][0]
    assert loader.asked == [] and (turn["speaker"], turn["text"], turn["edited"]) == ("Ann", changed, ["text"])


def test_only_a_span_without_words_is_recognised_again(talk):
    found(talk)
    out = talk.with_name("turns.json")
    before = content_of(out)["turns"]
    path = out.with_suffix(".rttm")
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[2].split()
    cells[3], cells[4] = "8.500", "1.500"  # other times
    lines[2] = " ".join(cells)
    lines.append("SPEAKER talk 1 4.500 1.000 <NA> <NA> Cid <NA> <NA>")  # a new turn, over the second
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    loader = Scripted()
    found(talk, loader)
    turns = content_of(out)["turns"]
    assert loader.asked == ["recogniser"] and loader.heard.calls == pytest.approx([1.4, 1.9], abs=0.01)
    assert [t["speaker"] for t in turns] == ["speaker_1", "speaker_2", "Cid", "speaker_1", "speaker_2"]
    assert turns[2]["text"].startswith("w1.") and turns[3]["text"].startswith("w2.")
    assert turns[2]["edited"] == ["times", "speaker"] and turns[3]["edited"] == ["times"]
    assert "overlap" in turns[1]["marks"] and "overlap" in turns[2]["marks"]
    for old, new in ((before[0], turns[0]), (before[3], turns[4])):
        assert all(old[field] == new[field] for field in ("words", "text", "marks", "start", "end"))


def test_a_turn_can_be_split_joined_deleted_and_heard_again_in_subtitles(talk):
    found(talk)
    out = talk.with_name("turns.json")
    path = out.with_suffix(".srt")
    before = content_of(out)["turns"]
    words = before[0]["text"].split()
    cut = before[0]["words"][3]["start"]
    cues = [
        (before[0]["start"], cut, f"speaker_1: {' '.join(words[:3])}"),
        (cut, before[0]["end"], f"Cid: {' '.join(words[3:])}"),
        (before[2]["start"], before[2]["end"], "speaker_1: [?]"),
        (before[3]["start"], before[3]["end"], f"speaker_2: {before[3]['text']}"),
    ]

    def stamp(seconds: float) -> str:
        return f"00:00:{seconds:06.3f}".replace(".", ",")

    text = "\n".join(f"{i}\n{stamp(a)} --> {stamp(b)}\n{t}\n" for i, (a, b, t) in enumerate(cues, 1))
    path.write_text(text, encoding="utf-8")
    loader = Scripted()
    result = found(talk, loader)
    turns = content_of(out)["turns"]
    assert [turn["speaker"] for turn in turns] == ["speaker_1", "Cid", "speaker_1", "speaker_2"]
    assert turns[0]["words"] == before[0]["words"][:3] and turns[1]["words"] == before[0]["words"][3:]
    assert loader.asked == ["recogniser"] and len(loader.heard.calls) == 1
    assert turns[3]["words"] == before[3]["words"]
    assert "2 new turns" in result.lines[0] and "2 deleted turns" in result.lines[0]  # one was split


def test_turns_are_deleted_copied_and_moved_in_the_json(talk):
    found(talk)
    out = talk.with_name("turns.json")
    content = content_of(out)
    before = content["turns"]
    moved = {**before[2], "end": 9.0}
    copied = {"start": 11.0, "end": 12.0, "speaker": "Cid", "text": ""}
    content["turns"] = [before[1], moved, before[3], copied]
    out.write_text(json.dumps(content), encoding="utf-8")
    loader = Scripted()
    found(talk, loader)
    turns = content_of(out)["turns"]
    assert [(t["speaker"], t["start"], t["end"]) for t in turns] == [
        ("speaker_2", before[1]["start"], before[1]["end"]),
        ("speaker_1", before[2]["start"], 9.0),
        ("speaker_2", before[3]["start"], before[3]["end"]),
        ("Cid", 11.0, 12.0),
    ]
    assert loader.asked == ["recogniser"] and len(loader.heard.calls) == 1
    assert turns[1]["words"] == before[2]["words"] and turns[1]["edited"] == ["times"]
    assert turns[3]["text"].startswith("w1.")
    # A deletion alone is a correction too.
    content = content_of(out)
    del content["turns"][0]
    out.write_text(json.dumps(content, indent=4), encoding="utf-8")
    found(talk, loader)
    assert len(content_of(out)["turns"]) == 3 and content_of(out)["provenance"]["corrected"]
    with pytest.raises(UserError, match="has corrections"):
        found(talk, options=Options(language="de"))


def test_only_the_layout_of_the_json_changed(talk):
    found(talk)
    out = talk.with_name("turns.json")
    out.write_text(json.dumps(content_of(out), sort_keys=True), encoding="utf-8")
    assert not found(talk).written


def test_two_corrections_at_once_are_refused_and_nothing_is_written(talk):
    found(talk)
    out = talk.with_name("turns.json")
    for ending in (".srt", ".rttm"):
        path = out.with_suffix(ending)
        path.write_text(path.read_text(encoding="utf-8").replace("speaker_1", "Ann"), encoding="utf-8")
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"turns\.srt and turns\.rttm"):
        found(talk)
    with pytest.raises(UserError, match="changed by hand too"):
        found(talk, corrected=out.with_suffix(".srt"))
    assert out.read_bytes() == before
    found(talk, overwrite=True)
    assert {who for who, _ in turns_of(out)} == {"speaker_1", "speaker_2"}


def test_corrections_are_not_lost_to_other_options(talk):
    found(talk)
    out = talk.with_name("turns.json")
    path = out.with_suffix(".vtt")
    path.write_text(path.read_text(encoding="utf-8").replace("speaker_1", "Ann"), encoding="utf-8")
    found(talk)
    with pytest.raises(UserError, match="has corrections"):
        found(talk, options=Options(language="de"))
    assert any("not used" in line for line in found(talk, options=Options(language="en", names=("Zoe",))).lines)
    assert turns_of(out)[0][0] == "Ann"


@pytest.mark.parametrize(
    ("ending", "text", "message"),
    [
        (".txt", "x", "corrections are read from"),
        (".srt", "1\n00:00:02,000 --> 00:00:01,000\nAnn: x\n", "turn 1|line"),
        (".rttm", "SPEAKER x 1 1.0\n", "line 1"),
        (".json", "{}", "no turns.json"),
        (".vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v A:B>x\n", "name"),
    ],
)
def test_a_correction_that_cannot_be_read_changes_nothing(talk, tmp_path, ending, text, message):
    found(talk)
    out = talk.with_name("turns.json")
    before = out.read_bytes()
    path = tmp_path / f"mine{ending}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        found(talk, corrected=path)
    assert out.read_bytes() == before


def test_corrections_without_earlier_turns_are_refused(talk, tmp_path):
    path = tmp_path / "mine.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nAnn: x\n", encoding="utf-8")
    with pytest.raises(UserError, match="no earlier turns"):
        found(talk, corrected=path)
    found(talk)
    other = write_wav(tmp_path / "other.wav", tones([("low", 3)]))
    with pytest.raises(UserError, match="another recording"):
        transcribe(other, talk.with_name("turns.json"), Options(), corrected=path, loader=Scripted())


def test_foreign_files_and_inputs_are_never_written(talk):
    out = talk.with_name("turns.json")
    out.with_suffix(".srt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="turns.srt"):
        found(talk)
    assert not out.exists()
    out.with_suffix(".srt").unlink()
    found(talk)
    manifest = out.with_suffix(".jsonl")
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("test", "train"), encoding="utf-8")
    with pytest.raises(UserError, match="turns.jsonl"):
        found(talk, options=Options(language="en", pause=3))
    linked = talk.with_name("linked.srt")
    linked.hardlink_to(talk)
    with pytest.raises(UserError, match="input"):
        found(talk, out=talk.with_name("linked.json"), overwrite=True)
    with pytest.raises(UserError, match=r"\.json"):
        found(talk, out=talk.with_name("turns.srt"))


class Finder:
    """Faces 3 and 4 in turns, and a face 5 that never speaks."""

    def __init__(self, name: str = "a finder"):
        self.name, self.asked = name, []

    def __call__(self, path, spans, /):
        self.asked += spans
        return [FaceLink(3 + i % 2, 1.0, 0.9) for i in range(len(spans))]

    def provenance(self):
        return {"finder": self.name}

    def tracks(self, path):
        return [3, 4, 5]


def test_faces_are_joined_and_survive_a_correction(talk):
    found(talk, faces=Finder())
    out = talk.with_name("turns.json")
    content = content_of(out)
    assert [turn["face"] for turn in content["turns"]] == [3, 4, 3, 4] and content["faces_without_voice"] == [5]
    assert [p["faces"] for p in content["people"]] == [[3], [4]]
    assert content["provenance"]["faces"] == {"finder": "a finder"}
    path = out.with_suffix(".vtt")
    path.write_text(path.read_text(encoding="utf-8").replace("speaker_1", "Ann"), encoding="utf-8")
    found(talk)
    assert {p["name"]: p["faces"] for p in content_of(out)["people"]} == {"Ann": [3], "speaker_2": [4]}


def test_faces_are_looked_for_once_and_later_only_in_new_spans(talk):
    out, first, again = talk.with_name("turns.json"), Finder(), Finder()
    found(talk)
    assert "faces_without_voice" not in content_of(out)
    assert found(talk, faces=first).written and len(first.asked) == 4  # the turns were there, their faces were not
    assert content_of(out)["faces_without_voice"] == [5]
    assert not found(talk, faces=again).written and again.asked == []
    content = content_of(out)
    content["turns"][1]["end"] -= 0.2
    out.write_text(json.dumps(content), encoding="utf-8")
    found(talk, faces=again)
    assert len(again.asked) == 1 and again.asked[0][1] == content["turns"][1]["end"]
    content = content_of(out)
    assert [turn["face"] for turn in content["turns"]] == [3, 3, 3, 4] and content["faces_without_voice"] == [5]
    assert "face of another person" in content["turns"][1]["marks"]
    other = Finder("another finder")
    assert found(talk, faces=other).written and len(other.asked) == 4


def test_no_audio_track_and_a_cut_off_file_are_one_line(talk, tmp_path):
    from erc_toolkit.toolkit.media import ffmpeg_binary

    silent = tmp_path / "mute.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=1", str(silent)]
    subprocess.run(command, check=True)
    with pytest.raises(UserError, match="no audio track"):
        found(silent)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(talk.read_bytes()[: talk.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        found(cut)
    with pytest.raises(UserError, match="audio track 3"):
        found(talk, options=Options(audio_track=3))
