"""What exists is not overwritten, unless it is the command's own earlier output or `--overwrite` is given."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from command_support import FAST, SLOW, WRITERS, erc, make_material, one_line, succeed

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.outputs import check_folder, check_output, is_stamped, staged_folder, stamped
from erc_toolkit.toolkit.exchange.unpickle import load_pickle
from erc_toolkit.toolkit.store import FeatureStore

CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module")
def material(request, tmp_path_factory) -> Path:
    """The inputs of all commands, or of the fast ones if only they run."""
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    return make_material(tmp_path_factory.mktemp("all"), trained=slow)


def state(path: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of a file, or of every file in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.mark.parametrize("name", CASES)
def test_others_files_are_kept_and_own_ones_replaced(name, material, tmp_path):
    writer, out = WRITERS[name], tmp_path / "out.jsonl"
    target = out / writer.makes if writer.folder else out
    target.parent.mkdir(exist_ok=True)
    target.write_text("my thesis")
    if writer.folder:
        (out / "mine.txt").write_text("also mine")
    before = state(out)
    message = one_line(erc(*writer.arguments(material, out)))
    assert str(out) in message and "--overwrite" in message and state(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]  # nothing else is left either

    succeed(*writer.arguments(material, out), "--overwrite")
    assert target.read_bytes() != b"my thesis"
    made = state(target)
    assert not writer.folder or (out / "mine.txt").read_text() == "also mine"
    again = erc(*writer.arguments(material, out))
    if writer.again:
        assert again.returncode == 0, again.stderr
    else:
        assert "--overwrite" in one_line(again) and state(target) == made
        succeed(*writer.arguments(material, out), "--overwrite")
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name", CASES)
def test_an_input_is_no_output(name, material, tmp_path):
    """Nor by another path, a symbolic or a hard link, with `--overwrite` or without."""
    writer = WRITERS[name]
    own = tmp_path / "m"  # a copy: a failure of this test must not break others
    shutil.copytree(material, own)
    source, there = own / writer.reads, os.path.join(own, ".", "raw", "..", writer.reads)
    links = tmp_path / "links"
    for number, kind in enumerate(("path", "symbolic", "hard")):
        folder = links / str(number)
        folder.mkdir(parents=True)
        target = folder / (writer.makes or "out")
        if kind == "path" and writer.folder:
            continue
        if kind == "symbolic":
            target.symlink_to(source)
        elif kind == "hard":
            os.link(source, target)
        out = Path(there) if kind == "path" else folder if writer.folder else target
        before = state(own)
        for options in ([], ["--overwrite"]):
            message = one_line(erc(*writer.arguments(own, out), *options))
            assert "input" in message or (not options and "--overwrite" in message), message
            assert options == [] or "input" in message
        assert state(own) == before


@pytest.mark.parametrize("name", ["card", pytest.param("report", marks=pytest.mark.slow)])
def test_what_a_person_changed_is_theirs(name, material, tmp_path):
    out = tmp_path / "out.md"
    succeed(*WRITERS[name].arguments(material, out))
    out.write_text(out.read_text().replace("neutral", "neutral!", 1))
    before = state(out)
    assert str(out) in one_line(erc(*WRITERS[name].arguments(material, out))) and state(out) == before


def test_a_corrected_manifest_is_theirs(material, tmp_path):
    out = tmp_path / "m.jsonl"
    words = WRITERS["manifest build"].arguments(material, out)
    succeed(*words)
    out.write_text(out.read_text().replace('"hi"', '"hello"'))
    assert str(out) in one_line(erc(*words)) and '"hello"' in out.read_text()
    succeed("manifest", "validate", out)  # the changed file is still a manifest


def test_a_store_that_got_another_feature_is_not_replaced(material, tmp_path):
    out = tmp_path / "c.h5"
    words = WRITERS["convert"].arguments(material, out)
    succeed(*words)
    succeed(*words)
    with FeatureStore.open(out) as store:
        feature = store.feature_names()[0]
    succeed("reduce", out, "--feature", feature, "--to", "2")
    assert str(out) in one_line(erc(*words))


def test_a_store_is_not_taken_for_a_converted_one(material, tmp_path):
    other = tmp_path / "s.h5"
    shutil.copy(material / "s.h5", other)
    before = state(other)
    assert str(other) in one_line(erc(*WRITERS["convert"].arguments(material, other))) and state(other) == before


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link"])
def test_only_regular_files_are_replaced(kind, material, tmp_path):
    out = tmp_path / "out"
    {
        "folder": out.mkdir,
        "fifo": lambda: os.mkfifo(out),
        "dangling link": lambda: out.symlink_to(tmp_path / "none"),
    }[kind]()
    done = erc("card", material / "s.h5", "--out", out, "--overwrite")
    assert str(out) in done.stderr and done.returncode in (1, 2) and os.path.lexists(out) and not out.is_file()


def test_a_report_keeps_a_folder_of_figures_that_is_not_its_own(tmp_path):
    pytest.importorskip("jinja2")
    from erc_toolkit.train.reports.page import Page, check_page, write_page

    page, out = Page("title", [], [], [], []), tmp_path / "r.html"
    (tmp_path / "r_files").mkdir()
    (tmp_path / "r_files" / "mine.csv").write_text("1")
    with pytest.raises(UserError, match="r_files"):
        check_page(out, [], overwrite=False)
    check_page(out, [], overwrite=True)
    write_page(page, out)
    check_page(out, [], overwrite=False)
    with pytest.raises(UserError, match="input"):  # the store of a run, kept among the figures
        check_page(out, [tmp_path / "r_files" / "mine.csv"], overwrite=True)
    assert (tmp_path / "r_files" / "mine.csv").read_text() == "1"


@pytest.mark.slow
def test_resuming_leaves_another_programs_folder_alone(material, tmp_path):
    """A folder with a model of transformers has the names config.yaml and model.safetensors too."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "config.yaml").write_text("a: 1\n")
    (out / "model.safetensors").write_bytes(b"weights")
    before = state(out)
    assert str(out) in one_line(erc(*WRITERS["train"].arguments(material, out), "--resume")) and state(out) == before


@pytest.mark.slow
def test_overwriting_a_training_deletes_the_files_of_that_training_only(material, tmp_path):
    out = tmp_path / "tuned"
    words = WRITERS["finetune-text"].arguments(material, out)
    succeed(*words)
    (out / "mine.txt").write_text("mine")
    stale = out / "vocab.extra"
    stale.write_text("of the earlier training")
    record = out / "finetune.yaml"
    record.write_text(record.read_text().replace("files:\n", "files:\n- vocab.extra\n- ../m.txt\n"))
    (tmp_path / "m.txt").write_text("elsewhere")
    succeed(*words, "--overwrite")
    assert (out / "mine.txt").exists() and (tmp_path / "m.txt").exists() and not stale.exists()


@pytest.mark.slow
def test_demo_keeps_a_folder_that_is_not_a_demo(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "--overwrite" in one_line(erc("demo", tmp_path)) and (tmp_path / "run" / "thesis.txt").exists()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clip.mp4").write_text("mine")
    one_line(erc("demo", tmp_path, "--overwrite"))
    assert (tmp_path / "raw" / "clip.mp4").read_text() == "mine" and (tmp_path / "run" / "thesis.txt").exists()


@pytest.mark.slow
def test_the_mark_of_a_pickle_is_invisible_to_its_readers(material, tmp_path):
    out = tmp_path / "x.pkl"
    succeed(*WRITERS["export mmgcn"].arguments(material, out))
    data = out.read_bytes()
    expected = repr(pickle.loads(data))
    unmarked = tmp_path / "plain.pkl"
    unmarked.write_bytes(data[data.index(pickle.PROTO, 1) :])
    for read in (
        lambda p: pickle.load(open(p, "rb"), encoding="latin1"),
        lambda p: pickle._Unpickler(io.BytesIO(p.read_bytes())).load(),  # the one in Python
        pandas.read_pickle,
        lambda p: np.load(p, allow_pickle=True),
        load_pickle,
    ):
        assert repr(read(out)) == repr(read(unmarked))
    assert len(expected) > 1000


def test_stamps(tmp_path):
    path = tmp_path / "a.md"
    path.write_text(stamped("# Title\n", "card"))
    assert is_stamped(path, "card") and not is_stamped(path, "package") and not is_stamped(tmp_path / "b", "card")
    for changed in ("", "x", stamped("# Title\n", "card") + "\n", stamped("# Title\n", "card").replace("T", "t", 1)):
        path.write_text(changed)
        assert not is_stamped(path, "card")


def test_the_rule(tmp_path):
    out, other = tmp_path / "out", tmp_path / "in"
    check_output(out, [other])
    with pytest.raises(UserError, match="none"):
        check_output(tmp_path / "none" / "out", [other])
    out.write_text("1")
    with pytest.raises(UserError, match="--to"):
        check_output(out, [other], option="--to")
    check_output(out, [other], overwrite=True)
    check_output(out, [other], earlier=lambda path: path == out)
    with pytest.raises(UserError, match="input"):
        check_output(out, [tmp_path], overwrite=True)  # in a folder that is read
    check_output(out, [tmp_path], earlier=lambda path: True)  # its own output there is no input
    with pytest.raises(UserError, match="input"):
        check_output(out, [out], earlier=lambda path: True)
    with pytest.raises(UserError, match="folder"):
        check_folder(out, [])
    with pytest.raises(UserError, match="input"):
        check_folder(tmp_path, ["out"], [out], overwrite=True)
    check_folder(tmp_path, ["none"], [out], overwrite=True)
    with pytest.raises(UserError, match="--overwrite"):
        check_folder(tmp_path, ["none"], [out])
    check_folder(tmp_path / "new", ["out"], [out])


def test_a_staged_folder_is_all_or_nothing(tmp_path):
    folder = tmp_path / "f"
    with pytest.raises(RuntimeError), staged_folder(folder) as work:
        (work / "a").write_text("1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with staged_folder(folder) as work:
        (work / "below").mkdir()
        (work / "below" / "a").write_text("1")
    (folder / "mine").write_text("2")
    assert folder.stat().st_mode == (tmp_path / "f" / "below").stat().st_mode
    with staged_folder(folder, ["below"]) as work:
        (work / "b").write_text("3")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"mine": "2", "b": "3"}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
