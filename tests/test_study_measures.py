"""Study measures: the contract, the registry, and a plug-in measure from the study file to the page."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_study import SMALL
from test_train_support import one_after_the_other, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.commands.report import report_command
from erc_toolkit.train.commands.study import study_command
from erc_toolkit.train.studies.definition import parse_study
from erc_toolkit.train.studies.measures.base import Measure
from erc_toolkit.train.studies.measures.registry import MEASURES, find_measure, measures
from erc_toolkit.train.studies.measures.results import Results

DOCS = Path(__file__).parents[1] / "docs/how-to/studies.md"


def documented():
    """The example in docs/how-to/studies.md: code, name and value of the entry point, study file."""
    text = DOCS.read_text("utf-8")
    text = text[text.index("## A measure of your own") :]
    blocks = dict(reversed(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)))
    group, name, value = re.search(r'^\[project.entry-points."(.+)"\]\n(\w+) = "(.+)"', blocks["toml"]).groups()
    assert group == "erc_toolkit.measures"
    return blocks["python"], name, value, blocks["yaml"]


WHOLE = """
from erc_toolkit.train.studies.measures.base import Measure


class Toy(Measure):
    def measure(self, run, settings):
        return 1

    def summarise(self, measured):
        return sum(measured)

    def tables(self, study, variants):
        return []

    def section(self, study, variants):
        return None
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that adds a package with one module, one entry point and pip's metadata to sys.path."""
    modules = []

    def install(package, module, code, name, value):
        site = tmp_path / f"site-{package}"
        metadata = site / f"{package}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[erc_toolkit.measures]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(str(site))
        modules.append(module)

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5")


def invoke(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.mark.slow
def test_the_documented_measure_from_the_study_file_to_the_page(install, store, tmp_path):
    code, name, value, text = documented()
    install("doubts", "hesitation", code, name, value)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    options = [store, "--study", file, "--out", tmp_path / "out", "--seeds", 2, *SMALL[2:], "--recipe", "demo"]
    shown = invoke(study_command, *options)  # in worker processes, which also find the package
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "out/study.json").read_text())
    assert found["measure"] == "hesitation"
    expected = []
    for variant in found["variants"]:
        shares = []
        for run in variant["runs"]:
            rows = csv.DictReader((tmp_path / "out" / run["folder"] / "predictions.csv").open())
            highest = [max(float(v) for k, v in row.items() if k.startswith("p_")) for row in rows]
            shares.append(np.mean(np.array(highest) < 0.4))
            assert run["measured"] == pytest.approx(shares[-1], abs=0.02)  # the file rounds
        measured = [run["measured"] for run in variant["runs"]]
        expected.append([variant["name"], f"{100 * np.mean(measured):.2f}"])
    assert [row[0] for row in expected] == ["small", "wide"]
    lines = shown.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "hesitant predictions" in line)
    assert [line.split() for line in lines[start + 2 : start + 4]] == expected
    assert any("test wF1" in line for line in lines[:start])  # the results are printed as well
    page = invoke(report_command, tmp_path / "out", "--out", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    html = (tmp_path / "page.html").read_text()
    assert "<h2>Hesitation</h2>" in html and "<h2>Results</h2>" in html and f"<td>{expected[0][1]}</td>" in html
    assert list(csv.reader((tmp_path / "page_files/hesitation.csv").open()))[1:] == expected
    # A different threshold is measured on the same training runs; the same one is not measured again.
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/*/result.json")}
    again = invoke(study_command, *options)
    assert "4 done, 0 skipped, 0 to do" in again.stdout
    file.write_text(text.replace("0.4", "1"))
    other = invoke(study_command, *options, "--json")
    assert "0 done, 0 skipped, 4 to do" in other.stderr and finished == {p: p.stat().st_mtime_ns for p in finished}
    assert all(run["measured"] > 0.9 for row in json.loads(other.stdout)["variants"] for run in row["runs"])


def test_keys_of_a_plugin_measure_are_checked_by_it(install, store, tmp_path):
    code, name, value, text = documented()
    install("doubts", "hesitation", code, name, value)
    assert parse_study(text, "x", "x.yaml").settings == {"below": 0.4}
    assert parse_study(text.replace("below: 0.4\n", ""), "x", "x.yaml").settings == {"below": 0.5}
    for wrong, field in ((text.replace("0.4", "2"), "below"), (text + "levels: [1]\n", "levels")):
        with pytest.raises(UserError, match=f"^x.yaml: .*{field}") as error:
            parse_study(wrong, "x", "x.yaml")
        assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("change", "member"),
    [
        (("def measure", "def measured"), "measure"),
        (("def summarise", "def summarize"), "summarise"),
        (("def tables", "def table"), "tables"),
        (("def section", "def sections"), "section"),
        (("measure(self, run, settings)", "measure(self, run)"), "measure"),
        (("tables(self, study, variants)", "tables(self)"), "tables"),
        (("Toy(Measure):", "Toy(Measure):\n    keys = 'below'"), "keys"),
        (("Toy(Measure):", "Toy(Measure):\n    keys = ('title',)"), "title"),
        (("Toy(Measure):", "Toy(Measure):\n    trains = 'no'"), "trains"),
        (("Toy(Measure):", "Toy(Measure):\n    covers_results = 1"), "covers_results"),
        (("Toy(Measure):", "Toy(Measure):\n    check = None"), "check"),
        (("Toy(Measure):", "Toy(Measure):\n    def __init__(self, x): pass"), "Toy"),
        (("class Toy(Measure)", "class Toy"), "Measure"),
        (("class Toy(Measure)", "class Other(Measure)"), "Toy"),
        (("import Measure", "import Nothing"), "Nothing"),
        (("class Toy", "raise ValueError('at\\nimport')\nclass Toy"), "at import"),
    ],
)
def test_a_broken_contract_is_a_one_line_error(install, store, tmp_path, change, member):
    assert change[0] in WHOLE
    install("toys", "toymeasure", WHOLE.replace(*change), "toy", "toymeasure:Toy")
    file = tmp_path / "toy.yaml"
    file.write_text("measure: toy\nruns: {a: {}}\n")
    result = invoke(study_command, store, "--study", file, "--out", tmp_path / "out", *SMALL)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and isinstance(result.exception, SystemExit)
    assert "'toy'" in result.stderr and "toys 1.2" in result.stderr and member in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (("return 1", "return {1, 2}"), "measure()"),
        (("return 1", "return float('nan')"), "measure()"),
        (("return []", "return ['table']"), "tables()"),
        (("return []", "return None"), "tables()"),
        (("return None", "return 'section'"), "section()"),
        (
            ("class Toy(Measure):", "class Toy(Measure):\n    def conclude(self, study, out): return {'seeds': 1}"),
            "seeds",
        ),
        (
            ("class Toy(Measure):", "class Toy(Measure):\n    def conclude(self, study, out): return {'x': {1}}"),
            "conclude()",
        ),
        (("class Toy(Measure):", "class Toy(Measure):\n    def check(self, given, where): return [1]"), "check()"),
        (
            ("class Toy(Measure):", "class Toy(Measure):\n    def check(self, given, where): return {'a': {1}}"),
            "check()",
        ),
    ],
)
def test_an_invalid_return_value_is_a_one_line_error(install, store, tmp_path, monkeypatch, change, fact):
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    install("toys", "toymeasure", WHOLE.replace(*change), "toy", "toymeasure:Toy")
    file = tmp_path / "toy.yaml"
    file.write_text("measure: toy\nruns: {a: {model.name: logistic-regression}}\n")
    options = ["--recipe", "demo", "--set", "train.epochs=1", "--device", "cpu"]
    result = invoke(study_command, store, "--study", file, "--out", tmp_path / "out", *options)
    if fact == "section()":
        assert result.exit_code == 0, result.output
        result = invoke(report_command, tmp_path / "out", "--out", tmp_path / "page.html")
    if fact == "measure()":
        reason = json.loads((tmp_path / "out/study.json").read_text())["variants"][0]["runs"][0]["reason"]
        assert result.exit_code == 1 and fact in reason and "'toy'" in reason
    else:
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
        assert result.stderr.count("\n") == 1 and "'toy'" in result.stderr and fact in result.stderr


def test_a_measure_that_does_not_train_and_concludes(install, store, tmp_path, monkeypatch):
    """A single seed, no results, a custom progress line; its conclusion is in study.json and in its tables."""
    code = WHOLE.replace("class Toy(Measure):", "class Toy(Measure):\n    trains = False\n").replace(
        "return 1", "return len(run.plan.store)"
    )
    code = code.replace("return []", "return [ReportTable('t', 'rows', ['', 'n'], [['all', str(study['total'])]])]")
    code += "\n    def conclude(self, study, out):\n"
    code += "        return {'total': sum(r['measured'] for v in study['variants'] for r in v['runs'])}\n"
    code += "\n    def brief(self, measured):\n        return f'{measured} rows'\n"
    code = "from erc_toolkit.train.scores.tables import ReportTable\n" + code
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    install("toys", "toymeasure", code, "toy", "toymeasure:Toy")
    file = tmp_path / "toy.yaml"
    file.write_text("measure: toy\nruns: {a: {}, b: {model.window: 1}}\n")
    result = invoke(study_command, store, "--study", file, "--out", tmp_path / "out", "--seeds", 3, *SMALL)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out/study.json").read_text())
    rows = found["variants"][0]["runs"][0]["measured"]
    assert found["seeds"] == [0] and found["total"] == 2 * rows > 0 and list(found)[-1] == "variants"
    assert f"a, seed 0: {rows} rows" in result.stdout and "test wF1" not in result.stdout
    assert re.search(rf"all\s+{2 * rows}", result.stdout) and not list((tmp_path / "out").glob("*/*/result.json"))


@pytest.mark.slow
def test_a_failed_run_is_reported_with_its_reason_and_log(install, store, tmp_path):
    """In worker processes: one is killed, one raises, one refuses, one succeeds."""
    code = WHOLE.replace(
        "        return 1\n",
        "        what = run.folder.parent.name\n"
        "        if what == 'killed':\n"
        "            import os, signal\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        if what == 'raises':\n            raise ValueError('on purpose')\n"
        "        if what == 'refuses':\n"
        "            from erc_toolkit.toolkit.base.errors import UserError\n"
        "            raise UserError('no such thing')\n"
        "        return 1\n",
    )
    install("toys", "toymeasure", code, "toy", "toymeasure:Toy")
    file = tmp_path / "toy.yaml"
    names = ("killed", "raises", "refuses", "well")
    file.write_text("measure: toy\nruns:\n" + "".join(f"  {n}: {{model.name: logistic-regression}}\n" for n in names))
    options = ["--recipe", "demo", "--set", "train.epochs=1", "--device", "cpu"]
    result = invoke(study_command, store, "--study", file, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1 and "3 runs" in result.stderr
    found = json.loads((tmp_path / "out/study.json").read_text())["variants"]
    runs = {row["name"]: row["runs"][0] for row in found}
    assert [runs[name]["status"] for name in names] == ["failed", "failed", "failed", "done"]
    assert "SIGKILL" in runs["killed"]["reason"] and "no such thing" in runs["refuses"]["reason"]
    assert "ValueError" in runs["raises"]["reason"] and "on purpose" in runs["raises"]["reason"]
    logs = {name: (tmp_path / "out" / name / "seed-0/train.log").read_text() for name in names}
    assert "Traceback" in logs["raises"] and "on purpose" in logs["raises"] and "toymeasure.py" in logs["raises"]
    assert "no such thing" in logs["refuses"] and "Traceback" not in logs["refuses"] + logs["well"]


def test_built_in_names_take_precedence_and_duplicates_are_errors(install):
    install("toys", "toymeasure", WHOLE, "results", "toymeasure:Toy")
    assert type(find_measure("results")) is Results and "toymeasure" not in sys.modules
    install("one", "onemeasure", WHOLE, "toy", "onemeasure:Toy")
    assert list(measures())[: len(MEASURES)] == list(MEASURES) and find_measure("toy").name == "toy"
    install("two", "twomeasure", WHOLE, "toy", "twomeasure:Toy")
    with pytest.raises(
        UserError, match="'toy'.*package one 1.2.*package two 1.2|'toy'.*package two 1.2.*package one 1.2"
    ):
        find_measure("toy")
    with pytest.raises(UserError, match="'joy'.*results"):
        find_measure("joy")


def test_a_page_without_its_measure_is_an_error(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"measure": "toy", "variants": []}))
    result = invoke(report_command, tmp_path, "--out", tmp_path / "page.html")
    assert result.exit_code == 1 and "'toy'" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_fulfils_the_contract(name):
    measure = find_measure(name)
    assert isinstance(measure, Measure) and measure.name == name and type(measure).__doc__
    assert set(measure.check({}, "here")) == set(measure.keys)  # defaults, for files that omit its keys


def test_measured_json_of_earlier_releases_is_reused(store, tmp_path, monkeypatch):
    """It contained the keys of every measure; the run is not measured again."""
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    file = tmp_path / "noise.yaml"
    file.write_text("measure: noise\nlevels: [0, 1]\nruns: {a: {}}\n")
    options = [store, "--study", file, "--out", tmp_path / "out", *SMALL, "--recipe", "demo"]
    assert invoke(study_command, *options).exit_code == 0
    path = tmp_path / "out/a/seed-0/measured.json"
    kept = json.loads(path.read_text())
    kept["asked"] |= {"lengths": [1, 1_000_000]}
    path.write_text(json.dumps(kept))
    assert "1 done, 0 skipped, 0 to do" in invoke(study_command, *options).stdout
