"""The documentation site builds without warnings, loads nothing from other hosts, and its notebook runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
}


class Resources(HTMLParser):
    """The addresses of everything that a browser loads automatically with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and values.get(LOADED[tag]):
            self.found.append(values[LOADED[tag]])
        elif tag == "link" and set((values.get("rel") or "").split()) - {"canonical", "next", "prev", "alternate"}:
            self.found.append(values.get("href") or "")


def resources(html: str) -> list[str]:
    parser = Resources()
    parser.feed(html)
    return parser.found + re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", html)


def elsewhere(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, "--config-file", "mkdocs.yml"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_detection_of_external_resources():
    page = '<link rel="stylesheet" href="https://a/b.css"><script src="//c/d.js"></script><a href="https://e">e</a>'
    assert [one for one in resources(page) if elsewhere(one)] == ["https://a/b.css", "//c/d.js"]


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = resources(page.read_text(encoding="utf-8"))
        assert loaded and not [one for one in loaded if elsewhere(one)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_every_command_has_a_section_with_its_help(site):
    from erc_toolkit.toolkit.commands.main import COMMANDS

    page = (site / "reference/commands.html").read_text(encoding="utf-8")
    for name in [*COMMANDS, "extract meld", "manifest build iemocap", "manifest stats"]:
        assert f'id="erc-toolkit-{name.replace(" ", "-")}"' in page, name
        assert f"Usage: erc-toolkit {name} " in page, name


@pytest.mark.slow
def test_the_search_index_and_the_notebook_exist(site):
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    assert any(entry["location"].startswith("how-to/extend.html") for entry in index["docs"])
    page = (site / "tutorials/from_demo_to_plot.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "weighted_f1" in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_executed_and_small(path):
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|tmp|Users|work|var|usr)/|site-packages", json.dumps(outputs))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    """Every cell runs, and its outputs are of the same kinds as in the file."""
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[test]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="pip install '.[test]'")
    stored = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()

    def kinds(cell) -> set[str]:
        printed = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        return {output["output_type"] for output in printed}

    for was, cell in zip(stored.cells, notebook.cells, strict=True):
        assert kinds(was) == kinds(cell), cell.source


def test_a_notebook_without_outputs_is_an_error():
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        from notebooks import to_markdown
    finally:
        sys.path.pop(0)
    cell = {"cell_type": "code", "source": ["print(1)"], "execution_count": None, "outputs": []}
    with pytest.raises(ValueError, match="cell 1"):
        to_markdown({"cells": [cell]})
    cell |= {"execution_count": 1, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]}
    assert to_markdown({"cells": [cell]}) == "````python\nprint(1)\n````\n\n````text\n1\n````\n"
