"""The parts of `transcribe`: voice activity, people, turns, faces, and the files that are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transcribe_support import Activity, Voices, demo_voice, tones

from erc_toolkit.extract.diarization import faces as faces_module
from erc_toolkit.extract.diarization.clustering import (
    WINDOW_S,
    Run,
    find_people,
    people_distance,
    runs_of,
    windows_of,
)
from erc_toolkit.extract.diarization.corrections import apply_corrections, read_given
from erc_toolkit.extract.diarization.document import Document, document_text, read_document
from erc_toolkit.extract.diarization.faces import FaceLink, join_faces
from erc_toolkit.extract.diarization.formats import rttm, subrip, webvtt
from erc_toolkit.extract.diarization.recognition import Word, joined_text, recognise, stretches
from erc_toolkit.extract.diarization.turns import (
    LOW_PROBABILITY,
    NO_WORDS,
    OVERLAP,
    SHORT_VOICE,
    VoiceTurn,
    cut_turns,
)
from erc_toolkit.extract.diarization.voice_activity import RATE, Silero, next_piece, voiced_spans
from erc_toolkit.extract.diarization.voice_encoders import checked_vectors
from erc_toolkit.extract.transcripts.json_forms import read_json_turns
from erc_toolkit.extract.transcripts.subtitles.files import parse_cues
from erc_toolkit.extract.transcripts.tables import read_rttm
from erc_toolkit.toolkit.base.errors import UserError


def test_silero_finds_the_demos_voices_and_no_silence():
    gap = np.random.default_rng(1).normal(0, 1e-3, 2 * RATE).astype(np.float32)
    audio = np.concatenate([gap, demo_voice("Alma", 3), gap, demo_voice("Boris", 2), gap])
    activity = Silero()
    spans = voiced_spans(activity.probabilities(audio)[0])
    heard = np.zeros(len(audio) // RATE * 10 + 1, bool)
    for start, end in spans:
        heard[round(10 * start) : round(10 * end)] = True
    assert heard[21:49].mean() > 0.7 and heard[71:89].mean() > 0.7
    assert not heard[:18].any() and not heard[53:68].any() and not heard[93:].any()
    # In blocks with the state handed on, it is the same.
    first, state = activity.probabilities(audio[: 100 * 512])
    second, _ = activity.probabilities(audio[100 * 512 :], state)
    assert np.array_equal(np.concatenate([first, second]), activity.probabilities(audio)[0])
    assert len(str(activity.provenance()["weights_sha256"])) == 64


def test_silero_changes_no_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Silero()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pieces_end_in_silences_and_do_not_depend_on_what_is_before():
    audio = tones([("low", 25), ("", 1), ("high", 25), ("", 2), ("low", 30), ("", 1), ("high", 40)])
    cuts, spans, at = [0], [], 0
    while at < len(audio):
        at, found = next_piece(Activity(), audio, at)
        cuts.append(at)
        spans += found
    assert cuts[-1] == len(audio) and len(cuts) > 2
    for cut in cuts[1:-1]:
        assert not np.abs(audio[cut - RATE // 20 : cut + RATE // 20]).any()  # within a silence
    assert [round(a) for a, _ in spans] == [0, 26, 53, 84]
    again, _ = next_piece(Activity(), audio, cuts[1])
    assert again == cuts[2]


def test_voice_without_a_breath_is_cut_at_two_minutes():
    audio = tones([("low", 300)])
    end, spans = next_piece(Activity(), audio, 0)
    assert 60 * RATE <= end <= 120 * RATE and spans[-1][1] <= end / RATE


def test_windows_lie_inside_of_spans():
    spans = [(0.0, 0.3), (1.0, 1.9), (3.0, 4.5), (5.0, 9.1)]
    windows = windows_of(spans)
    assert all(any(a >= s and b <= e + 1e-9 for s, e in spans) and b - a <= WINDOW_S + 1e-9 for a, b in windows)
    assert not any(a < 0.5 for a, _ in windows) and (1.0, 1.9) in windows and max(b for _, b in windows) == 9.1


def people_in(parts, count=None, distance=0.3):
    audio = tones(parts)
    _, spans = next_piece(Activity(), audio, 0)
    windows = windows_of(spans)
    vectors = checked_vectors(Voices(), [audio[round(a * RATE) : round(b * RATE)] for a, b in windows])
    people = find_people(windows, vectors, count, distance)
    return people, runs_of(spans, windows, vectors, people)


def test_speakers_are_found_or_given_and_numbered_by_appearance():
    parts = [("high", 4), ("", 0.4), ("low", 5), ("", 0.4), ("high", 3), ("low", 4)]
    people, runs = people_in(parts)
    assert len(people.centres) == 2 and people.measured
    merged = [runs[0].speaker]
    merged += [run.speaker for a, run in zip(runs, runs[1:], strict=False) if run.speaker != a.speaker]
    assert merged == [0, 1, 0, 1]
    change = next(b.start for a, b in zip(runs, runs[1:], strict=False) if a.end == b.start and a.speaker != b.speaker)
    assert change == pytest.approx(12.8, abs=0.4)
    assert len(people_in(parts, count=1)[0].centres) == 1
    assert len(people_in([("low", 5)], count=3)[0].centres) <= 3
    assert len(people_in([("low", 9), ("", 0.5), ("high", 0.9), ("", 0.5), ("low", 9)])[0].centres) == 1  # no person
    assert len(people_in([("", 5)])[0].centres) == 0


def test_the_recording_gives_the_distance_where_no_model_does():
    windows = [(0.0, 1.5), (0.75, 2.25), (1.5, 3.0), (9.0, 9.5)]
    vectors = np.array([[1, 0], [0.8, 0.6], [1, 0], [0, 1]], np.float32)
    assert people_distance(windows, vectors) == pytest.approx(2.3 * 0.2)
    assert people_distance(windows[-1:], vectors[-1:]) is None
    assert len(find_people(windows[-1:], vectors[-1:]).centres) == 1


def test_thousands_of_windows_are_grouped_in_bounded_memory():
    rng = np.random.default_rng(0)
    vectors = np.eye(4, 16, dtype=np.float32)[np.arange(9000) // 10 % 3] + 0.05 * rng.normal(size=(9000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    windows = [(0.75 * i, 0.75 * i + 1.5) for i in range(9000)]
    assert len(find_people(windows, vectors, distance=0.4).centres) == 3


def word(start, end, text, probability=0.9, **more):
    return Word(start, end, text, probability, **more)


def test_turns_are_cut_at_changes_of_the_speaker_and_at_pauses():
    runs = [Run(0, 2, 0), Run(2, 4.1, 1), Run(4.5, 5, 1), Run(7, 8, 1), Run(8, 9, 0)]
    words = [word(0.1, 0.9, "one"), word(1.0, 2.3, "two"), word(2.5, 3, "three"), word(4.6, 4.9, "four", 0.1)]
    words += [word(7.1, 7.8, "five"), word(8.2, 8.9, "six,"), word(8.9, 9, "七", joined=True)]
    turns = cut_turns(runs, words, ["Ann"])
    assert [(t.speaker, t.text) for t in turns] == [
        ("Ann", "one two"),  # the change moved to the gap between words
        ("speaker_2", "three four"),
        ("speaker_2", "five"),  # after a pause
        ("Ann", "six,七"),
    ]
    assert turns[0].end == turns[1].start == pytest.approx(2.3, abs=0.21)
    assert len(cut_turns(runs, words, pause=0.3)) == 5 and len(cut_turns(runs, words, pause=3)) == 3


def test_people_are_numbered_by_the_turns_that_are_kept():
    runs = [Run(0, 0.3, 0), Run(2, 4, 1), Run(5, 7, 2)]  # a click of somebody who says nothing
    turns = cut_turns(runs, [word(2, 3, "x"), word(5, 6, "y")], ["Ann", "Bob"])
    assert [turn.speaker for turn in turns] == ["Ann", "Bob"]


def test_what_is_unsure_is_marked_with_its_reason():
    runs = [Run(0, 1, 0), Run(2.5, 2.8, 1, 0.0, 0.0, False), Run(5, 7, 1, 0.4, 1.0), Run(9, 10, 0)]
    words = [word(0.1, 0.9, "a", 0.2), word(2.5, 2.8, "b"), word(5.1, 6.9, "c")]
    marks = [turn.marks for turn in cut_turns(runs, words)]
    assert marks == [(LOW_PROBABILITY,), (SHORT_VOICE,), (OVERLAP,), (NO_WORDS,)]
    both = [VoiceTurn(0, 2, "Ann", "x"), VoiceTurn(1, 3, "Bob", "y"), VoiceTurn(3, 4, "Ann", "z")]
    from erc_toolkit.extract.diarization.turns import marked_overlaps

    assert [turn.marks for turn in marked_overlaps(both)] == [(OVERLAP,), (OVERLAP,), ()]


def test_long_silences_and_half_minutes_end_a_stretch():
    assert [len(s) for s in stretches([(0, 10), (10.5, 20), (20.5, 29), (30.5, 31)])] == [2, 1, 1]


def test_words_far_from_any_voice_are_left_out():
    class Inventive:
        def detect(self, samples):
            return "de"

        def words(self, samples, language):
            assert language == "de"
            return [word(0.1, 0.5, "ja"), word(2.5, 2.9, "erfunden"), word(5, 99, "nein")]

        def provenance(self):
            return {}

    words, language = recognise(Inventive(), np.zeros(8 * RATE, np.float32), [(1.0, 2.0), (2.6, 4.0), (5.5, 7.0)], None)
    assert language == "de" and words[0].start == pytest.approx(0.9)
    assert all(w.end <= 8 for w in words)


# Faces


class Faces:
    def __init__(self, links, every=()):
        self.links, self.every = links, every

    def __call__(self, path, spans, /):
        return self.links

    def tracks(self, path):
        return self.every


def test_voices_and_faces_become_people():
    turns = [
        VoiceTurn(float(i), i + 0.9, name, "x") for i, name in enumerate(["Ann", "Bob", "Ann", "Ann", "Bob", "Cid"])
    ]
    links = [
        FaceLink(7, 3.0, 0.9),
        FaceLink(2, 3.0, 0.9),
        FaceLink(7, 3.0, 0.9),
        FaceLink(2, 1.0, 0.5),  # Bob's face, in Ann's turn
        FaceLink(None, -1.0, 0.8, "speaker not in the picture"),
        FaceLink(None, 0.0, 0.0, "no face"),
    ]
    joined = join_faces(Path("x.mp4"), turns, Faces(links, [2, 7, 9]))
    assert joined.tracks == {"Ann": [7], "Bob": [2]} and joined.without_voice == [9]
    assert [t.face for t in joined.turns] == [7, 2, 7, 2, None, None]
    assert joined.turns[0].marks == () and joined.turns[0].face_confidence == 0.9
    assert joined.turns[3].marks == (faces_module.OTHER_PERSON, faces_module.UNSURE_FACE)
    assert joined.turns[4].marks == ("no face", "speaker not in the picture")
    assert joined.turns[5].marks == (faces_module.NO_FACE_OF_VOICE, "no face")
    with pytest.raises(UserError, match="1 links"):
        join_faces(Path("x.mp4"), turns, Faces(links[:1]))

    def without_tracks(path, spans):
        return links

    assert join_faces(Path("x.mp4"), turns, without_tracks).without_voice == []


# Files

NAMES = st.sampled_from(["Ann", "Bob", "speaker_1", "Dr. Smith", "安娜", "O'Neil & Co"])
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30)


@st.composite
def some_turns(draw):
    turns, at = [], 0
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(1, 5000))
        end = at + draw(st.integers(1, 5000))
        tokens = draw(TEXT).split()
        words = tuple(Word(at / 1000, end / 1000, token, 0.5) for token in tokens)
        turns.append(VoiceTurn(at / 1000, end / 1000, draw(NAMES), joined_text(words), words, 0.5))
        at = end
    return turns


def written(turns, folder: Path) -> dict[str, Path]:
    about = {"file": "x.wav", "sha256": "0", "duration": 99.0, "audio_track": None}
    texts = {
        ".json": document_text(Document(about, list(turns), "en")),
        ".srt": subrip(turns),
        ".vtt": webvtt(turns),
        ".rttm": rttm(turns, "x"),
    }
    for ending, text in texts.items():
        (folder / f"x{ending}").write_text(text, encoding="utf-8", newline="")
    return {ending: folder / f"x{ending}" for ending in texts}


@settings(max_examples=60, deadline=None)
@given(some_turns())
def test_what_is_written_and_not_changed_is_read_back_unchanged(tmp_path_factory, turns):
    """The property of corrections: an unchanged file of any format changes no turn."""
    for ending, path in written(turns, tmp_path_factory.mktemp("files")).items():
        if not turns and ending == ".vtt":
            continue  # a file without cues
        result = apply_corrections(turns, read_given(path, turns), ending, path)
        assert result.changes == [] and result.again == [], (ending, result.changes)
        assert [(t.text, t.speaker, t.start, t.end, t.words) for t in result.turns] == [
            (t.text, t.speaker, t.start, t.end, t.words) for t in turns
        ]


def test_other_readers_read_what_is_written(tmp_path):
    words = (word(1.25, 1.5, "Hi."), word(1.6, 2.0, "1 < 2 & 3"))
    turns = [
        VoiceTurn(1.25, 2.0, "Ann Lee", "Hi. 1 < 2 & 3", words, 0.9),
        VoiceTurn(3.0, 3723.004, "Bob", "Oh --> no", (word(3, 4, "Oh --> no"),)),
        VoiceTurn(3724, 3725, "Bob", ""),
    ]
    files = written(turns, tmp_path)
    for ending in (".srt", ".vtt"):
        events = pysubs2.load(str(files[ending])).events
        assert [(e.start, e.end) for e in events] == [(1250, 2000), (3000, 3723004)]
    assert "<v Ann Lee>Hi. 1 &lt; 2 &amp; 3</v>" in files[".vtt"].read_text(encoding="utf-8")
    cues = parse_cues(files[".vtt"].read_text(encoding="utf-8")).cues
    assert [(c.speaker, c.text) for c in cues] == [("Ann Lee", "Hi. 1 < 2 & 3"), ("Bob", "Oh → no")]
    lines = read_rttm(files[".rttm"].read_text(encoding="utf-8"), files[".rttm"]).turns
    assert [t["speaker"] for t in lines] == ["Ann_Lee", "Bob", "Bob"]
    assert [x for t in lines for x in (t["start"], t["end"])] == pytest.approx([1.25, 2, 3, 3723.004, 3724, 3725])
    found = read_json_turns(files[".json"].read_text(encoding="utf-8"), files[".json"])
    assert not found.assumed and found.turns[0] == {
        "start": 1.25,
        "end": 2.0,
        "speaker": "Ann Lee",
        "text": "Hi. 1 < 2 & 3",
    }
    assert [w["text"] for w in json.loads(files[".json"].read_text(encoding="utf-8"))["turns"][0]["words"]] == [
        "Hi.",
        "1 < 2 & 3",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "version 2"),
        (lambda c: c.update(turns=[3]), "turns"),
        (lambda c: c["turns"][0].update(start="x"), "turn 1, start"),
        (lambda c: c["turns"][0].update(end=-1), "turn 1, end"),
        (lambda c: c["turns"][0].update(speaker=["x"]), "turn 1, speaker"),
        (lambda c: c["turns"][0].update(words=[3]), "turn 1, words"),
        (lambda c: c["turns"][0].update(marks="x"), "turn 1, marks"),
        (lambda c: c.pop("media"), "media"),
        (lambda c: c.pop("format"), "is no turns.json"),
    ],
)
def test_a_damaged_json_is_one_line_with_the_place(tmp_path, change, message):
    path = written([VoiceTurn(0, 1, "Ann", "x", (word(0, 1, "x"),))], tmp_path)[".json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_document(path)
