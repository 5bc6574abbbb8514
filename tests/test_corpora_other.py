"""Another source of manifests, a folder with a table; and the tutorials' code and output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_support import round_trips

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import load_manifest

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
