"""Subtitles: the readers of SubRip and WebVTT, folders of videos with subtitles, and hostile files of every format."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from manifest_support import round_trips

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.transcripts.cues import Cue
from erc_toolkit.extract.transcripts.speaker_marks import REACH, find_mark
from erc_toolkit.extract.transcripts.subtitles.files import parse_subtitles
from erc_toolkit.toolkit.base.errors import UserError

any_text = st.text(st.characters(codec="utf-8"), max_size=10)


VTT = """WEBVTT - a scene
Kind: captions

NOTE
a remark --

STYLE
::cue {color: red}

first
00:01.000 --> 00:02.500 align:start position:10%
<v Ann Lee>Hello <b>you</b> &amp; me&nbsp;&lt;3</v>
<v.loud Bob>Hi.</v> <00:00:01.500>there

01:00:04.000 --> 01:00:05.000
Ann: it is 10:30
- Bob (shouting): NO!
who?
"""
SRT = """\ufeff1\r
0:00:01,000 --> 0:00:02,5\r
ANN: {\\an8}<i>Hello</i>\r
2\r
00:00:03,000 --> 00:00:04.040  X1:0 X2:9\r
\u2014 who?\r
\r
\r
3\r
\r
4\r
00:00:05,000 --> 00:00:06,000\r
\r
5\r
00:00:07,000 --> 00:00:08,000\r
田中：はい\r
Dr. Smith-Jones of York:\r
Yes.\r
"""


def test_webvtt():
    assert parse_subtitles(VTT) == [
        Cue(1.0, 2.5, "Ann Lee", "Hello you & me <3"),
        Cue(1.0, 2.5, "Bob", "Hi. there"),
        Cue(3604.0, 3605.0, "Ann", "it is 10:30"),
        Cue(3604.0, 3605.0, "Bob", "NO! who?"),
    ]


def test_subrip():
    assert parse_subtitles(SRT) == [
        Cue(1.0, 2.5, "ANN", "Hello"),
        Cue(3.0, 4.04, "", "— who?"),
        Cue(7.0, 8.0, "田中", "はい"),
        Cue(7.0, 8.0, "Dr. Smith-Jones of York", "Yes."),
    ]


def test_only_the_allowed_names():
    text = "1\n00:00:01,000 --> 00:00:02,000\nRemember: it is late\nAnn: so?\n"
    assert [(c.speaker, c.text) for c in parse_subtitles(text)] == [("", "Remember: it is late Ann: so?")]
    assert [(c.speaker, c.text) for c in parse_subtitles(text, allowed={"Ann"})] == [
        ("", "Remember: it is late"),
        ("Ann", "so?"),
    ]


@pytest.mark.parametrize(
    "text, where, fact",
    [
        ("1\nAnn: hi\n", "line 1", "'1'"),
        ("\n\nAnn: hi\n", "line 3", "'Ann: hi'"),
        ("1\n00:00:01 --> 00:00:02\nhi", "line 2", "'00:00:01 --> 00:00:02'"),
        ("1\n00:00:61,000 --> 00:00:62,000\nhi", "line 2", "'00:00:61,000 --> 00:00:62,000'"),
        ("WEBVTT\n\nid\nmore\n00:01.000 --> 00:02.000\nhi", "line 3", "'id'"),
        ("1\n00:00:01,000 --> 00:00:02,000\nhi\n2\n00:00:03,000 -->\nho", "line 5", "'00:00:03,000 -->'"),
        ("1\n" + "9" * 5000 + ":00:01,000 --> 00:00:02,000\nhi", "line 2", "'9999"),
    ],
)
def test_subtitle_mistakes(tmp_path, text, where, fact):
    (tmp_path / "a.srt").write_text(text)
    with pytest.raises(UserError) as error:
        read_corpus("subtitles", tmp_path)
    message = error.value.message
    assert f"a.srt, {where}: " in message and fact in message and "-->" in message and "\n" not in message


def test_subtitles(tmp_path):
    for name in ("a.mp4", "a.wav", "b.wav", "sub/c.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    cue = "00:00:0{0},000 --> 00:00:0{1},000\n{2}\n\n"
    (tmp_path / "a.en.srt").write_text(cue.format(5, 6, "Ann: two") + cue.format(1, 2, "Bob: one"))
    (tmp_path / "b.vtt").write_text("WEBVTT\n\n" + cue.replace(",", ".").format(3, 3, "no name"))
    (tmp_path / "sub/c.srt").write_text(cue.format(1, 2, "<i></i>"))
    (tmp_path / "d.srt").write_text(cue.format(1, 2, "Ann: text alone"))
    (tmp_path / "._d.srt").write_text("mac")
    manifest = read_corpus("subtitles", tmp_path, labels="joy,anger", split="train", name="n")
    assert [(u.id, u.speaker, u.text, u.media, u.start, u.end, u.split, u.label) for u in manifest.utterances] == [
        ("a.en_0", "Bob", "one", "a.mp4", 1, 2, "train", None),
        ("a.en_1", "Ann", "two", "a.mp4", 5, 6, "train", None),
        ("b_0", "unknown", "no name", "b.wav", 3, 3, "train", None),
        ("d_0", "Ann", "text alone", None, 1, 2, "train", None),
    ]
    assert manifest.labels == ["joy", "anger"] and manifest.corpus == "n"
    facts = [
        ("a.en.srt: ", "sorted"),
        ("sub/c.srt: ", "no speech"),
        ("a.en.srt: a.mp4 ", "a.wav"),
        ("d.srt: ", "text only"),
        ("a.en.srt: 2 speakers: Bob 1, Ann 1",),
        ("b.vtt: no speaker", "'unknown'"),
        ("d.srt: 1 speaker: Ann 1",),
        ("2 speakers: Ann 2, Bob 1", '"Name:" 3'),
        ("1 turn without a speaker", "'unknown'"),
        ("1 utterance with an empty time span", "masked"),
    ]
    for note, (start, *rest) in zip(manifest.notes, facts, strict=True):
        assert note.startswith(start) and all(fact in note for fact in rest)
    (tmp_path / "d.vtt").write_text("WEBVTT\n")
    with pytest.raises(UserError, match=r"d.vtt: 'd' .*\.srt"):
        read_corpus("subtitles", tmp_path)


def stamp(seconds: float, comma: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def write_srt(cues: list[Cue]) -> str:
    said = ((c, f"{c.speaker}: {c.text}" if c.speaker else c.text) for c in cues)
    return "".join(
        f"{i}\n{stamp(c.start, ',')} --> {stamp(c.end, ',')}\n{line}\n\n" for i, (c, line) in enumerate(said, 1)
    )


def write_vtt(cues: list[Cue]) -> str:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    said = ((c, (f"<v {escape(c.speaker)}>" if c.speaker else "") + escape(c.text)) for c in cues)
    return "WEBVTT\n\n" + "".join(f"{stamp(c.start, '.')} --> {stamp(c.end, '.')}\n{line}\n\n" for c, line in said)


pieces = st.sampled_from(
    [
        "1",
        "\n",
        "\n\n",
        "00:00:01,000 --> 00:00:02,000\n",
        "00:01.5 --> 00:02.5 x\n",
        "WEBVTT",
        "NOTE",
        "<v Ann>",
        "<v",
        ">",
        "</v>",
        "Ann: ",
        "BOB:",
        "- ",
        "&amp;",
        "&#0;",
        "&#x85;",
        "{\\an8}",
        "<i>",
        "-->",
        "\r",
        "\x85",
        "\u2028",
        "\u200f",
        "\t",
        ":",
        "．",
    ]
)
scripts = st.lists(pieces | any_text, max_size=14).map("".join)


@settings(deadline=None, max_examples=400)
@given(scripts)
@example(VTT)
@example(SRT)
def test_what_is_accepted_round_trips(text):
    """Nothing makes a traceback; cues that were read, written as WebVTT and read again, are the same cues."""
    try:
        cues = parse_subtitles(text)
    except UserError as error:
        assert error.message and "\n" not in error.message
        return
    assert all(c.text and c.text == " ".join(c.text.split()) and c.speaker == c.speaker.strip() for c in cues)
    # A mark that was only text may be one among fewer cues.
    if not any(find_mark(c.text[:REACH], True) or ">>" in c.text for c in cues):
        assert parse_subtitles(write_vtt(cues)) == cues


names = st.sampled_from(["Ann", "Bob Ray", "DR. NO", "Émile", "O’Neil", "King of Spain"])
plain = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="<>&{}:：-"), min_size=1, max_size=12)
times = st.integers(0, 359_999_999).map(lambda ms: ms / 1000)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.builds(Cue, times, times, names | st.just(""), plain), max_size=5))
def test_what_is_written_is_read(cues):
    known = {"Ann", "Bob Ray", "DR. NO", "Émile", "O’Neil", "King of Spain"}
    assert parse_subtitles(write_srt(cues), allowed=known) == cues
    assert parse_subtitles(write_vtt(cues), allowed=known) == cues


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(scripts.map(str.encode) | st.binary(max_size=40), st.sampled_from(["a.srt", "a.vtt"]))
def test_no_subtitles_make_a_traceback(tmp_path, data, name):
    root = tmp_path / "mine"
    root.mkdir(exist_ok=True)
    for old in root.iterdir():
        old.unlink()
    (root / name).write_bytes(data)
    round_trips("subtitles", tmp_path)
