"""Libraries of releases that do not go together: one line that names them and the remedy, instead of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from erc_toolkit.toolkit.base import releases

SYMBOL = "OSError('libtorch.so: undefined symbol: torch_exception')"


def unmet(*requirements):
    return releases.unmet(requirements)


def test_what_is_installed_is_what_is_needed():
    assert releases.unmet() == []
    assert not unmet(
        f"click=={version('click')}", "click", "no-such-package>1; extra == 'never'", "not a requirement =="
    )


def test_other_releases_and_absent_libraries_are_found():
    assert unmet("click<2", "no-such-package") == [("click<2", version("click")), ("no-such-package", "nothing")]


def test_a_build_for_the_cpu_is_the_release(monkeypatch):
    monkeypatch.setattr(releases, "version", lambda name: "2.11.0+cpu")
    assert not unmet("torch==2.11.0") and unmet("torch==2.11.1")


def stand_in(folder, name, release, error):
    """A library of that release whose import ends in that error, as PYTHONPATH's first entry."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"raise {error}\n")
    facts = folder / f"{name}-{release}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    return folder


def models(place):
    code = "from erc_toolkit.toolkit.commands.start import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run([sys.executable, "-c", code, "models"], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "error", [SYMBOL, "RuntimeError('operator torchvision::nms does not exist')", "ImportError('no')"]
)
def test_a_library_of_another_release_that_fails_at_import_is_one_line(tmp_path, error):
    done = models(stand_in(tmp_path, "torch", "1.0.9", error))
    needed = next(r for r in map(Requirement, releases.requires("erc-toolkit")) if r.name == "torch")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        f"erc-toolkit needs torch{needed.specifier} (1.0.9 is installed); pip install 'torch{needed.specifier}'"
        in done.stderr
    )
    assert error.split("(")[0] in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_fails_with_the_right_releases_keeps_its_traceback(tmp_path):
    release = str(version("torch"))
    done = models(stand_in(tmp_path, "torch", release, SYMBOL))
    assert done.returncode == 1 and "Traceback" in done.stderr and "undefined symbol" in done.stderr


def test_an_error_that_is_not_of_an_import_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(releases, "unmet", lambda: [("torch==2.11.0", "1.0")])
    try:
        raise OSError("something else")
    except OSError as error:
        assert releases.failed_import(error) is None
