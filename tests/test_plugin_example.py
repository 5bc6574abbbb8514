"""examples/plugin: installed in a separate environment, its four extensions work from another folder."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a new environment: with the packages of the running one and the plug-in."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", symlinks=os.name != "nt")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    layers = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (Path(own) / "layers.pth").write_text("\n".join(layers) + "\n")
    # A copy, as building leaves files next to pyproject.toml.
    source = shutil.copytree(
        PLUGIN, folder / "plugin", ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    )
    install = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", source]
    done = subprocess.run(install, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def environment() -> dict[str, str]:
    """The current environment without variables that would make the checkout importable."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_the_readme_works_as_written(python, tmp_path):
    """Every command of the README except the installation, which is done by the fixture."""
    text = (PLUGIN / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    assert block.startswith("pip install -e .\n")
    script = block.removeprefix("pip install -e .\n").replace("erc-toolkit ", f"'{python}' -m erc_toolkit ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "correct if confident" in done.stdout  # the table of the measure in the terminal
    assert "Confidence" in (tmp_path / "study.html").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "result.json").is_file()
    shown = subprocess.run(
        [python, "-m", "erc_toolkit", "info", tmp_path / "talk.h5"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert re.search(r"text/letters\s+26\s+18", shown.stdout), shown.stdout + shown.stderr


@pytest.mark.slow
def test_a_mistake_in_the_plugins_input_is_one_line(python, tmp_path):
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk/train.csv").write_text("dialogue,speaker,text,emotion\nd1,Ann,Hi,happy\nd1,Bob\n")
    for arguments, facts in (
        (["manifest", "build", "csv-dialogues", "talk", "--out", "m.jsonl"], ["train.csv", "line 3"]),
        (["extract", "csv-dialogues", "nowhere", "--out", "s.h5", "--modalities", "text"], ["nowhere"]),
    ):
        done = subprocess.run(
            [python, "-m", "erc_toolkit", *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert all(fact in done.stderr for fact in facts), done.stderr


@pytest.mark.slow
def test_without_the_plugin_its_names_are_unknown(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "erc_toolkit", "manifest", "build", "csv-dialogues", "x", "--out", "m.jsonl"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "csv-dialogues" in done.stderr
