"""The command line and the architecture: lazy commands, one-line errors, independent packages."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from erc_toolkit.toolkit.commands.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "numpy", "h5py", "cv2", "opensmile", "sklearn", "pandas", "rich")


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    "package, forbidden",
    [
        ("toolkit", {"extract", "train"}),
        ("extract", {"train"}),
        ("train", {"extract"}),
        ("manifests", {"toolkit", "extract", "train"}),
    ],
)
def test_packages_are_independent(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path) & forbidden, f"{path} imports {imports(path) & forbidden}"


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["extract", "--help"],
        ["extract", "meld", "--help"],
        ["extractors", "--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["info", "--help"],
        ["demo", "--help"],
        ["finetune-text", "--help"],
        ["finetune-speech", "--help"],
        ["train-face", "--help"],
        ["reduce", "--help"],
        ["convert", "--help"],
        ["export", "--help"],
        ["card", "--help"],
        ["predict", "--help"],
        ["transcribe", "--help"],
        ["package", "--help"],
    ],
)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom erc_toolkit.toolkit.commands.main import main\n"
        f"try: main({command!r})\nexcept SystemExit as e: assert not e.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in out and out.splitlines()[-1] == "[]"


def test_every_command_loads_and_shows_its_defaults():
    for name in COMMANDS:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0 and "Usage:" in result.output, name


def test_shell_completion():
    environment = {
        **os.environ,
        "_ERC_TOOLKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": "erc-toolkit ex",
        "COMP_CWORD": "1",
    }
    out = subprocess.run(
        [sys.executable, "-c", "from erc_toolkit.toolkit.commands.main import main; main(prog_name='erc-toolkit')"],
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    assert "extract" in out and "train" not in out


def test_info(store_path):
    result = CliRunner().invoke(main, ["info", str(store_path), "--json", "--missing", "--verify"])
    found = json.loads(result.stdout)
    assert (found["utterances"], found["dialogues"], found["labels"]) == (45, 9, ["joy", "sadness"])
    assert found["splits"]["train"] == {"utterances": 12, "dialogues": 3}
    audio = found["features"]["audio/IS10"]
    assert (audio["dim"], audio["present"], audio["reasons"]) == (700, 36, {"no audio track": 9})
    assert audio["missing"]["d2_u2"] == "no audio track" and len(audio["missing"]) == 9
    assert sum(found["label_counts"]["test"].values()) == found["splits"]["test"]["utterances"]
    shown = CliRunner().invoke(main, ["info", str(store_path), "--missing"]).output
    assert "audio/IS10" in shown and "no audio track" in shown and "d2_u2" in shown


def test_mistakes_are_one_line(tmp_path):
    for arguments in (
        ["info", str(tmp_path / "none.h5")],
        ["extract", "meld", str(tmp_path), "--out", str(tmp_path / "x.h5")],
    ):
        result = subprocess.run([sys.executable, "-m", "erc_toolkit", *arguments], capture_output=True, text=True)
        assert result.returncode == 1 and result.stderr.startswith("Error: ") and len(result.stderr.splitlines()) == 1
        assert str(tmp_path) in result.stderr


@pytest.mark.parametrize(
    "given, expected",
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_leave_the_cores_to_others(given, expected):
    """Unless the user has said how they are to wait."""
    code = """
import os, sys
sys.argv = ["erc-toolkit", "--version"]
from erc_toolkit.toolkit.commands.start import main
try:
    main()
finally:
    print(os.environ.get("GOMP_SPINCOUNT"))
"""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environ = {name: value for name, value in os.environ.items() if name not in names} | given
    found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == expected
