"""Progress without a terminal: a line a minute, JSON lines, words for rates; and suggestions for what was mistyped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from test_train_support import write_store

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.base import progress
from erc_toolkit.toolkit.base.demo_mark import MARKER, NOTE
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.corpus import make_dialogue_corpus


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


def until(read, word, limit_s=10.0):
    """Reads until the word is there, in real time."""
    said, began = "", time.monotonic()
    while word not in said:
        assert time.monotonic() - began < limit_s, said
        time.sleep(0.01)
        said += read()
    return said


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_a_minute(clock, capsys):
    with progress.progress_bar("clips", 1000) as bar:
        for second in range(301):
            clock.now = 100.0 + second
            bar.at(second, 1000, "of dia3" if second == 260 else None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5  # after 20 s, then every minute
    assert lines[0] == "clips: 20 of 1,000, 1.0/s, 16 min left"
    assert lines[1].startswith("clips: 80 of 1,000") and lines[-1] == "clips: 260 of 1,000, 1.0/s, 12 min left, of dia3"


def test_a_long_step_does_not_silence_a_stage(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_BEAT_S", 0.01)
    for log_json in (False, True):
        with progress.Stages(log_json) as stages:
            bar = stages.stage("media", 10)
            for _ in range(2):
                clock.now += 61
                assert until(lambda: capsys.readouterr().err, "media")
            bar.at(1, 10)
            capsys.readouterr()
            clock.now += 61
            said = until(lambda: capsys.readouterr().err, "media")
        assert json.loads(said)["done"] == 1 if log_json else said.startswith("media: 1 of 10, 20/h, 27 min left")
        clock.now += 61
        time.sleep(0.05)
        assert not capsys.readouterr().err  # it ends with the work


def test_what_was_done_before_is_no_part_of_the_rate(clock, capsys):
    with progress.progress_bar("text", 1000) as bar:
        bar.resume(900)
        clock.now += 30
        bar.advance(30)
    assert capsys.readouterr().err == "text: 930 of 1,000, 1.0/s, 70 s left\n"


def test_short_work_is_silent_and_an_unknown_total_is_possible(clock, capsys):
    with progress.progress_bar("a", 3) as bar:
        bar.at(3, 3)
    with progress.progress_bar("b", None) as bar:
        clock.now += 30
        bar.at(1, None)
    assert capsys.readouterr().err == "b: 1, 2.0/min\n"


@pytest.mark.parametrize(
    ("rate", "words"), [(12345.6, "12,345.6/s"), (1, "1.0/s"), (0.5, "30.0/min"), (0.01, "36/h"), (1e-4, "0.36/h")]
)
def test_rates_are_never_zero(rate, words):
    assert progress.rate_in_words(rate) == words


def test_json_lines_have_the_same(clock, capsys):
    with progress.Stages(log_json=True) as stages:
        bar = stages.stage("slow", 10)
        clock.now += 10_000
        bar.at(1, 10, "first")
    line = json.loads(capsys.readouterr().err)
    assert line == {
        "event": "progress",
        "stage": "slow",
        "done": 1,
        "total": 10,
        "rate": 0.0001,
        "seconds_left": 90_000.0,
        "note": "first",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("train", "study", "convert", "demo", "predict", "reproduce", "finetune-text", "train-face", "transcribe"),
        "finetune-speech",
        *("extract meld", "manifest validate"),
    ],
)
def test_long_commands_have_json_lines(name):
    assert "--log-json" in CliRunner().invoke(main, [*name.split(), "--help"]).output


def test_training_and_studies_as_json_lines(tmp_path):
    store = write_store(tmp_path / "s.h5")
    small = "--set train.epochs=2 --set model.hidden=8 --set model.heads=2 --recipe demo --device cpu".split()
    for words, stage, total in (
        (["train", str(store), "--out", str(tmp_path / "run")], "train", 2),
        (["study", str(store), "--grid", "model.window=1,2", "--out", str(tmp_path / "study")], "study grid", 2),
    ):
        command = [sys.executable, "-m", "erc_toolkit", *words, *small, "--log-json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        last = [event for event in events if event["stage"] == stage][-1]
        assert last["done"] == last["total"] == total and last["rate"] > 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["tain"], "'train'"), (["extract", "mled", "x"], "'meld'"), (["manifest", "biuld"], "'build'")],
)
def test_a_mistyped_command_is_understood(words, meant):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and f"did you mean {meant}" in result.output.replace("\n", " ")


def test_a_corpus_found_below_the_folder_is_named(raw, tmp_path):
    (tmp_path / "deep/MELD.Raw").mkdir(parents=True)
    for table in raw.glob("*.csv"):
        shutil.copy(table, tmp_path / "deep/MELD.Raw")
    notes = read_corpus("meld", tmp_path).notes
    assert any(str(tmp_path / "deep/MELD.Raw/train_sent_emo.csv") in note for note in notes)
    assert not any(
        "found" in note for note in read_corpus("meld", tmp_path / "deep/MELD.Raw").notes if "not" not in note
    )


def test_a_demo_corpus_is_known_below_the_folder(raw, tmp_path):
    (tmp_path / "deep").mkdir()
    shutil.copytree(raw, tmp_path / "deep/MELD.Raw")
    assert NOTE in read_corpus("meld", raw).notes and NOTE in read_corpus("meld", tmp_path).notes
    (tmp_path / "deep/MELD.Raw" / MARKER).unlink()
    assert NOTE not in read_corpus("meld", tmp_path).notes


def test_iemocap_found_below_the_folder_is_named(tmp_path):
    corpus = make_dialogue_corpus(tmp_path / "deep", seed=1, dialogues=2)
    notes = read_corpus("iemocap", tmp_path).notes
    assert any(f"in {corpus.root}" in note for note in notes) and NOTE in notes
    assert not any("found Session" in note for note in read_corpus("iemocap", corpus.root).notes)
    with pytest.raises(UserError, match="contains none of MELD's tables"):
        read_corpus("meld", tmp_path)
