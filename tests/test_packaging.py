"""setup.cfg: it lists every package of the checkout and explains every dependency."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "setup.cfg").read_text(encoding="utf-8")
# Folders without packages.
OTHERS = {"benchmarks", "build", "dist", "docs", "examples", "tests"}


def settings() -> ConfigParser:
    parser = ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.read_string(TEXT)
    return parser


def folders_with_init() -> list[str]:
    """Every folder in the checkout with an `__init__.py`, as its import name."""
    found = [
        path.parent.relative_to(ROOT).parts
        for path in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    return sorted(".".join(("erc_toolkit", *parts)) for parts in found if not OTHERS & set(parts[:1]))


def dependencies() -> list[tuple[str, bool]]:
    """Every line with a dependency, and whether the line above it is a comment."""
    found, section, key, above = [], "", "", ""
    for line in TEXT.splitlines():
        if line.startswith("["):
            section, key = line.strip("[]"), ""
        elif line and not line.startswith((" ", "#")):
            key = line.partition("=")[0].strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            if (section, key) == ("options", "install_requires") or section == "options.extras_require":
                found.append((line.strip(), above.lstrip().startswith("#")))
        above = line
    return found


def test_packages_are_the_folders_with_an_init():
    listed = settings()["options"]["packages"].split()
    assert listed == sorted(listed) == folders_with_init()


def test_no_module_is_outside_a_package():
    """A folder of modules without `__init__.py` would work in the checkout but be missing from the wheel."""
    for name in ("extract", "manifests", "toolkit", "train"):
        for module in (ROOT / name).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


@pytest.mark.parametrize("line, explained", dependencies())
def test_every_dependency_is_explained(line, explained):
    assert explained, f"setup.cfg: {line} has no comment above it"


def test_every_dependency_is_checked():
    extras = settings()["options.extras_require"]
    wanted = settings()["options"]["install_requires"].split("\n") + "\n".join(extras.values()).split("\n")
    assert sorted(filter(None, wanted)) == sorted(line for line, _ in dependencies())
