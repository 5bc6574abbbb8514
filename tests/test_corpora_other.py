"""Other sources of manifests: a folder with a table, and videos with subtitles; and the tutorials' code and output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.corpora.subtitles import Cue, parse_subtitles
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[1]


# -- folder


def folder(root: Path, table: str, *files: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "t.csv").write_text(table, encoding="utf-8")
    for file in files:
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    return root


def test_folder(tmp_path):
    table = (
        "file,dialogue,speaker,text,label,split,start,end,region,mood\n"
        'a.mp4,d,A,"x, y",joy,dev,,,,7\n'
        "./b.mp4,e,B,,,,1,2.5,0 0 0.5 1,\n"
        "c\\a.mp4,d,C,z,anger,dev,,,,8\n\n,,,,,,,,,\n"
    )
    manifest = read_corpus(
        "folder", folder(tmp_path / "mine", table, "a.mp4", "c/a.mp4", "c/z.wav", ".hidden.mp4", "notes.txt")
    )
    first, second, third = manifest.utterances
    assert [(u.id, u.dialogue, u.position, u.media) for u in (first, second, third)] == [
        ("a", "d", 0, "a.mp4"),
        ("c/a", "d", 1, "c/a.mp4"),
        ("b", "e", 0, "b.mp4"),
    ]
    assert (
        first.extra == {"mood": "7"}
        and third.extra == {}
        and (third.start, third.end, third.region) == (1, 2.5, (0, 0, 0.5, 1))
    )
    assert (first.split, third.split, third.label, manifest.labels, manifest.corpus) == (
        "val",
        "train",
        None,
        ["anger", "joy"],
        "mine",
    )
    for note, (start, end) in zip(
        manifest.notes,
        [("1 file ", ": b.mp4"), ("1 file ", ": c/z.wav"), ("1 utterance without a label", "")],
        strict=True,
    ):
        assert note.startswith(start) and note.endswith(end)


def test_folder_from_a_german_spreadsheet_with_positions(tmp_path):
    table = "\ufeffid;dialogue;speaker;position;text\r\nb;d;A;20;second\r\na;d;B;3;first\r\n"
    manifest = read_corpus("folder", folder(tmp_path / "x", table), labels="joy, anger", name="n")
    assert [(u.id, u.position, u.text) for u in manifest.utterances] == [("a", 0, "first"), ("b", 1, "second")]
    assert manifest.labels == ["joy", "anger"] and manifest.corpus == "n"


@pytest.mark.parametrize(
    "table, facts",
    [
        ("file,speaker\n", ["column 'dialogue'", "file, speaker"]),
        ("dialogue,speaker\n", ["column 'id'", "dialogue, speaker"]),
        ("file,media,dialogue,speaker\n", ["'file'", "'media'"]),
        ("file,dialogue,speaker,speaker\n", ["column 'speaker'"]),
        ("file,dialogue,speaker,extra,mood\n", ["column 'mood'", "'extra'"]),
        ("file,dialogue,speaker\n", ["no utterance"]),
        ("file,dialogue,speaker\na,d,S,more\n", ["line 2: "]),
        ("file,dialogue,speaker\na.mp4,d,S\na.mp4,d,S\n", ["line 3, field id: ", "'a'", "line 2"]),
        ("file,dialogue,speaker\n../a.mp4,d,S\n", ["line 2, field media"]),
        ("file,dialogue,speaker\na.mp4,d,\n", ["line 2, field speaker: "]),
        ("file,dialogue,speaker,end\na.mp4,d,S,late\n", ["line 2, field end"]),
        ("file,dialogue,speaker,position\na.mp4,d,S,\n", ["line 2, field position"]),
        ('file,dialogue,speaker\n"a.mp4,d,S\n' + "x" * 200_000, ["line 2: ", "quote"]),
        ("", ["column 'dialogue'"]),
    ],
)
def test_folder_mistakes(tmp_path, table, facts):
    with pytest.raises(UserError) as error:
        read_corpus("folder", folder(tmp_path / "mine", table))
    message = error.value.message
    assert all(fact in message for fact in facts) and "t.csv" in message and "\n" not in message


def test_folder_needs_one_table(tmp_path):
    root = folder(tmp_path / "mine", "id,dialogue,speaker\na,d,S\n")
    (root / "u.csv").write_bytes(b"id,dialogue,speaker\nb,d,S\n\x81,d,S\n")
    with pytest.raises(UserError, match="t.csv, u.csv; .*--table"):
        read_corpus("folder", root)
    with pytest.raises(UserError, match="u.csv, line 3: .*UTF-8"):
        read_corpus("folder", root, table="u.csv")
    with pytest.raises(UserError, match="v.csv: .*--table"):
        read_corpus("folder", root, table="v.csv")
    assert read_corpus("folder", root, table="t.csv").utterances[0].id == "a"
    with pytest.raises(UserError, match="--labels a,a: 'a'"):
        read_corpus("folder", root, table="t.csv", labels="a,a")


any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
columns = st.sampled_from(
    ["file", "media", "id", "dialogue", "speaker", "text", "position", "extra", "region", "start", "mood", ""]
)
cells = st.sampled_from(["", "a", "..", ".", "a/b.mp4", "1", '"', "{}", "1e999", "\x85", "x" * 300]) | any_text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(columns, max_size=8), st.lists(st.lists(cells, max_size=8), max_size=4), st.sampled_from(",;\t"))
def test_no_table_causes_a_traceback(tmp_path, header, rows, separator):
    lines = [["dialogue", "speaker", *header], *(["d", "S", *row] for row in rows)]
    folder(tmp_path / "mine", "".join(separator.join(line) + "\n" for line in lines))
    round_trips("folder", tmp_path)


def round_trips(name: str, tmp_path: Path) -> None:
    """A manifest that a reader returns can be written and read; otherwise there is a one-line error."""
    try:
        manifest = read_corpus(name, tmp_path / "mine")
    except UserError as error:
        assert error.message and "\n" not in error.message
        return
    write_manifest(manifest, tmp_path / "m.jsonl")
    back = load_manifest(tmp_path / "m.jsonl")
    assert (back.utterances, back.notes, back.labels) == (manifest.utterances, manifest.notes, manifest.labels)


# -- subtitles

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
    assert [(c.speaker, c.text) for c in parse_subtitles(text)] == [("Remember", "it is late"), ("Ann", "so?")]
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
        ("a.en.srt: a.mp4 ", "a.wav"),
        ("d.srt: ", "text only"),
        ("sub/c.srt: ", "no speech"),
        ("speakers: Ann 2, Bob 1, unknown 1",),
        ("1 utterance without a speaker", "'unknown'"),
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


@settings(deadline=None, max_examples=1000)
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
    if not any(
        not c.speaker and re.match(r"(- ?)?\w.*[:：]", c.text) for c in cues
    ):  # a name that was only text before
        assert parse_subtitles(write_vtt(cues)) == cues


names = st.sampled_from(["Ann", "Bob Ray", "DR. NO", "Émile", "O’Neil", "King of Spain"])
plain = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="<>&{}:：-"), min_size=1, max_size=12)
times = st.integers(0, 359_999_999).map(lambda ms: ms / 1000)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.builds(Cue, times, times, names | st.just(""), plain), max_size=5))
def test_what_is_written_is_read(cues):
    assert parse_subtitles(write_srt(cues)) == cues and parse_subtitles(write_vtt(cues)) == cues


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(scripts.map(str.encode) | st.binary(max_size=40), st.sampled_from(["a.srt", "a.vtt"]))
def test_no_subtitles_make_a_traceback(tmp_path, data, name):
    root = tmp_path / "mine"
    root.mkdir(exist_ok=True)
    for old in root.iterdir():
        old.unlink()
    (root / name).write_bytes(data)
    round_trips("subtitles", tmp_path)


# -- tutorials


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "docs" / "tutorials").glob("*.md") if p.stem != "index"),
    ids=lambda path: path.stem,
)
def test_tutorials(path, tmp_path):
    """The sh and python blocks run in order, in one folder; the lines of a text block are in the preceding output."""
    blocks = re.findall(r"^```(sh|python|text)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert sum(kind == "text" for kind, _ in blocks) >= 1
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    output = ""
    for kind, text in blocks:
        if kind == "text":
            for line in filter(None, map(str.strip, text.splitlines())):
                assert line in output, f"{line!r} is not in\n{output}"
            continue
        command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        output = done.stdout + done.stderr


# -- the examples in docs/ outside the tutorials


def python_block(name: str) -> str:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


def test_three_calls_of_the_manual(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("MELD.Raw").mkdir()
    Path("MELD.Raw/dev_sent_emo.csv").write_text("Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\nhi,A,joy,0,0\n")
    exec(compile(python_block("reference/manifest.md"), "manifest.md", "exec"), {})
    assert (
        load_manifest(Path("meld.jsonl")).utterances[0].id == "val_dia0_utt0"
        and "dev_splits_complete" in capsys.readouterr().out
    )


def test_the_manuals_reader_works_as_a_package(tmp_path):
    """The reader in docs/how-to/add-a-corpus.md, installed as a package, is a command with its options."""

    site, plays = tmp_path / "site", tmp_path / "plays"
    (site / "my_package-1.dist-info").mkdir(parents=True)
    (site / "my_package").mkdir()
    (site / "my_package/radio.py").write_text(python_block("how-to/add-a-corpus.md"))
    (site / "my_package-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    entry = re.search(
        r'^\[project.entry-points."(.+)"\]\nradio = "(.+)"',
        (ROOT / "docs/how-to/add-a-corpus.md").read_text("utf-8"),
        re.MULTILINE,
    )
    (site / "my_package-1.dist-info/entry_points.txt").write_text(f"[{entry[1]}]\nradio = {entry[2]}\n")
    (plays / "one").mkdir(parents=True)
    (plays / "one/turns.csv").write_text("who,said,mood,start,end\nAnn,Go!,angry,0,1.5\nBob,Why?,,1.5,1.7\n")
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [
        sys.executable,
        "-m",
        "erc_toolkit",
        "manifest",
        "build",
        "radio",
        plays,
        "--out",
        tmp_path / "m.jsonl",
        "--split",
        "train",
        "--minimum",
        "1",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "note: one: 1 turns" in done.stdout, done.stderr
    manifest = load_manifest(tmp_path / "m.jsonl")
    assert [(u.id, u.label, u.split, u.end) for u in manifest.utterances] == [("one_0", "angry", "train", 1.5)]
