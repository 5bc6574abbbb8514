"""Studies: variants of a recipe that are trained and compared, described in a short YAML file.

    title: Heads of graph attention
    shows: Fig. 4                        # in the paper; optional
    measure: results                     # or positions, noise, confusion, cost, models, or a plug-in's
    grid: {model.graph_heads: [1, 2]}    # every combination of the values, or named runs:
    runs: {two heads: {model.graph_heads: 2}}
    settings: {train.epochs: 100}        # of every variant, where --set does not say otherwise; optional
    corpora: {meld: {grid: {...}}}       # what is different on a corpus: grid or runs, settings; optional

A measure may define additional keys; they are documented in its class in `train/studies/measures/`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...toolkit.base.errors import UserError
from ...toolkit.base.shipped import read_shipped, shipped_names
from ..config import Config, load_config, parse_yaml
from .measures.registry import STUDY_KEYS, find_measure, measures
from .record import plain_json

_END_OF_DOCUMENT = "...\n"  # which YAML appends to a bare scalar
_SLUG = 60  # maximum length of a folder's name
_BY_CORPUS = ("grid", "runs", "settings")


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a study.

    Attributes:
        name: the name to display.
        changes: maps "section.key" to the value that overrides the recipe.
    """

    name: str
    changes: dict[str, object]

    @property
    def folder(self) -> str:
        """Name of the variant's folder."""
        return re.sub(r"[^A-Za-z0-9.=+]+", "-", self.name).strip("-.")[:_SLUG] or "run"

    def settings(self) -> list[str]:
        """The changes in the form that `load_config` accepts."""
        found = []
        for key, value in self.changes.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
            found.append(f"{key}={text.removesuffix(_END_OF_DOCUMENT).strip()}")
        return found

    def config(self, recipe: str, changes: Sequence[str]) -> Config:
        """The recipe with `changes` applied, then the variant's changes.

        Raises:
            UserError: a key or value is wrong.
        """
        return load_config(recipe, [*changes, *self.settings()])


@dataclass(frozen=True, slots=True)
class Study:
    """The content of a study file.

    Attributes:
        name: of the file, without its extension.
        title: for display.
        shows: the corresponding table or figure in the paper, or empty.
        measure: name of a registered measure.
        variants: in order.
        settings: the measure's settings, as returned by its `check`.
        shared: "section.key=value" of every variant, which `--set` overrides.
    """

    name: str
    title: str
    variants: list[Variant]
    shows: str = ""
    measure: str = "results"
    settings: dict[str, object] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)


def study_names() -> list[str]:
    """Names of the studies that come with the toolkit."""
    return shipped_names("studies")


def load_study(name: str, corpus: str = "") -> Study:
    """Loads a built-in study by name, or a study from a YAML file.

    Args:
        name: name or path.
        corpus: name of the store's corpus, for studies that differ between corpora.

    Raises:
        UserError: the study does not exist, or its content is invalid.
    """
    text, where = read_shipped("studies", "study", name)
    return parse_study(text, Path(name).stem if where == name else name, where, corpus)


def parse_study(text: str, name: str, where: str, corpus: str = "") -> Study:
    """Parses a study from YAML; `where` identifies it in error messages, `corpus` is as for `load_study`.

    Raises:
        UserError: the content is not a valid study.
    """
    content = parse_yaml(text, where)
    if not isinstance(content, dict):
        raise UserError(f"{where}: must contain a title, and either runs or a grid")
    content = _of_corpus(content, corpus, where)
    measure = content.get("measure", "results")
    if not isinstance(measure, str) or measure not in measures():
        raise UserError(f"{where}: measure is {measure!r}; must be one of {', '.join(measures())}")
    settings = _measure_settings(measure, content, where)
    title, shows = content.get("title", name), content.get("shows", "")
    if not isinstance(title, str) or not isinstance(shows, str):
        raise UserError(f"{where}: title and shows must be strings")
    if ("runs" in content) == ("grid" in content):
        raise UserError(f"{where}: must contain either runs or a grid")
    variants = _runs(content["runs"], where) if "runs" in content else grid(content["grid"], where)
    shared = Variant("settings", _settings(content.get("settings", {}), where)).settings()
    return Study(name, title, variants, shows, measure, settings, shared)


def _of_corpus(content: Mapping[str, object], corpus: str, where: str) -> dict[str, Any]:
    """The content with what it says about a corpus in the place of what it says in general."""
    found = {key: value for key, value in content.items() if key != "corpora"}
    corpora = content.get("corpora", {})
    if not isinstance(corpora, dict) or not all(isinstance(own, dict) for own in corpora.values()):
        raise UserError(f"{where}: corpora must map names of corpora to grid, runs or settings")
    for name, own in corpora.items():
        for key in own:
            if key not in _BY_CORPUS:
                raise UserError(f"{where}: corpora.{name}: unknown key {key!r}; choose from {', '.join(_BY_CORPUS)}")
    own = corpora.get(corpus.lower(), {})
    if "grid" in own or "runs" in own:
        found.pop("grid", None)
        found.pop("runs", None)
    shared = {**_settings(found.get("settings", {}), where), **_settings(own.get("settings", {}), where)}
    return {**found, **own, **({"settings": shared} if shared else {})}


def _settings(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: settings must map keys to values, e.g. {{train.epochs: 100}}")
    return value


def _measure_settings(name: str, content: Mapping[str, object], where: str) -> dict[str, object]:
    """Rejects keys that belong to neither the study nor its measure; returns the checked settings of the measure."""
    measure = find_measure(name)
    for key in content:
        if key not in STUDY_KEYS and key not in measure.keys:
            known = ", ".join([*STUDY_KEYS, *measure.keys])
            raise UserError(f"{where}: unknown key {key!r}; a study with measure {name} may contain {known}")
    settings = measure.check({key: content[key] for key in measure.keys if key in content}, where)
    if not isinstance(settings, dict):
        raise UserError(f"measure {name!r}: check() must return a dict")
    return plain_json(settings, f"measure {name!r}: check()")


def grid(values: Mapping[str, Sequence[object]], where: str) -> list[Variant]:
    """Builds a variant for every combination of the given values.

    Raises:
        UserError: `values` is not a mapping of keys to non-empty lists.
    """
    if not isinstance(values, Mapping) or not values or not all(isinstance(v, list) and v for v in values.values()):
        raise UserError(f"{where}: grid must map keys to lists of values, e.g. model.window: [1, 2]")
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
    return _distinct([Variant(_named(chosen), chosen) for chosen in combinations], where)


def _named(changes: Mapping[str, object]) -> str:
    """E.g. "window 2, lr 0.001"."""
    return ", ".join(
        f"{str(key).split('.')[-1]} {'null' if value is None else value}" for key, value in changes.items()
    )


def _runs(runs: object, where: str) -> list[Variant]:
    if not isinstance(runs, dict) or not runs:
        raise UserError(f"{where}: runs must map names to settings, e.g. small: {{model.hidden: 64}}")
    for name, changes in runs.items():
        if not isinstance(changes, dict) or not all(isinstance(key, str) for key in changes):
            raise UserError(f"{where}: the run {name!r} must map keys to values, e.g. {{model.hidden: 64}}")
    return _distinct([Variant(str(name), changes) for name, changes in runs.items()], where)


def _distinct(variants: list[Variant], where: str) -> list[Variant]:
    places: dict[str, Variant] = {}
    for variant in variants:
        if (other := places.setdefault(variant.folder.lower(), variant)) is not variant:
            raise UserError(f"{where}: {other.name!r} and {variant.name!r} would share a folder; rename one")
    return variants
