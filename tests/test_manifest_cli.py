"""`erc-toolkit manifest`, and the registry of corpora that it and `extract` take their commands from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from media_support import ffmpeg

from erc_toolkit.extract.commands.corpus_group import reader_options
from erc_toolkit.extract.corpora import registry
from erc_toolkit.extract.corpora.registry import CORPORA, corpora, find_reader, read_corpus
from erc_toolkit.extract.stats import compare, count
from erc_toolkit.extract.validate import validate
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest
from erc_toolkit.toolkit.store import FeatureStore

MOVING = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2"]
TONE = ["-f", "lavfi", "-i", "sine=frequency=440:duration=2:sample_rate=16000"]
MELD_HEADER = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,StartTime,EndTime\n"


def run(*arguments, status=0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status and (result.exception is None or isinstance(result.exception, SystemExit)), (
        result.output
    )
    return result.output


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    ffmpeg(*MOVING, *TONE, "-shortest", path)
    return path


def utterance(i: int, **fields) -> Utterance:
    return Utterance(
        **{
            "id": f"u{i}",
            "dialogue": "d",
            "position": i,
            "speaker": "A",
            "text": "hi",
            "label": "joy",
            "split": "train",
            **fields,
        }
    )


# -- build


def meld_tree(root: Path, clip: Path) -> Path:
    (root / "train_splits").mkdir(parents=True)
    rows = [f"hi {i},{'AB'[i % 2]},joy,positive,0,{i},0:00:01.0,0:00:03.0" for i in range(3)]
    (root / "train_sent_emo.csv").write_text(MELD_HEADER + "\n".join(rows) + "\n")
    for i in range(2):
        shutil.copy(clip, root / f"train_splits/dia0_utt{i}.mp4")
    return root


def test_a_built_manifest_extracts_to_the_same_store(tmp_path, clip):
    root = meld_tree(tmp_path / "raw", clip)
    output = run("manifest", "build", "meld", root, "--out", tmp_path / "m.jsonl", "--label-set", "sentiment")
    assert "3 utterances, 1 dialogue " in output and "dia0_utt2.mp4" in output
    options = ["--modalities", "audio", "--audio-set", "eGeMAPSv02", "--workers", "1"]
    run("extract", "meld", root, "--label-set", "sentiment", "--out", tmp_path / "a.h5", *options)
    run("extract", "manifest", tmp_path / "m.jsonl", "--out", tmp_path / "b.h5", *options)
    with FeatureStore.open(tmp_path / "a.h5") as a, FeatureStore.open(tmp_path / "b.h5") as b:
        assert a.content_hash == b.content_hash and a.labels == ["neutral", "positive", "negative"]
        assert a.attrs["notes"] == b.attrs["notes"] and a.feature_names() == ["audio/eGeMAPSv02"]
        assert a.feature("audio/eGeMAPSv02").present().tolist() == [True, True, False]


def test_three_calls_in_python(tmp_path, clip):
    manifest = read_corpus("meld", meld_tree(tmp_path / "raw", clip))
    report = validate(manifest, media=True)
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert (
        report.counts() == {"missing file": 1} and load_manifest(tmp_path / "m.jsonl").utterances == manifest.utterances
    )


@pytest.mark.parametrize(
    "manifest, root, written",
    [
        ("m.jsonl", "raw", "raw"),
        ("raw/m.jsonl", "raw", "."),
        ("raw/lists/m.jsonl", "raw", ".."),
        ("lists/m.jsonl", "raw", "../raw"),
        ("a/b/m.jsonl", "raw", None),
        ("lists/m.jsonl", "c/raw", "../c/raw"),
    ],
)
def test_manifest_and_corpus_move_together(tmp_path, manifest, root, written):
    old = tmp_path / "old"
    for folder in (old / root, (old / manifest).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (old / root / "x.mp4").touch()
    write_manifest(Manifest("c", ["joy"], old / root, [utterance(0, media="x.mp4")], ["a note"]), old / manifest)
    assert json.loads((old / manifest).read_text().splitlines()[0])["root"] == (written or str(old / root))
    if written is not None:
        old.rename(tmp_path / "new")
        back = load_manifest(tmp_path / "new" / manifest)
        assert back.path("x.mp4").exists() and back.notes == ["a note"]


def test_build_reports_mistakes_in_one_line(tmp_path, clip):
    root = meld_tree(tmp_path / "raw", clip)
    for arguments, fact in (
        (["meld", tmp_path / "none", "--out", tmp_path / "m.jsonl"], str(tmp_path / "none")),
        (["meld", root, "--out", tmp_path / "m.csv"], ".jsonl"),
        (["meld", root, "--out", tmp_path / "none/m.jsonl"], str(tmp_path / "none")),
        (["meld", root, "--out", tmp_path / "m.jsonl", "--train-table", "x.csv"], "--train-table x.csv"),
    ):
        output = run("manifest", "build", *arguments, status=1)
        assert fact in output and output.startswith("Error: ") and output.count("\n") == 1
    assert not (tmp_path / "m.jsonl").exists()
    assert "Invalid value for '--label-set'" in run(
        "manifest", "build", "meld", root, "--out", "m.jsonl", "--label-set", "x", status=2
    )


def test_csv_lines_end_only_at_line_ends(tmp_path):
    """U+0085, which is frequent in the mojibake of MELD's archive, does not end a line in an unquoted cell."""
    (tmp_path / "m.csv").write_text("id,dialogue,speaker,text\na,d,S,wait\x85 what\u2028?\n", encoding="utf-8")
    assert load_manifest(tmp_path / "m.csv").utterances[0].text == "wait\x85 what\u2028?"


# -- validate


@pytest.fixture(scope="module")
def planted(tmp_path_factory, clip) -> Manifest:
    """A tree with each defect that a download or a wrong table brings, and files that are as they should be."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copy(clip, root / "good.mp4")
    ffmpeg(*MOVING, root / "mute.mp4")
    ffmpeg(*TONE, root / "blind.mp4")
    ffmpeg(*TONE, root / "sound.wav")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=black:size=64x48:rate=25:duration=2",
        "-f",
        "lavfi",
        "-i",
        "anullsrc=r=16000:cl=mono",
        "-t",
        2,
        root / "dark.mp4",
    )
    ffmpeg(*MOVING, *TONE, "-t", "0.08", root / "two.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=61:sample_rate=8000", root / "long.wav")
    (root / "zero.mp4").touch()
    (root / "junk.mp4").write_bytes(b"\0" * 300)
    (root / "folder.mp4").mkdir()
    ffmpeg("-i", clip, "-c", "copy", "-movflags", "+faststart", root / "whole.mp4")
    data = (root / "whole.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    media = [
        {"media": "good.mp4"},
        {"media": "good.mp4", "start": 0.5, "end": 1.5},
        {"media": "mute.mp4", "audio": "sound.wav"},
        {"media": "mute.mp4", "mask": {"audio": "no microphone"}},
        {"media": "none.mp4", "mask": {"audio": "x", "visual": "x"}},
        {"media": None},
        {"media": "good.mp4", "extra": {"source_start": 10.0, "source_end": 12.3}},
        {"media": "good.mp4", "extra": {"source_start": 10.0, "source_end": 13.0}},
        {"media": "good.mp4", "start": 1.5, "end": 2.9},
        {"media": "good.mp4", "start": 1.5, "end": 1.5},
        {"media": "good.mp4", "start": -1.0, "end": 1.5},
        {"media": "none.mp4"},
        {"media": "zero.mp4"},
        {"media": "junk.mp4"},
        {"media": "cut.mp4"},
        {"media": "mute.mp4"},
        {"media": "blind.mp4"},
        {"media": "two.mp4"},
        {"media": "long.wav", "mask": {"visual": "sound only"}},
        {"media": "dark.mp4"},
        {"media": "folder.mp4"},
        {"media": "mute.mp4", "audio": "gone.wav"},
    ]
    return Manifest("planted", ["joy"], root, [utterance(i, **one) for i, one in enumerate(media)])


FOUND = {
    "u7": {"time stamps disagree with the clip"},
    "u8": {"beyond the end of the file"},
    "u9": {"invalid time span"},
    "u10": {"invalid time span"},
    "u11": {"missing file"},
    "u12": {"empty file"},
    "u13": {"unreadable file"},
    "u14": {"truncated"},
    "u15": {"no audio track"},
    "u16": {"no video track"},
    "u17": {"shorter than 0.2 s"},
    "u18": {"longer than 60 s"},
    "u19": {"silent audio", "black frames"},
    "u20": {"not a regular file"},
    "u21": {"missing file"},
}


def by_utterance(report) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for problem in report.problems:
        for one in problem.utterances:
            found.setdefault(one, set()).add(problem.kind)
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_validate_finds_exactly_what_was_planted(planted, workers):
    report = validate(planted, media=True, workers=workers)
    assert by_utterance(report) == FOUND
    assert (report.utterances, report.files, report.decoded) == (22, 13, True)
    assert sum(report.counts().values()) == len(report.problems) and report.counts()["missing file"] == 2


def test_validate_without_decoding(planted):
    found = by_utterance(validate(planted))
    assert found == {
        "u9": {"invalid time span"},
        "u10": {"invalid time span"},
        "u11": {"missing file"},
        "u12": {"empty file"},
        "u20": {"missing file"},
        "u21": {"missing file"},
    }


def test_validate_command(planted, tmp_path):
    path = planted.root / "m.jsonl"
    write_manifest(planted, path)
    output = run("manifest", "validate", path, "--media")
    assert (
        "missing file: none.mp4 (u11)" in output
        and "  2 missing file" in output
        and "22 utterances, 13 media files decoded" in output
    )
    run("manifest", "validate", path, "--strict", status=1)
    found = json.loads(run("manifest", "validate", path, "--json", "--workers", 1))
    assert found["counts"] == {"missing file": 3, "invalid time span": 2, "empty file": 1} and found["files"] == 13
    good = tmp_path / "good.jsonl"
    write_manifest(Manifest("good", ["joy"], planted.root, planted.utterances[:4]), good)
    assert "4 utterances" in run("manifest", "validate", good, "--media", "--strict")
    assert json.loads(run("manifest", "validate", good, "--media", "--json"))["problems"] == []


def test_validate_refuses_a_wrong_manifest(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"id": "a", "dialogue": "d", "speaker": "S", "end": "soon"}\n')
    assert "line 1, field end" in run("manifest", "validate", tmp_path / "m.jsonl", status=1)
    (tmp_path / "m.jsonl").write_text(
        '{"erc_manifest": 1, "root": "gone"}\n{"id": "a", "dialogue": "d", "speaker": "S", "media": "x"}\n'
    )
    output = run("manifest", "validate", tmp_path / "m.jsonl", status=1)
    assert str(tmp_path / "gone") in output and "root" in output and output.count("\n") == 1


# -- stats


def meld_like(train_joy: int) -> Manifest:
    """A manifest with MELD's labels whose training split has so many joyful utterances and one without a label."""
    utterances = [utterance(i, dialogue=f"d{i}", position=0) for i in range(train_joy)]
    utterances.append(utterance(train_joy, dialogue="none", position=0, label=None, speaker="B"))
    return Manifest(
        "meld", ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"], Path("."), utterances
    )


def test_stats_count_and_name_the_differences(tmp_path):
    manifest = meld_like(1743)
    counted = count(manifest)
    assert counted["splits"]["train"]["labels"] == {**dict.fromkeys(manifest.labels, 0), "joy": 1743, "": 1}
    assert (counted["utterances"], counted["dialogues"], counted["speakers"]) == (1744, 1744, 2)
    differences = compare(manifest)["differences"]
    assert "train, utterances: 1743, published 9989 (-8246)" in differences  # what has no label is context
    assert (
        "train, dialogues: 1744, published 1038 (+706)" in differences
        and "test, anger: 0, published 345 (-345)" in differences
    )
    assert not any(line.startswith("train, joy") for line in differences)
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert "train, neutral: 0, published 4710 (-4710)" in run("manifest", "stats", tmp_path / "m.jsonl")
    assert (
        json.loads(run("manifest", "stats", tmp_path / "m.jsonl", "--json"))["compared"]["differences"] == differences
    )


def test_stats_of_a_corpus_without_published_counts(tmp_path):
    for name in ("mine", "../meld", "recipes/meld"):
        manifest = Manifest(name, ["joy"], tmp_path, [utterance(0)])
        assert compare(manifest) is None
    assert compare(Manifest("meld", ["joy"], tmp_path, [utterance(0)])) is None
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert "no published counts for 'recipes/meld'" in run("manifest", "stats", tmp_path / "m.jsonl")
    assert json.loads(run("manifest", "stats", tmp_path / "m.jsonl", "--json"))["compared"] is None


def test_stats_name_the_dialogues_that_differ(monkeypatch):
    published = {"name": "p", "labels": ["joy"], "splits": {}, "dialogues": {"d": 3, "e": 2}}
    monkeypatch.setattr("erc_toolkit.extract.stats._published", lambda manifest: [published])
    manifest = Manifest("c", ["joy"], Path("."), [utterance(0), utterance(1), utterance(2, dialogue="f", position=0)])
    counts, missing, additional = compare(manifest)["differences"]
    assert counts == "dialogue d, utterances: 2, published 3 (-1)"
    assert missing.startswith("1 published dialogue missing") and missing.endswith(": e")
    assert additional.startswith("1 dialogue not in ") and additional.endswith(": f")


def test_stats_distinguish_a_different_split_from_different_counts(monkeypatch):
    labels = {"labels": {"joy": 1}}
    published = {
        "name": "p",
        "labels": ["joy"],
        "splits": {"train": {"dialogues": 1, "utterances": 1, **labels}, "test": {"dialogues": 1, **labels}},
    }
    monkeypatch.setattr("erc_toolkit.extract.stats._published", lambda manifest: [published])
    both = [utterance(0), utterance(1, dialogue="e", position=0, split="test")]
    assert compare(Manifest("c", ["joy"], Path("."), both))["differences"] == []
    swapped = [utterance(0), utterance(1, dialogue="e", position=0)]
    title, *differences = compare(Manifest("c", ["joy"], Path("."), swapped))["differences"]
    assert (
        "split" in title
        and title.endswith(":")
        and differences
        == [
            "train, dialogues: 2, published 1 (+1)",
            "train, utterances: 2, published 1 (+1)",
            "train, joy: 2, published 1 (+1)",
            "test, dialogues: 0, published 1 (-1)",
            "test, utterances: 0, published 1 (-1)",
            "test, joy: 0, published 1 (-1)",
        ]
    )


# -- registry

PLUGIN = '''
from pathlib import Path
from typing import Annotated, Literal, Optional
from erc_toolkit.toolkit.manifest import Manifest, Utterance


def read_toy(root: Path, *, mood: Annotated[Literal["joy", "rage"], "Everybody's mood."] = "joy", twice: bool = False,
             count: Annotated[int, "How many."] = 2, scale: float = 1.5, who: Optional[str] = None,
             table: Annotated[Path | None, "A table."] = None, keep: bool = True) -> Manifest:
    """Toys, all of one mood.

    More.
    """
    us = [Utterance(f"u{i}", "d", i, who or "A", "hi", mood, "train", extra={"scale": scale}) for i in range(count)]
    return Manifest("toy", [mood], root, us, [f"twice {twice} keep {keep} table {table!r}"])


def read_broken(root: Path) -> Manifest:
    """Makes a manifest that breaks the schema."""
    return Manifest("broken", ["joy"], root, [Utterance("a", "d", 3, "S", "hi", "joy", "train")])


def read_clash(root: Path, *, out: str = "x") -> Manifest:
    """Takes an option that is not free."""


def read_odd(root: Path, *, names: list[str] = ()) -> Manifest:
    """Takes an option that no command line has."""
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Another package on sys.path, with the metadata that pip writes, that registers corpora."""
    site = tmp_path / "site"
    (site / "toys-1.2.dist-info").mkdir(parents=True)
    (site / "toys.py").write_text(PLUGIN)
    (site / "toys-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.2\n")
    (site / "toys-1.2.dist-info/entry_points.txt").write_text(
        "[erc_toolkit.corpora]\ntoy = toys:read_toy\nbroken = toys:read_broken\nclash = toys:read_clash\n"
        "odd = toys:read_odd\ngone = toys:read_gone\nmissing = toys_missing:read\nmeld = toys:read_toy\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("toys", None)


def test_another_package_registers_a_corpus(plugin, tmp_path):
    shown = run("extract", "--help")
    assert "From package toys 1.2." in shown and "meld" in shown
    assert list(corpora())[: len(CORPORA)] == list(CORPORA) and "toys" not in sys.modules
    helped = run("manifest", "build", "toy", "--help")
    assert "Toys, all of one mood." in helped and "--mood [joy|rage]" in helped and "Everybody's mood." in helped
    assert "--keep / --no-keep" in helped and "--table PATH" in helped and "[default: 1.5]" in helped
    out = tmp_path / "m.jsonl"
    output = run(
        "manifest",
        "build",
        "toy",
        tmp_path,
        "--out",
        out,
        "--mood",
        "rage",
        "--twice",
        "--no-keep",
        "--count",
        3,
        "--who",
        "Z",
        "--table",
        "t",
    )
    assert "twice True keep False table" in output and "Path('t')" in output.replace("Posix", "")
    manifest = load_manifest(out)
    assert manifest.labels == ["rage"] and [u.speaker for u in manifest.utterances] == ["Z"] * 3
    assert read_corpus("toy", tmp_path, count=1).utterances[0].extra == {"scale": 1.5}
    assert find_reader("meld").__module__ == "erc_toolkit.extract.corpora.meld"  # ours are not replaced
    assert "--mood" in run("extract", "toy", "--help") and "--audio-set" in run("extract", "toy", "--help")


@pytest.mark.parametrize(
    "name, facts",
    [
        ("broken", ["utterance 1, field position", "3", "0"]),
        ("clash", ["'clash'", "--out", "build"]),
        ("odd", ["parameter names"]),
        ("gone", ["'gone'", "package toys 1.2"]),
        ("missing", ["'missing'", "package toys 1.2", "'toys_missing'"]),
    ],
)
def test_mistakes_of_other_packages_are_one_line(plugin, tmp_path, name, facts):
    output = run("manifest", "build", name, tmp_path, "--out", tmp_path / "m.jsonl", status=1)
    assert all(fact in output for fact in facts) and output.count("\n") == 1


def test_two_packages_with_one_name(plugin, tmp_path):
    other = plugin / "other-3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n")
    (other / "entry_points.txt").write_text("[erc_toolkit.corpora]\ntoy = toys:read_toy\n")
    with pytest.raises(UserError, match=r"(?=.*'toy')(?=.*package toys 1\.2)(?=.*package other 3)"):
        find_reader("toy")


def test_unknown_corpora_and_options(tmp_path):
    with pytest.raises(UserError, match="'melt'.*meld"):
        read_corpus("melt", tmp_path)
    with pytest.raises(UserError, match="'meld'.*'labels'.*label_set"):
        read_corpus("meld", tmp_path, labels="x")
    assert "No such command 'melt'" in run("extract", "melt", tmp_path, status=2)


@pytest.mark.parametrize("name", CORPORA)
def test_every_reader_keeps_the_contract(name, tmp_path):
    """Options that a command line can have, each with help, and a one-line error for a folder without the corpus."""
    options = reader_options(find_reader(name))
    assert all(option.help for option in options), [o.name for o in options if not o.help]
    for root in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(UserError) as error:
            read_corpus(name, root)
        assert str(root) in error.value.message and "\n" not in error.value.message


def test_extra_that_is_not_json_serialisable(monkeypatch, tmp_path):
    manifest = Manifest("c", ["joy"], tmp_path, [utterance(0, extra={"x": {1, 2}})])
    monkeypatch.setattr(registry, "find_reader", lambda name: lambda root: manifest)
    with pytest.raises(UserError, match="utterance 1, field extra: .*JSON"):
        read_corpus("c", tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["manifest", "--help"],
        ["manifest", "build", "--help"],
        ["manifest", "build", "subtitles", "--help"],
        ["manifest", "validate", "--help"],
        ["manifest", "stats", "--help"],
    ],
)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom erc_toolkit.toolkit.commands.main import main\n"
        f"try: main({command!r})\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'numpy', 'h5py', 'cv2', 'opensmile', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in out and out.splitlines()[-1] == "[]"
