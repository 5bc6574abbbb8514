"""Models of other packages, each with the metadata that pip writes: the documentation's example, and broken ones."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from test_train_support import write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.train.config import load_config
from erc_toolkit.train.models.base import Model
from erc_toolkit.train.models.registry import MODELS, contract_problem, model_class, models

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLUGIN = """
from dataclasses import dataclass, field
from torch import nn
from erc_toolkit.train.models.base import Model, ModelInfo
from erc_toolkit.train.models.baselines.bigru import BiGRU

class Mine(BiGRU):
    pass

class NoAbout(Model):
    Settings = BiGRU.Settings
    forward = BiGRU.forward

class NoSettings(Model):
    about = BiGRU.about
    forward = BiGRU.forward

class NoForward(Model):
    Settings, about = BiGRU.Settings, BiGRU.about

class OddAbout(BiGRU):
    about = "a model"

class PlainSettings(BiGRU):
    class Settings:
        name = "plain"

class NamelessSettings(BiGRU):
    @dataclass
    class Settings:
        hidden: int = 3

class RequiredSettings(BiGRU):
    @dataclass
    class Settings:
        width: int
        name: str = "required"

class FrozenSettings(BiGRU):
    @dataclass(frozen=True)
    class Settings:
        name: str = "frozen"

class ShortConstructor(BiGRU):
    def __init__(self, settings, dims):
        super().__init__(settings, dims, 1, [1])

class NoModel(nn.Module):
    Settings, about = BiGRU.Settings, BiGRU.about

    def forward(self, batch, epoch=0):
        pass

class Unbuildable(BiGRU):
    def build(self):
        raise RuntimeError("no such layer\\nand more")

def function():
    pass
"""
BROKEN = {  # entry point to its attribute and a fact in the message
    "no-about": ("NoAbout", "`about`"),
    "no-settings": ("NoSettings", "`Settings`"),
    "no-forward": ("NoForward", "`forward`"),
    "odd-about": ("OddAbout", "ModelInfo"),
    "plain-settings": ("PlainSettings", "dataclass"),
    "nameless-settings": ("NamelessSettings", "`name`"),
    "required-settings": ("RequiredSettings", "`width`"),
    "frozen-settings": ("FrozenSettings", "field 'name'"),
    "short-constructor": ("ShortConstructor", "class_weights"),
    "no-model": ("NoModel", "erc_toolkit.train.models.base.Model"),
    "function": ("function", "class"),
    "gone": ("Nowhere", "'Nowhere'"),
}


def register(site: Path, package: str, version: str, entries: dict[str, str]) -> None:
    folder = site / f"{package}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (folder / "entry_points.txt").write_text(f"[erc_toolkit.models]\n{lines}")


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("theirs", "raises", "leaves", "my_package")]:
        del sys.modules[name]


@pytest.fixture
def broken(site):
    (site / "theirs.py").write_text(PLUGIN)
    (site / "raises.py").write_text("raise ValueError('first line\\nsecond line')\n")
    (site / "leaves.py").write_text("import sys\nsys.exit(7)\n")
    entries = {name: f"theirs:{attribute}" for name, (attribute, _) in BROKEN.items()}
    entries |= {"mine": "theirs:Mine", "bigru": "theirs:Mine", "unbuildable": "theirs:Unbuildable"}
    entries |= {"raises": "raises:Model", "leaves": "leaves:Model", "missing": "theirs_missing:Model"}
    register(site, "theirs", "1.2", entries)
    return entries


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def example(site: Path) -> str:
    """Installs the documentation's model with only its file and metadata; returns its name."""
    page = next(page for page in DOCS.rglob("*.md") if "\n## A model of your own\n" in page.read_text("utf-8"))
    section = page.read_text("utf-8").split("\n## A model of your own\n")[1]
    (site / "my_package").mkdir()
    (site / "my_package/late_fusion.py").write_text(re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)[1])
    name, value = re.search(r'^\[project.entry-points."erc_toolkit.models"\]\n(\S+) = "(.+)"$', section, re.M).groups()
    register(site, "my_package", "1", {name: value})
    return name


def test_the_documented_model_is_listed_trained_and_evaluated(site, tmp_path):
    name = example(site)
    listed = json.loads(run("models", "--json").stdout)
    assert list(listed) == [*MODELS, name] and listed[name]["parameters"]["meld"] > 0
    store = write_store(tmp_path / "s.h5")
    out = tmp_path / "run"
    settings = ["--set", "train.epochs=2", "--set", "model.hidden=8", "--device", "cpu"]
    run("train", store, "--recipe", "demo", "--model", name, "--out", out, *settings)
    written = yaml.safe_load((out / "config.yaml").read_text())["model"]
    assert written == {"name": name, "hidden": 8, "unimodal_weight": 0.5}
    assert f'"model": "{name}"' in run("eval", out, "--device", "cpu", "--json").stdout
    assert (
        "model.hidden" in run("train", store, "--model", name, "--out", out, "--set", "model.hidden=0", status=1).output
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_named_with_its_package_and_what_is_missing(broken, name, tmp_path):
    with pytest.raises(UserError) as error:
        model_class(name)
    message = str(error.value)
    assert "theirs 1.2" in message and repr(name) in message and BROKEN[name][1] in message and "\n" not in message
    store = write_store(tmp_path / "s.h5", sizes={"train": 3, "test": 1})
    output = run("train", store, "--recipe", "demo", "--model", name, "--out", tmp_path / "run", status=1).output
    assert (
        BROKEN[name][1] in output.splitlines()[-1]
        and "Error: " in output.splitlines()[-1]
        and "Traceback" not in output
    )


def test_an_import_that_fails_is_one_line(broken):
    for name, fact in (("raises", "ValueError: first line"), ("leaves", "SystemExit"), ("missing", "theirs_missing")):
        with pytest.raises(UserError) as error:
            model_class(name)
        assert fact in str(error.value) and "theirs 1.2" in str(error.value) and "\n" not in str(error.value)


def test_broken_models_do_not_hide_others(broken):
    result = run("models", "--json")
    assert list(json.loads(result.stdout)) == [*MODELS, "mine"]
    lines = result.stderr.splitlines()
    unusable = set(broken) - {"mine"}  # including "bigru", the name of a built-in model
    assert len(lines) == len(unusable) and all(any(repr(name) in line for line in lines) for name in unusable)
    assert all("theirs 1.2" in line for line in lines)
    assert "mine" in run("models").stdout


def test_a_built_in_model_is_not_replaced(broken):
    assert (
        model_class("bigru").__module__ == "erc_toolkit.train.models.baselines.bigru" and models().count("bigru") == 1
    )


def test_a_model_with_another_models_settings_keeps_its_own_name(broken):
    config = load_config("demo", ["model.name=mine", "model.hidden=8"])
    assert config.model.name == "mine" and model_class(config.model.name).__name__ == "Mine"


def test_two_packages_with_one_name(broken, site):
    register(site, "others", "3", {"mine": "theirs:Mine"})
    with pytest.raises(UserError, match="'mine'.*package others 3.*package theirs 1.2|'mine'.*theirs 1.2.*others 3"):
        model_class("mine")
    result = run("models", "--json")
    assert "mine" not in json.loads(result.stdout) and "others 3" in result.stderr


def test_the_contract_accepts_a_model_that_creates_its_layers_in_its_constructor():
    settings = dataclasses.make_dataclass("Settings", [("name", str, "own")])
    bigru = model_class("bigru")

    class Own(Model):
        Settings, about, forward = settings, bigru.about, bigru.forward

        def __init__(self, *arguments):
            super().__init__(*arguments)

    assert contract_problem(Own) is None and contract_problem(Own.forward) is not None
