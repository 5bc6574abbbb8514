"""setup.cfg: it ships every package of the checkout, and says of every dependency why it is there."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "setup.cfg").read_text(encoding="utf-8")
# What no package lies in.
OTHERS = {"benchmarks", "build", "dist", "docs", "examples", "tests"}


def settings() -> ConfigParser:
    parser = ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.read_string(TEXT)
    return parser


def folders_with_init() -> list[str]:
    """Every folder below the checkout that holds an `__init__.py`, as the name it is imported by."""
    found = [
        path.parent.relative_to(ROOT).parts
        for path in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    return sorted(".".join(("erc_toolkit", *parts)) for parts in found if not OTHERS & set(parts[:1]))


def dependencies() -> list[tuple[str, bool]]:
    """Every line that names a dependency, and whether the line above it is a comment."""
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


def test_no_module_lies_outside_of_a_package():
    """A folder with modules and no `__init__.py` would be missing in the wheel, and work in the checkout."""
    for name in ("extract", "manifests", "toolkit", "train"):
        for module in (ROOT / name).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


@pytest.mark.parametrize("line, explained", dependencies())
def test_every_dependency_says_why(line, explained):
    assert explained, f"setup.cfg: {line} has no comment above it"


def test_every_dependency_is_seen():
    extras = settings()["options.extras_require"]
    wanted = settings()["options"]["install_requires"].split("\n") + "\n".join(extras.values()).split("\n")
    assert sorted(filter(None, wanted)) == sorted(line for line, _ in dependencies())
