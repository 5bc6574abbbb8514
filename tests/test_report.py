"""The HTML report: it agrees with the files, is self-contained, and treats hostile text as text."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_train_cli import SMALL, train_on
from test_train_support import DIMS, TINY, one_after_the_other, packing, random_batch, tiny_model, write_store

from erc_toolkit.train.commands.eval import eval_command
from erc_toolkit.train.commands.report import report_command
from erc_toolkit.train.commands.study import study_command
from erc_toolkit.train.reports.attention import attention_edges
from erc_toolkit.train.reports.run_page import published
from erc_toolkit.train.scores.tables import ReportTable

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> & "quoted" {{ 7*7 }} $x$'
LABELS = ["anger", "<b>joy</b>", "neutral"]


class Read(HTMLParser):
    """Elements, links, scripts and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts, self.rows, self.text = [], [], [], [], ""
        self._script = self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "action") and not (v or "").startswith("#")
        ]
        self.links += [k for k, _ in attrs if k.startswith("on")]
        if tag == "script":
            self._script = True
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = False
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        if self._script:
            self.scripts[-1] += data
            return
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = write_store(
        folder / "s.h5", corpus="MELD", labels=LABELS, speakers=("ann", HOSTILE, "cy"), text=HOSTILE, noise=2
    )
    assert train_on(store, folder / "run", "--recipe", "demo").exit_code == 0
    result = CliRunner().invoke(report_command, [str(folder / "run"), "--out", str(folder / "report.html")])
    assert result.exit_code == 0, (result.output, result.exception)
    return folder


def test_numbers_match_the_run(made):
    got = json.loads(CliRunner().invoke(eval_command, [str(made / "run"), "--json", "--by", "position"]).stdout)
    page = Read((made / "report.html").read_text())
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        assert f"{100 * got[name]:.2f}" in page.text
    low, high = got["intervals"]["weighted_f1"]
    assert f"{100 * low:.2f} to {100 * high:.2f}" in page.text
    for name, row in got["per_class"].items():
        cells = [name, *(f"{100 * row[k]:.2f}" for k in ("precision", "recall", "f1")), str(row["support"])]
        assert cells in page.rows
    files = made / "report_files"
    table = list(csv.reader((files / "by_emotion.csv").open()))
    assert all(row in page.rows for row in table) and len(table) == 4
    assert {p.suffix for p in files.iterdir()} == {".csv", ".tex", ".png", ".svg"}
    for stem in ("confusion", "curves", "reliability"):
        assert (files / f"{stem}.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (
            files / f"{stem}.svg"
        ).read_text()


def test_the_page_is_self_contained_and_executes_no_transcript(made):
    text = (made / "report.html").read_text()
    page = Read(text)
    assert page.links == [] and "@import" not in text and "url(http" not in text
    assert page.tags.count("script") == 2 and "img" not in page.tags and "b" in page.tags
    assert "<b>joy" not in text and "{{ 7*7 }}" in text
    data = json.loads(page.scripts[0])
    assert data["labels"] == LABELS
    said = [u for d in data["dialogues"] for u in d["utterances"]]
    assert all(u["text"] == HOSTILE for u in said) and HOSTILE in {u["speaker"] for u in said}


def test_dialogues_match_the_predictions(made):
    data = json.loads(Read((made / "report.html").read_text()).scripts[0])
    rows = list(csv.DictReader((made / "run/predictions.csv").open()))
    name = [*LABELS, ""]
    shown = [(d["name"], name[u["true"]], name[u["predicted"]]) for d in data["dialogues"] for u in d["utterances"]]
    assert shown == [(r["dialogue"], r["true"], r["predicted"]) for r in rows]
    own = [tuple(name[c] for c in u["own"]) for d in data["dialogues"] for u in d["utterances"]]
    assert own == [tuple(r[f"predicted_{m}"] for m in data["modalities"]) for r in rows]
    for dialogue in data["dialogues"]:
        size = len(dialogue["utterances"])
        for graphs in dialogue["edges"].values():
            for graph in graphs.values():
                assert {(i, j) for i, j, *_ in graph} >= {(i, i) for i in range(size)}
                for i in range(size):
                    sums = np.sum([edge[2:4] for edge in graph if edge[0] == i], 0)
                    assert np.allclose(sums, 1000, atol=8)  # each branch is a softmax, rounded to thousandths


@pytest.mark.slow
def test_several_seeds_make_one_report_and_a_numeric_grid_a_curve(made, tmp_path, monkeypatch):
    options = ["--recipe", "demo", "--set", "train.epochs=1"]
    assert train_on(made / "s.h5", tmp_path / "seeds", "--seeds", "3", *options).exit_code == 0
    result = CliRunner().invoke(report_command, [str(tmp_path / "seeds"), "--out", str(tmp_path / "new/r.html")])
    assert result.exit_code == 0, (result.output, result.exception)
    text = Read((tmp_path / "new/r.html").read_text()).text
    mean = json.loads((tmp_path / "seeds/summary.json").read_text())["test"]["weighted_f1"]["mean"]
    assert "mean over seeds 0, 1, 2" in text and f"{100 * mean:.2f}" in text
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    small = [part for setting in SMALL for part in ("--set", setting)]
    arguments = [
        str(made / "s.h5"),
        "--grid",
        "model.window=0,2,5",
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "g"),
        *options,
        *small,
    ]
    assert CliRunner().invoke(study_command, arguments).exit_code == 0
    assert CliRunner().invoke(report_command, [str(tmp_path / "g"), "--out", str(tmp_path / "g.html")]).exit_code == 0
    text = (tmp_path / "g_files/weighted_f1.svg").read_text()
    assert ">window<" in text and "±" in (tmp_path / "g_files/results.csv").read_text()
    assert "--seeds" not in (tmp_path / "g.html").read_text()  # no warning of too few seeds
    two = ["--grid", "model.window=0,2", "--grid", "model.q_base=0.1,0.3,0.5", "--out", str(tmp_path / "two")]
    assert CliRunner().invoke(study_command, [str(made / "s.h5"), *two, *options, *small]).exit_code == 0
    assert (
        CliRunner().invoke(report_command, [str(tmp_path / "two"), "--out", str(tmp_path / "two.html")]).exit_code == 0
    )
    shown = re.findall(r">(\d+\.\d\d)</text>", (tmp_path / "two_files/grid.svg").read_text())
    found = json.loads((tmp_path / "two/study.json").read_text())["variants"]
    assert shown == [f"{100 * row['test']['weighted_f1']['mean']:.2f}" for row in found] and len(shown) == 6


def test_the_page_warns_of_different_features_protocols_and_test_splits(made):
    text = Read((made / "report.html").read_text()).text
    features, emotions = published()["features"].strip(), ", ".join(published()["meld"]["classes"])
    assert features in text and emotions in text and re.search(r"protocol; this run's is validation\b", text)
    assert re.search(r"test split: 29 .*? 2,610 ", text)
    assert "AMB-DSGDN (paper, Table 3)" in text and "w. precision" in text


def test_published_scores_follow_from_their_classes():
    support = {"iemocap": [144, 245, 384, 170, 299, 381], "meld": [1256, 281, 50, 208, 402, 68, 345]}
    rows, checked = published(), 0
    for corpus, counts in support.items():
        assert rows[corpus]["test_utterances"] == sum(counts)
        for row in rows[corpus]["rows"]:
            assert row["selection"] in ("best on test", "not stated", "validation", "test")
            if "per_class" in row and "note" not in row:
                mean = np.average([f or 0 for f in row["per_class"]], weights=counts)
                assert mean == pytest.approx(row["weighted_f1"], abs=0.04), row
                checked += 1
    assert checked == 21


def test_what_the_papers_call_accuracy_follows_from_whole_utterances():
    """The ACC of a class is the recall if it counts whole utterances, the precision if it implies such a recall."""
    support = {"iemocap": [144, 245, 384, 170, 299, 381], "meld": [1256, 281, 50, 208, 402, 68, 345]}
    checked = 0
    for corpus, counts in support.items():
        for row in published()[corpus]["rows"]:
            if row.get("acc_is") == "recall":
                for acc, n in zip(row["per_class_acc"], counts, strict=True):
                    assert 100 * round(acc * n / 100) / n == pytest.approx(acc, abs=0.0051)
            elif row.get("acc_is") == "precision" and "derived" in row:
                right = 0
                for acc, f1, n in zip(row["per_class_acc"], row["per_class"], counts, strict=True):
                    hits = round(acc * f1 / (2 * acc - f1) * n / 100)
                    recall = 100 * hits / n
                    assert 2 * acc * recall / (acc + recall) == pytest.approx(f1, abs=0.02)
                    right += hits
                assert 100 * right / sum(counts) == pytest.approx(row["accuracy"], abs=0.0051)
                assert np.average(row["per_class_acc"], weights=counts) == pytest.approx(
                    row["weighted_precision"], abs=0.01
                )
            else:
                continue
            checked += 1
    assert checked == 17


def test_attention_edges_are_what_the_layers_use():
    model, batch = tiny_model(), random_batch((4, 7, 1), absent=0.2)
    edges = attention_edges(model, batch)
    assert {m: set(g) for m, g in edges.items()} == {m: {"inter", "intra"} for m in DIMS}
    text = model.streams["text"]
    for modality, graphs in edges.items():
        for graph in graphs.values():
            assert (graph.j[graph.relation == 1] == graph.i[graph.relation == 1]).all()
            assert (np.abs(graph.i - graph.j) <= TINY.window).all()
            dialogue = packing((4, 7, 1))[0].numpy()
            assert (dialogue[graph.i] == dialogue[graph.j]).all()
            present = batch.present[modality].numpy()
            assert (present[graph.j] | (graph.i == graph.j)).all()
    layer = text.inter.heads
    lam = layer.coefficient().detach().numpy()
    inter = edges["text"]["inter"]
    if np.ptp(lam) < 1e-12:
        assert np.allclose(inter.weight, inter.branches[:, 0] - lam[0] * inter.branches[:, 1], atol=1e-6)
    sums = np.bincount(inter.i, inter.weight, 12)
    assert np.allclose(sums, 1 - lam.mean(), atol=1e-6)
    with torch.no_grad():
        # The hooks are removed.
        assert torch.equal(model.represent(batch)["text"], tiny_model().represent(batch)["text"])


def test_the_page_marks_optimistic_results(made, tmp_path):
    options = ["--recipe", "demo", "--set", "train.epochs=1", "--set", "train.protocol=best-on-test"]
    assert train_on(made / "s.h5", tmp_path / "run", *options).exit_code == 0
    assert CliRunner().invoke(report_command, [str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]).exit_code == 0
    assert "Optimistic" in Read((tmp_path / "r.html").read_text()).text


def test_latex_is_escaped():
    table = ReportTable("t", "T", ["a_b", "50 %"], [["x & y", "1.00 ± 0.10"], ["{~^\\}", "–"]])
    text = table.latex()
    assert r"a\_b & 50 \% \\" in text and r"x \& y & 1.00 $\pm$ 0.10 \\" in text
    assert r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\} & -- \\" in text


@pytest.mark.parametrize(
    ("measure", "more", "shown"),
    [
        ("results", "", "weighted_f1"),
        ("noise", "levels: [0, 1]", "noise_"),
        ("positions", "lengths: [2, 6]", "positions"),
        ("confusion", "", "confusion_"),
        ("cost", "", None),
    ],
)
def test_reports_of_studies(made, tmp_path, monkeypatch, measure, more, shown):
    monkeypatch.setattr("erc_toolkit.train.studies.runs.work_off", one_after_the_other)
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"title: Mine <i>\nmeasure: {measure}\n{more}\n"
        "runs: {'one & <two>': {}, broken: {train.lr: 1.0e+30}, three: {model.window: 1}}\n"
    )
    options = [part for setting in SMALL for part in ("--set", setting)]
    arguments = [
        made / "s.h5",
        "--study",
        file,
        "--out",
        tmp_path / "out",
        "--recipe",
        "demo",
        *options,
        "--set",
        "train.epochs=2",
    ]
    CliRunner().invoke(study_command, [str(a) for a in arguments])
    result = CliRunner().invoke(report_command, [str(tmp_path / "out"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, (result.output, result.exception)
    page = Read((tmp_path / "page.html").read_text())
    assert page.links == [] and "i" not in page.tags and "script" not in page.tags and "Mine <i>" in page.text
    rows = {row[0]: row for row in page.rows if row}
    assert "one & <two>" in rows and "three" in rows
    if measure == "cost":
        assert any("%" in cell for cell in rows["three"]) and "parameters" in page.text
    else:
        found = {r["name"]: r for r in json.loads((tmp_path / "out/study.json").read_text())["variants"]}
        results = list(csv.reader((tmp_path / "page_files/results.csv").open()))
        assert results[1][2] == f"{100 * found['one & <two>']['test']['weighted_f1']['mean']:.2f}"
        assert (
            results[2][2] == "–"
            and ["broken", "0", "failed"] in [row[:3] for row in page.rows]
            and "1 seed:" in page.text
        )
        assert any(p.name.startswith(shown) and p.suffix == ".svg" for p in (tmp_path / "page_files").iterdir())


def test_folders_without_a_run_are_errors(made, tmp_path):
    result = CliRunner().invoke(report_command, [str(tmp_path)])
    assert result.exit_code == 1 and str(tmp_path) in result.stderr and result.stderr.count("\n") == 1
    (tmp_path / "study.json").write_text("{}")
    result = CliRunner().invoke(report_command, [str(tmp_path)])
    assert result.exit_code == 1 and "study.json" in result.stderr and result.stderr.count("\n") == 1
    moved = tmp_path / "moved"
    shutil.copytree(made / "run", moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str((made / "s.h5").resolve()), str(tmp_path / "gone.h5")))
    result = CliRunner().invoke(report_command, [str(moved), "--out", str(tmp_path / "p.html")])
    assert result.exit_code == 0 and "gone.h5" in result.stderr and "dialogues" in result.stderr
    page = Read((tmp_path / "p.html").read_text())
    assert "gone.h5" in page.text and "script" not in page.tags


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium on this machine"
)
def test_a_browser_shows_every_turn_and_executes_no_transcript(made, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    dom = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            (made / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    page = Read(dom)
    data = json.loads(page.scripts[0])
    assert dom.count('class="who"') == len(data["dialogues"][0]["utterances"])
    assert "img" not in page.tags and page.tags.count("script") == 2 and "<title>owned" not in dom
    assert "&lt;/script&gt;" in dom
