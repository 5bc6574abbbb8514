"""`reproduce`: the plan, what it skips and repeats, failures, and the page beside the paper's values."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from test_train_support import one_after_the_other, write_store

from erc_toolkit.extract.presets import preset_text
from erc_toolkit.toolkit.base.errors import Interrupted, UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.corpus import make_corpus, make_dialogue_corpus
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.reproduce.page import missing_corpora
from erc_toolkit.toolkit.reproduce.paper import load_paper, paper_names
from erc_toolkit.toolkit.reproduce.record import check_out, new_record, read_record, write_record
from erc_toolkit.toolkit.reproduce.run import run_steps
from erc_toolkit.toolkit.reproduce.sources import find_source
from erc_toolkit.toolkit.reproduce.steps import Choices, make_steps, write_study_files
from erc_toolkit.train.papers.page import _unequal
from erc_toolkit.train.papers.tables import Corpus
from erc_toolkit.train.reports.published import published_systems, published_tables
from erc_toolkit.train.studies.applied import applied, idle_notes
from erc_toolkit.train.studies.definition import load_study

IEMOCAP = ["happy", "sad", "neutral", "angry", "excited", "frustrated"]


def choices(out, budget="quick", **others):
    given = {
        "out": out,
        "budget": load_paper("amb-dsgdn").budget(budget),
        "seeds": 1,
        "text_model": "roberta-large",
        "finetune": True,
        "faces": None,
        "visual_weights": None,
        "face_model": None,
        "preset": "paper",
        "jobs": 1,
        "device": "cpu",
    }
    return Choices(**{**given, **others})


def store_of(path, corpus="iemocap", labels=IEMOCAP):
    return write_store(
        path, corpus=corpus, labels=labels, speakers=("F", "M"), sizes={"train": 12, "val": 3, "test": 5}
    )


@pytest.fixture
def here(monkeypatch):
    """Runs are trained in this process."""
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)


def test_every_table_and_figure_has_its_study():
    assert paper_names() == ["amb-dsgdn"]
    paper = load_paper("amb-dsgdn")
    tables = published_tables()
    assert [*tables] == [f"Table {n}" for n in range(4, 10)] and [*paper.figures] == [f"Fig. {n}" for n in range(3, 9)]
    studies = {table.study for table in tables.values()} | {*paper.figures.values(), "models"}
    assert studies <= {*paper.studies}
    for table in tables.values():  # what the file names is there
        for corpus in ("iemocap", "meld"):
            variants = load_study(table.study, corpus).variants
            for row in table.rows:
                if corpus in row.values:
                    assert len(row.values[corpus]) == len(table.columns), row
                    wanted = [row.variant, row.content.get("baseline")]
                    assert all(name in {v.name for v in variants} for name in wanted if name), row
                    assert not row.settings or any(v.changes == row.settings for v in variants), row
                    assert row.variant or row.settings or row.reason
    names = {variant.name for variant in load_study("models").variants}
    for corpus, table, count in (("iemocap", "Table 2", 13), ("meld", "Table 3", 11)):
        _, systems = published_systems(corpus, table)
        assert len(systems) == count and all(s.variant in names if s.variant else s.reason for s in systems)


def test_the_quick_studies_can_act(tmp_path):
    """What a study varies changes something within the quick budget's few epochs too."""
    paper, quick = load_paper("amb-dsgdn"), choices(tmp_path)
    write_study_files(paper, quick)
    settings = [f"{key}={json.dumps(value)}" for key, value in quick.budget.settings.items()]
    written = {path.stem for path in (tmp_path / "studies").glob("*.yaml")}
    assert written == {name for name, changes in paper.studies.items() if changes}
    for name in paper.studies:
        file = str(tmp_path / f"studies/{name}.yaml") if name in written else name
        for corpus in paper.corpora:
            study = load_study(file, corpus)
            shared = [*study.shared, *settings]
            own = [kept for kept, _ in applied(study.variants, "demo", shared)]
            configs = [variant.config("demo", mine) for variant, mine in zip(study.variants, own, strict=True)]
            assert idle_notes(study.variants, configs, shared) == [], (name, corpus)


def test_the_plan_from_raw_folders(tmp_path):
    (tmp_path / "ie").mkdir()
    source, paper = find_source("iemocap", tmp_path / "ie"), load_paper("amb-dsgdn")
    with pytest.raises(UserError, match=r"--faces.*--visual-weights"):
        make_steps(paper, [source], choices(tmp_path / "out"))
    steps = make_steps(paper, [source], choices(tmp_path / "out", "full", faces=tmp_path, seeds=5))
    commands = [step.arguments[0] for step in steps]
    assert commands[:4] == ["train-face", "manifest", "finetune-text", "extract"]
    assert commands[4:] == ["study"] * len(paper.studies)
    tuned = steps[2].arguments[steps[2].arguments.index("--out") + 1]
    assert tuned in steps[3].arguments and steps[0].arguments[3] in steps[3].arguments
    assert all("--seeds 5" in " ".join(step.arguments) for step in steps[4:])
    given = choices(tmp_path / "out", visual_weights="w", finetune=False)
    assert [step.arguments[0] for step in make_steps(paper, [source], given)][:2] == ["extract", "study"]


def test_sources(tmp_path):
    store = store_of(tmp_path / "s.h5")
    assert find_source("iemocap", store).kind == "store"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    pickle = find_source("meld", tmp_path / "x.pkl")
    paper = load_paper("amb-dsgdn")
    assert [s.arguments[0] for s in make_steps(paper, [pickle], choices(tmp_path / "o"))][:2] == ["convert", "study"]
    assert make_steps(paper, [find_source("iemocap", store)], choices(tmp_path / "o"))[0].arguments[0] == "study"
    for corpus, path, fact in (("meld", store, "'iemocap'"), ("meld", tmp_path / "no", "does not exist")):
        with pytest.raises(UserError, match=fact):
            find_source(corpus, path)


class Commands:
    """Records what is run; a command writes to its --out, the manifest what it is told to."""

    def __init__(self, manifest, fails=()):
        self.run, self.manifest, self.fails = [], manifest, set(fails)

    def __call__(self, arguments):
        self.run.append(list(arguments))
        if arguments[0] in self.fails:
            raise UserError(f"{arguments[0]} does not work")
        out = Path(arguments[arguments.index("--out") + 1])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(self.manifest if arguments[0] == "manifest" else "made")


def test_finished_steps_are_left_and_changed_ones_repeated(tmp_path):
    (tmp_path / "ie").mkdir()
    sources, paper = [find_source("iemocap", tmp_path / "ie")], load_paper("amb-dsgdn")
    chosen = choices(tmp_path / "out", faces=tmp_path / "ie")
    steps = make_steps(paper, sources, chosen)
    out, said = tmp_path / "out", []
    out.mkdir()

    def go(manifest="a", fails=()):
        check_out(out, paper.name, chosen, sources, False)
        record, commands = new_record(out, paper.name, chosen, sources, False), Commands(manifest, fails)
        write_record(out, record)
        failed = run_steps(steps, record, out, commands, said.append)
        return failed, [arguments[0] for arguments in commands.run], commands.run

    failed, first, _ = go()
    assert not failed and first == [step.arguments[0] for step in steps]
    assert go()[1][:3] == ["manifest", "extract", "study"]  # these know what is left to do
    failed, run, again = go("b")
    assert not failed and run[:3] == ["manifest", "finetune-text", "extract"]
    assert "--overwrite" in again[1] and "train-face" not in run
    failed, run, _ = go("b", ["extract"])
    assert "study" not in run and len(failed) == 1 + sum(step.arguments[0] == "study" for step in steps)
    states = {step["step"]: step["status"] for step in read_record(out)["steps"]}
    assert states["IEMOCAP: features"] == "failed"
    failed, run, _ = go("b", ["study"])  # every study is tried, whatever became of the others
    assert run.count("study") == len(failed) == len(paper.studies) - 1

    def interrupted(arguments):
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        run_steps(steps, read_record(out), out, interrupted, said.append)
    with pytest.raises(UserError, match="--budget"):
        check_out(out, paper.name, choices(out, "full"), sources, False)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="--iemocap"):
        check_out(out, paper.name, chosen, [find_source("iemocap", tmp_path / "other")], False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    with pytest.raises(UserError, match="full"):
        check_out(tmp_path / "full", paper.name, chosen, sources, False)


def test_a_face_network_that_fails_stops_those_that_need_it(tmp_path):
    (tmp_path / "ie").mkdir()
    store = store_of(tmp_path / "meld.h5", "meld", ["neutral", "joy"])
    paper = load_paper("amb-dsgdn")
    sources = [find_source("iemocap", tmp_path / "ie"), find_source("meld", store)]
    out = tmp_path / "out"
    chosen = choices(out, faces=tmp_path / "ie")
    steps, commands = make_steps(paper, sources, chosen), Commands("a", ["train-face"])
    out.mkdir()
    record = new_record(out, paper.name, chosen, sources, False)
    failed = run_steps(steps, record, out, commands, lambda line: None)
    assert {a[0] for a in commands.run} == {"train-face", "study"}
    assert all(str(store) in a for a in commands.run[1:]) and len(commands.run) == len(paper.studies)
    assert set(failed) == {"face network", *(step.title for step in steps if step.corpus == "iemocap")}
    reason = "face network failed: train-face does not work"
    assert missing_corpora(paper, sources, record) == {"iemocap": f"IEMOCAP: manifest left out: {reason}"}
    # Once it works, nothing is missing, and what was left out is done.
    again = run_steps(steps, record, out, Commands("a"), lambda line: None)
    assert not again and missing_corpora(paper, sources, record) == {}
    assert {step["status"] for step in record["steps"]} == {"done"}


def table(folder, name):
    with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_from_a_store_with_the_other_corpus_missing(tmp_path, here):
    store, out = store_of(tmp_path / "s.h5"), tmp_path / "paper"
    arguments = ["reproduce", "amb-dsgdn", "--iemocap", str(store), "--out", str(out), "--budget", "quick"]
    arguments += ["--device", "cpu"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    page, files = (out / "paper.html").read_text(), out / "paper_files"
    assert "not given (--meld)" in page and "Budget quick" in page and str(tmp_path) not in page
    rows = table(files, "table_2")
    ours = {row[0]: row for row in rows if row[1] == "ours"}
    printed = {row[0]: row for row in rows if row[1] == "printed"}
    assert printed["AMB-DSGDN"][2:6] == ["60.23", "66.25", "84.58", "81.36"] and len(printed) == 13
    study = json.loads((out / "iemocap/models/study.json").read_text())
    for variant in study["variants"]:
        test = variant["runs"][0]["result"]["test"]
        row = ours.get(variant["name"]) or ours[f"{variant['name']} *"]
        recall = variant["name"] in ("DialogueRNN", "MMGCN", "MM-DFN", "RL-EMO")
        assert row[2] == f"{100 * test['per_class']['happy']['recall' if recall else 'precision']:.2f}"
        assert row[3] == f"{100 * test['per_class']['happy']['f1']:.2f}"
        assert row[14] == f"{100 * test['accuracy' if recall else 'weighted_precision']:.2f}"
        low, high = (float(x) for x in row[16].split(" to "))
        assert low <= 100 * test["weighted_f1"] + 0.05 and high >= 100 * test["weighted_f1"] - 0.05
    assert all(cell == "–" for row in table(files, "table_3") if row[1] == "ours" for cell in row[2:-2])
    seven = table(files, "table_7")
    assert len(seven) == 1 + 16 and sum(row[1] not in ("–", "") for row in seven[1:]) == 9
    assert all((row[2] != "–") == (row[1] != "–") and row[4] == "–" for row in seven[1:])
    # The same again: nothing is trained, and the page is the same.
    times = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    # Equal runs of several studies were trained once: their training time is the same to the hundredth.
    shared = [
        json.loads((out / f"iemocap/{s}/{v}/seed-0/result.json").read_text())["result"]["seconds"]
        for s, v in (("models", "AMB-DSGDN"), ("modalities", "text-+-audio-+-visual"), ("graph", "both"))
    ]
    assert len({*shared}) == 1


def test_a_feature_that_changed_between_the_studies_is_named():
    def studies(**contents):
        return {name: SimpleNamespace(record={"contents": content}) for name, content in contents.items()}

    same = studies(models={"text/a": "1", "audio/b": "2"}, text={"text/a": "1"}, added={"text/a": "1", "visual/c": "3"})
    changed = studies(models={"text/a": "1", "audio/b": "2"}, audio={"audio/b": "4"})
    told = _unequal([Corpus("iemocap", "IEMOCAP", same), Corpus("meld", "MELD", changed)])
    assert len(told) == 1 and told[0].startswith("MELD: audio/b changed between the studies")


@pytest.mark.slow
def test_the_plan_is_estimated_from_samples(tmp_path):
    raw = make_dialogue_corpus(tmp_path / "raw", seed=1, dialogues=10).root
    encoder = make_text_encoder(tmp_path / "encoder", ["some words of text"])
    arguments = ["reproduce", "amb-dsgdn", "--iemocap", raw, "--out", tmp_path / "paper", "--budget", "quick"]
    arguments += ["--text-model", encoder, "--preset", "demo", "--visual-weights", "random", "--dry-run"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    steps = make_steps(
        load_paper("amb-dsgdn"),
        [find_source("iemocap", raw)],
        choices(tmp_path / "paper", visual_weights="random"),
    )
    estimates = [line for line in lines if line.startswith("  IEMOCAP: ")]
    assert len(estimates) == len(steps) and all("about" in line for line in estimates), result.output
    assert f"{len(steps)} steps: about" in lines[-1] and not (tmp_path / "paper").exists()


@pytest.mark.slow
def test_the_plan_of_the_papers_own_features(raw, tmp_path):
    """A preset that reduces to more dimensions than a sample has utterances, and a face network to be trained."""
    preset = yaml.safe_load(preset_text("paper"))
    preset["options"] |= {"pooling": "cls", "face-detector": "haar", "fps": 2}
    preset["corpora"]["meld"]["options"] |= {"audio-set": "eGeMAPSv02"}
    preset["corpora"]["meld"]["reduce"] = [{"feature": "audio/eGeMAPSv02", "to": 40}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    for split in ("train", "val"):
        for label in ("joy", "anger"):
            (tmp_path / "faces" / split / label).mkdir(parents=True)
            for i in range(4):
                picture = np.full((48, 48), 60 * i, np.uint8)
                cv2.imwrite(str(tmp_path / "faces" / split / label / f"{i}.png"), picture)
    encoder = make_text_encoder(tmp_path / "encoder", ["some words of text"])
    arguments = ["reproduce", "amb-dsgdn", "--meld", raw, "--out", tmp_path / "paper", "--budget", "quick"]
    arguments += ["--text-model", encoder, "--preset", tmp_path / "own.yaml", "--faces", tmp_path / "faces"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu", "--dry-run"])
    assert result.exit_code == 0 and "not estimated" not in result.output, result.output
    lines = [line for line in result.output.splitlines() if ": about" in line]
    assert lines[0].startswith("  face network: about") and "features: about" in result.output
    assert not (tmp_path / "paper").exists()


@pytest.mark.slow
@pytest.mark.long
def test_the_paper_from_two_raw_corpora(tmp_path):
    """The demo corpora in both layouts; the table of what is in raw files to the page, in one command."""
    meld = make_corpus(tmp_path / "meld", train=10, dev=3, test=6).root
    iemocap = make_dialogue_corpus(tmp_path / "iemocap", dialogues=10).root
    encoder = make_text_encoder(tmp_path / "encoder", ["I did not expect the letter", "I hate the dinner"])
    out = tmp_path / "paper"
    arguments = ["reproduce", "amb-dsgdn", "--iemocap", iemocap, "--meld", meld, "--out", out, "--budget", "quick"]
    arguments += ["--text-model", encoder, "--preset", "demo", "--visual-weights", "random", "--jobs", "2"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output[-3000:]
    record = json.loads((out / "reproduction.json").read_text())
    assert all(step["status"] == "done" for step in record["steps"])
    files = out / "paper_files"
    for number in (4, 5, 6):
        rows = table(files, f"table_{number}")
        assert all(cell not in ("", "–") for row in rows[1:] for cell in row[1:]), number
    assert all(cell not in ("", "–") for row in table(files, "table_8") for cell in row[3:])
    page = (out / "paper.html").read_text()
    headings = [f"Table {n}" for n in range(2, 10)] + [f"Fig. {n}" for n in range(3, 9)]
    assert all(f"<h2>{heading}" in page for heading in headings)
    drawn = [path.name for path in files.glob("*.png")]
    assert page.count("<figure") == len(drawn) and {name.split("_")[0] for name in drawn} == {"iemocap", "meld"}
    assert yaml.safe_load((out / "studies/warmup.yaml").read_text())["grid"]["model.dropout_warm_up"] == [0, 1, 2, 3]
