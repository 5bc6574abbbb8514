"""Subtitles of other formats, rolling captions, encodings: what real programs write, generated here."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.recording import read_recording
from erc_toolkit.extract.transcripts.subtitles.files import parse_cues, parse_subtitles, read_turns
from erc_toolkit.toolkit.base.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing.subtitles import ASS, PARSERS, SAMI, SRT, TTML, VTT

WORDS = "so we went down to the harbour and nobody had seen the boat since morning".split()


def found(text: str) -> list[tuple[float, float, str, str]]:
    return [(c.start, c.end, c.speaker, c.text) for c in parse_subtitles(text)]


def vtt_stamp(ms: int) -> str:
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def youtube(lines: list[tuple[int, int, str]]) -> str:
    """WebVTT as YouTube's recogniser has it: words with times, each line again for 10 ms and above the next."""
    cues, before = [], " "
    for start, end, line in lines:
        first, *rest = line.split()
        step = (end - start) // (len(rest) + 1)
        words = "".join(f"<{vtt_stamp(start + i * step)}><c> {word}</c>" for i, word in enumerate(rest, 1))
        cues.append(f"{vtt_stamp(start)} --> {vtt_stamp(end - 10)} align:start position:0%\n{before}\n{first}{words}\n")
        cues.append(f"{vtt_stamp(end - 10)} --> {vtt_stamp(end)} align:start position:0%\n{line}\n \n")
        before = line
    return "WEBVTT\nKind: captions\nLanguage: en\n\n" + "\n".join(cues)


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=2, max_size=8))
@settings(max_examples=60, deadline=None)
def test_captions_of_youtube_have_each_line_once(texts):
    lines = [(160 + 2000 * i, 2160 + 2000 * i, text) for i, text in enumerate(texts)]
    assert found(youtube(lines)) == [(a / 1000, (b - 10) / 1000, "", text) for a, b, text in lines]


def test_captions_of_youtube_as_subrip():
    """As ffmpeg and yt-dlp convert them: without the times of words, with blank lines inside cues."""
    texts = ["hello everyone", "welcome back", "today we cook"]
    vtt = youtube([(1000 * i, 1000 * i + 1000, text) for i, text in enumerate(texts)])
    events = pysubs2.SSAFile.from_string(vtt).events
    srt = "".join(
        f"{i}\n{vtt_stamp(e.start).replace('.', ',')} --> {vtt_stamp(e.end).replace('.', ',')}\n{e.plaintext}\n\n"
        for i, e in enumerate(events, 1)
    )
    assert [text for *_, text in found(srt)] == texts


def test_roll_up_and_growing_captions():
    """Broadcast's three lines that move up, and live captions whose line grows; repeated speech stays."""
    shown = [["one"], ["one", "two"], ["one", "two", "three"], ["two", "three", "four"]]
    rolled = "".join(
        f"{vtt_stamp(1000 * i)} --> {vtt_stamp(1000 * i + 1000)}\n" + "\n".join(s) + "\n\n" for i, s in enumerate(shown)
    )
    assert [(start, text) for start, _, _, text in found("WEBVTT\n\n" + rolled)] == [
        (0, "one"), (1, "two"), (2, "three"), (3, "four"),
    ]  # fmt: skip
    grown = ["so", "so we", "so we went", "then home", "then home again"]
    text = "".join(
        f"{vtt_stamp(1000 * i)} --> {vtt_stamp(1000 * i + 1000)}\n{line}\n\n" for i, line in enumerate(grown)
    )
    assert found("WEBVTT\n\n" + text) == [(0, 3, "", "so we went"), (3, 5, "", "then home again")]
    said = ["No.", "No.", "No!\nNo.", "I said no.", "Why?", "Why not?"]
    text = "".join(f"{vtt_stamp(1000 * i)} --> {vtt_stamp(1000 * i + 1000)}\n{line}\n\n" for i, line in enumerate(said))
    assert [one[3] for one in found("WEBVTT\n\n" + text)] == [" ".join(line.split()) for line in said]


def test_a_cue_of_webvtt_ends_at_an_empty_line():
    text = (
        "WEBVTT\n\n00:01.000 --> 00:02.000\n \nHello\n \nyou\n\n00:03.000 --> 00:04.000\nhi\n\nlost half\n\nNOTE\nno\n"
    )
    assert found(text) == [(1, 2, "", "Hello you"), (3, 4, "", "hi lost half")]
    assert any("blank line" in note for note in parse_cues(text).notes)
    # Nothing empty between cues, and numbers in the middle.
    assert found("WEBVTT\n00:01.000 --> 00:02.000\na\n2\n00:03.000 --> 00:04.000\nb") == [
        (1, 2, "", "a"),
        (3, 4, "", "b"),
    ]


def test_blank_lines_in_subrip():
    cue = "{}\n00:00:0{},000 --> 00:00:0{},500\n{}\n\n"
    text = (
        cue.format(1, 1, 1, "Je suis là,\n\nattends.\n \n!") + cue.format(2, 2, 2, "5") + cue.format(3, 3, 3, "a --> b")
    )
    assert [t for *_, t in found(text)] == ["Je suis là, attends. !", "5", "a --> b"]
    # Every line followed by an empty one, by "\r\r\n" or by hand.
    for end in ("\r\r\n", "\n\n"):
        spaced = text.replace("\n\nattends.\n \n!", "\nattends.").replace("\n", end)
        assert [t for *_, t in found(spaced)] == ["Je suis là, attends.", "5", "a --> b"]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.integers(1, 9999), st.lists(st.sampled_from(WORDS + ["", "7"]), max_size=4))
    ),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=80, deadline=None)
def test_subrip_as_pysubs2_reads_it(rows, end):
    """The same times and words, also with blank lines inside cues."""
    text = ""
    for i, (start, length, lines) in enumerate(rows, 1):
        stamps = " --> ".join(vtt_stamp(t).replace(".", ",") for t in (start, start + length))
        # A first line is a word, since both readers take a number in an otherwise empty cue for one of a cue.
        text += "\n".join([str(i), stamps, "so", *lines, "end", "", ""])
    ours = [(c.start, c.end, c.text.split()) for c in parse_cues(text.replace("\n", end)).cues]
    events = pysubs2.SSAFile.from_string(text or "1\n", "srt").events
    assert ours == [(e.start / 1000, e.end / 1000, e.plaintext.split()) for e in events]


def test_substation():
    assert found(ASS) == [(1, 2.5, "Ann", "Hello, you there"), (3, 4.5, "Bob", "hi")]
    notes = parse_cues(ASS).notes
    assert any("1 comment line" in note for note in notes)
    events = [e for e in pysubs2.SSAFile.from_string(ASS).events if e.is_text or "p0" in e.text]
    assert [(c.start, c.end) for c in parse_cues(ASS).cues] == [(e.start / 1000, e.end / 1000) for e in events]
    # Fields in another order, an older script, layers with the same text, a comma in the text, nobody's name.
    other = (
        "[Script Info]\nScriptType: v4.00\n[Events]\nFormat: Marked, Text-less, Start, End, Actor, Text\n"
        + "Dialogue: Marked=0,x,0:00:01.00,0:00:02.00,{name},a, b\n" * 2
    )
    assert found(other.format(name="Ann Lee")) == [(1, 2, "Ann Lee", "a, b")]
    assert found(other.format(name="NTP")) == [(1, 2, "", "a, b")]


def test_ttml():
    # The second of a sequence begins when the first ends: 1 s + 1.2 s + 2 s, then half a second later.
    assert found(TTML) == [(2.2, 4.2, "Ann", "Hello you"), (4.7, 6.7, "a2", "hi"), (4.7, 6.7, "", "there")]


@pytest.mark.parametrize(
    "begin, end, head, seconds",
    [
        ("00:00:01.500", "00:00:02.500", "", (1.5, 2.5)),
        ("1.5s", "2500ms", "", (1.5, 2.5)),
        ("15000000t", "25000000t", 'ttp:tickRate="10000000"', (1.5, 2.5)),
        ("00:00:01:15", "00:00:02:15", 'ttp:frameRate="30"', (1.5, 2.5)),
        ("00:00:01:12", "60f", 'ttp:frameRate="24" ttp:frameRateMultiplier="1000 1001"', (1.5005, 2.5025)),
    ],
)
@pytest.mark.parametrize("space", ["http://www.w3.org/ns/ttml", "http://www.w3.org/2006/10/ttaf1", None])
def test_times_of_ttml(begin, end, head, seconds, space):
    xmlns = f' xmlns="{space}"' if space else ""
    text = f'<tt{xmlns} {head}><body><div><p begin="{begin}" end="{end}">hi\n  you</p></div></body></tt>'
    assert found(text) == [(*seconds, "", "hi you")]


def test_spans_of_ttml_with_times():
    text = '<tt><body><p><span begin="1s" end="2s">one</span><span begin="2s" end="3s">two</span></p></body></tt>'
    assert found(text) == [(1, 2, "", "one"), (2, 3, "", "two")]
    words = '<tt><body><p begin="1s" end="3s"><span begin="0s">one</span> <span begin="1s">two</span></p></body></tt>'
    assert found(words) == [(1, 3, "", "one two")]


def test_sami():
    assert found(SAMI) == [(1, 2.5, "Ann", "Hello you")]
    assert any("KRCC 1" in note for note in parse_cues(SAMI).notes)
    one = "<SAMI><BODY><SYNC Start=1000><P>a<SYNC Start=9000><P>b</BODY></SAMI>"
    assert found(one)[0] == (1, 9, "", "a") and any("no end" in note for note in parse_cues(one).notes)
    # An empty SYNC, and one of another class, which ends nothing.
    two = "<SAMI><SYNC Start=1000><P Class=A>a<SYNC Start=2000><P Class=B>x<SYNC Start=3000>\n"
    two += "<SYNC Start=4000><P Class=A>b"
    assert [row[:2] for row in found(two)] == [(1, 3), (4, 4 + 0.5 + 1 / 15)]


def test_frames_and_tenths():
    assert found("{1}{1}25\n{25}{50}Hello|you\n{60}{75}{Y:i}hi\n") == [(1, 2, "", "Hello you"), (2.4, 3, "", "hi")]
    assert found("[10][25] Hello|/you\n") == [(1, 2.5, "", "Hello you")]
    with pytest.raises(UserError, match=r"frames.*\{1\}\{1\}25"):
        parse_cues("{25}{50}Hello\n")
    assert found("0:00:01.000,0:00:02.500\nHello\n\nyou\n\n0:00:03.000,0:00:04.000\nhi\n") == [
        (1, 2.5, "", "Hello you"), (3, 4, "", "hi"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, text", [("a.srt", SRT), ("a.vtt", VTT), ("a.ass", ASS), ("a.ttml", TTML), ("a.smi", SAMI)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path, name, text, encoding):
    path = tmp_path / name
    path.write_bytes(text.replace("Hello", "Здравствуй, 世界").encode(encoding))
    turns = read_turns(path).turns
    assert any("Здравствуй, 世界" in turn.text for turn in turns)
    assert [(t.start, t.end, t.speaker) for t in turns] == [(t.start, t.end, t.speaker) for t in parse_subtitles(text)]


def test_declared_encodings(tmp_path):
    path = tmp_path / "a.smi"
    path.write_bytes(KOREAN.encode("cp949"))
    split = read_turns(path)
    assert split.turns[0].text == "안녕" and any("cp949" in note for note in split.notes)
    path = tmp_path / "a.ttml"
    path.write_bytes(TTML.replace("UTF-8", "windows-1252").replace("Hello", "Élan").encode("cp1252"))
    assert read_turns(path).turns[0].text == "Élan you"
    path = tmp_path / "a.srt"
    path.write_bytes(SRT.replace("Hello", "Élan").encode("cp1252"))
    split = read_turns(path)
    assert split.turns[0].text.startswith("Élan") and any("a.srt: 1 line" in note for note in split.notes)


@pytest.mark.parametrize(
    "name, text, facts",
    [
        ("a.ttml", "<tt>\n<body>", ("a.ttml, line 2", "XML")),
        ("a.ttml", "<html></html>", ("a.ttml, line 1", "<html>")),
        ("a.ttml", '<!DOCTYPE tt [<!ENTITY a "b">]>\n<tt>&a;</tt>', ("a.ttml, line 1", "'a'")),
        ("a.ttml", '<!DOCTYPE tt [<!ENTITY a SYSTEM "file:///etc/passwd">]><tt/>', ("a.ttml, line 1", "'a'")),
        ("a.ttml", '<tt><body>\n<p begin="x">hi</p></body></tt>', ("a.ttml, line 2", "'x'")),
        ("a.ass", "[Events]\nDialogue: 0,x,0:00:01.00,,,0,0,0,,hi", ("a.ass, line 2", "'x'")),
        ("a.ass", "[Script Info]\n", ("a.ass", "Dialogue")),
        ("a.smi", "<SAMI>\n<SYNC Start=1s>", ("a.smi, line 2", "'1s'")),
        ("a.sub", "\0\0\1\xba", ("a.sub", "VobSub")),
    ],
)
def test_mistakes_are_named(tmp_path, name, text, facts):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError) as error:
        read_recording(tmp_path / "a.mp4", tmp_path / name, ["joy"])
    assert all(fact in error.value.message for fact in facts) and "\n" not in error.value.message


def test_one_bad_file_of_a_folder_is_left_out(tmp_path):
    good = "1\n00:00:01,000 --> 00:00:02,000\nAnn: fine\n"
    (tmp_path / "b.srt").write_text(good)
    (tmp_path / "a.srt").write_text("no times\n")
    (tmp_path / "c.ttml").write_text("<tt><body>")
    (tmp_path / "d.ass").write_text(ASS)
    (tmp_path / "other.xml").write_text("<project/>")
    (tmp_path / "e.xml").write_text(TTML)
    manifest = read_corpus("subtitles", tmp_path)
    assert list(dict.fromkeys(u.dialogue for u in manifest.utterances)) == ["b", "d", "e"]
    notes = "\n".join(manifest.notes)
    assert (
        "2 subtitle files of 5" in notes and "left out: a.srt, line 1" in notes and "left out: c.ttml, line 1" in notes
    )
    for path in ("b.srt", "d.ass", "e.xml"):
        (tmp_path / path).unlink()
    with pytest.raises(UserError, match=r"a.srt, line 1: .*1 other file"):
        read_corpus("subtitles", tmp_path)


def test_speakers_in_the_numbers_of_cues():
    """As Webex writes them."""
    text = 'WEBVTT\n\n1 "Ann Lee" (12)\n00:01.000 --> 00:02.000\nHi.\n\n2 "" (0)\n00:03.000 --> 00:04.000\nNo.\n'
    assert found(text) == [(1, 2, "Ann Lee", "Hi."), (3, 4, "", "No.")]


def test_only_markup_is_removed():
    text = "1\n00:00:01,000 --> 00:00:02,000\n<font color=red><b>Hi</b></font> <Ann> a <3 b<br/>c\n"
    assert [c.text for c in parse_cues(text).cues] == ["Hi <Ann> a <3 b\nc"]


def test_the_ending_does_not_decide(tmp_path):
    for text in (SRT, VTT, ASS, TTML, SAMI):
        (tmp_path / "a.srt").write_text(text)
        assert read_turns(tmp_path / "a.srt").turns == parse_subtitles(text)


KOREAN = "<SAMI><HEAD><STYLE>.KRCC {Name:Korean; lang:ko-KR;}</STYLE></HEAD><BODY><SYNC Start=0><P Class=KRCC>안녕\n"
HOSTILE = {
    "voice": "<v" + " " * 200_000,
    "voices": "<v " * 40_000,
    "tags": "<" * 200_000,
    "brackets": "[" * 100_000 + "(" * 100_000,
    "name": "A" * 200_000 + ":",
    "names": "Ann " * 50_000 + ":",
    "marks": "Ann: " * 40_000,
    "changes": ">> ANN: " * 10_000,
    "dashes": "- a. " * 15_000,
    "blanks": "a" + " " * 200_000 + ":",
    "styles": "{\\" * 100_000,
    "comments": "<!--" * 50_000,
    "references": "&#" * 100_000 + "&" * 100_000,
    "digits": "9" * 200_000,
    "arrows": "-->" * 60_000,
    "stamps": "00:" * 60_000 + "-->",
    "clocks": "Ann 0:03 " * 20_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_long_lines_take_linear_time(kind):
    """Quadratic time would be minutes; the bound is far above what a busy machine needs for linear time."""
    line = HOSTILE[kind]
    began = time.process_time()
    for text in (
        f"1\n00:00:01,000 --> 00:00:02,000\n{line}\n",
        f"WEBVTT\n\n00:01.000 --> 00:02.000\n{line}\n",
        f"[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,,,0,0,0,,{line}\n{line}\n",
        f'<tt><body><p begin="1s" end="2s"><![CDATA[{line}]]></p></body></tt>',
        f"<SAMI><SYNC Start=1>{line}\n<SYNC Start=2>",
        f"{{1}}{{1}}25\n{{1}}{{2}}{line}",
        line,
    ):
        try:
            parse_subtitles(text)
        except UserError as error:
            assert "\n" not in error.message and len(error.message) < 400
    assert time.process_time() - began < 20


@pytest.mark.parametrize("name", PARSERS)
def test_no_random_input_makes_a_traceback(name):
    for seed in range(30):
        PARSERS[name](random.Random(seed))


def test_bombs_do_not_grow():
    """Entities that double, and a DOCTYPE that names another file, are refused or ignored, and nothing is fetched."""
    doubled = "".join(f'<!ENTITY e{i} "&e{i - 1};&e{i - 1};">' for i in range(1, 40))
    with pytest.raises(UserError, match="entity"):
        parse_cues(f'<!DOCTYPE tt [<!ENTITY e0 "x">{doubled}]><tt><body><p begin="0s">&e39;</p></body></tt>')
    text = '<!DOCTYPE tt SYSTEM "http://example.invalid/x.dtd"><tt><body><p begin="0s" end="1s">hi</p></body></tt>'
    assert [c.text for c in parse_cues(text).cues] == ["hi"]
    deep = "<tt><body>" + "<div>" * 5000
    with pytest.raises(UserError, match="100 elements"):
        parse_cues(deep)
