"""All settings of a training run: read from a recipe (YAML), changed on the command line, and checked.

The keys are documented in `erc_toolkit.train.settings` and, for the section `model`, in the model's own module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from ..toolkit.base.errors import UserError
from ..toolkit.base.reading.plain_yaml import load_yaml
from ..toolkit.base.shipped import read_shipped, shipped_names
from ..toolkit.base.words import did_you_mean
from ..toolkit.manifest import MODALITIES
from ..toolkit.store import FeatureStore
from .data.layered import FEATURE, FORMS, LAYERS, are_layers, is_layered
from .models.registry import AMB_DSGDN, settings_class
from .settings import JOINS, Choice, DataConfig, ModelSettings, TrainConfig, nearest

_NAME = "model.name"
# Names of settings in version 0.1, so that its recipes and runs can still be read.
RENAMED = {"train.optimiser": "train.optimizer", "model.warm_up": "model.dropout_warm_up"}


def _default_model() -> ModelSettings:
    """The settings of the default model."""
    return settings_class(AMB_DSGDN)()


@dataclass
class Config:
    """All settings of a run. `model` holds those of the model named in `model.name`."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelSettings = dataclasses.field(default_factory=_default_model)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Section to key to value, plain types."""
        return dataclasses.asdict(self)


OPTIMISTIC = "best-on-test (optimistic)"
RUN_SECTION = "run"  # in a run's config.yaml: facts about the run, not settings


def protocol_label(config: Config) -> str:
    """The selection protocol, as reported with every result."""
    return OPTIMISTIC if config.train.protocol == "best-on-test" else config.train.protocol


def model_in_words(model: ModelSettings) -> str:
    """A model's name for display, with its variant if it has one."""
    variant = getattr(model, "variant", None)
    return model.name + (f", variant {variant}" if variant is not None else "")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the toolkit."""
    return shipped_names("recipes")


def recipe_of(store: FeatureStore) -> str:
    """The recipe named like the store's corpus.

    Raises:
        UserError: there is none.
    """
    recipe = store.corpus.lower()
    if recipe not in recipe_names():
        raise UserError(
            f"{store.path}: no recipe is named after its corpus {store.corpus!r}; choose one with --recipe: "
            f"{_suggested(store)}"
        )
    return recipe


def _suggested(store: FeatureStore) -> str:
    """The recipes that suit a corpus of unknown kind: by its size and speakers, small or like the field's."""
    if len(store) < 1000:
        return "demo is for a few hundred utterances (or your own FILE.yaml)"
    two = max(len(set(store.column("speaker")[rows])) for _, rows in store.dialogues()) <= 2
    one, who = ("iemocap", "two") if two else ("meld", "several")
    return f"general is for any features; {one} is the paper's, for dialogues of {who} speakers (or your own FILE.yaml)"


def load_config(recipe: str, changes: Sequence[str] = ()) -> Config:
    """Settings of a recipe with changes applied.

    Args:
        recipe: name of a recipe of the toolkit, or path of a YAML file with the sections data, model, train. Settings
            that a file omits have the defaults of the settings' dataclasses. A run's config.yaml is such a file.
        changes: strings "section.key=value", the value in YAML. With model.name=NAME, the toolkit's recipe
            "NAME-RECIPE" is used if it exists; otherwise the given recipe's sections data and train with the model's
            default settings.

    Raises:
        UserError: there is no such recipe, or a key or value is invalid; names file (or option) and key.
    """
    parsed = []
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: must have the form section.key=value, e.g. model.window=5")
        parsed.append((key.strip(), parse_yaml(value, f"--set {change}"), f"--set {change}"))
    names = [(value, where) for key, value, where in parsed if key == _NAME]
    if names and recipe in recipe_names() and f"{names[-1][0]}-{recipe}" in recipe_names():
        recipe = f"{names[-1][0]}-{recipe}"
    text, where = read_shipped("recipes", "recipe", recipe)
    config = parse_config(parse_yaml(text, where), where)
    for name, option in names:
        _choose_model(config, name, option)
    for key, value, option in parsed:
        if key != _NAME:
            _assign(config, key, value, option)
    check(config, " ".join([where, *(f"--set {change}" for change in changes)]))
    return config


def parse_config(content: object, where: str) -> Config:
    """Settings from a recipe's parsed YAML; `where` names it in messages. See `load_config`."""
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{where}: must contain the sections data, model and train")
    config = Config()
    model = (content or {}).get("model")
    if isinstance(model, dict) and "name" in model:
        _choose_model(config, model["name"], where)
    for section, settings in (content or {}).items():
        if section == RUN_SECTION:
            continue
        if section not in _keys(config):
            raise UserError(f"{where}: unknown section {section!r}{nearest(str(section), _keys(config))}")
        if settings is not None and not isinstance(settings, dict):
            raise UserError(f"{where}: section {section!r} must map keys to values")
        for key, value in (settings or {}).items():
            if f"{section}.{key}" != _NAME:
                _assign(config, f"{section}.{key}", value, where)
    return config


def _choose_model(config: Config, name: object, where: str) -> None:
    """Sets the model of a configuration, with default settings, unless it already has that model."""
    if not isinstance(name, str):
        raise UserError(f"{where}: {_NAME} is {name!r}; must be a string")
    if name != config.model.name:
        config.model = settings_class(name)()
        config.model.name = name  # a third-party model may share the settings class of a built-in one


def check(config: Config, where: str) -> None:
    """Checks constraints that involve several settings.

    Raises:
        UserError: settings contradict each other; names them.
    """
    model, data = config.model, config.data
    check_model = getattr(model, "check", None)
    if check_model is not None:
        check_model(where)
    if config.train.lr_warm_up > config.train.epochs:
        raise UserError(
            f"{where}: train.lr_warm_up={config.train.lr_warm_up:g} is longer than train.epochs={config.train.epochs}"
        )
    if data.modalities is not None:
        if not data.modalities or len(set(data.modalities)) != len(data.modalities):
            raise UserError(f"{where}: data.modalities must name one or more of {', '.join(MODALITIES)}, each once")
        for name in data.modalities:
            if name not in MODALITIES:
                raise UserError(f"{where}: data.modalities: unknown modality {name!r}{nearest(name, MODALITIES)}")


def idle_settings(config: Config) -> dict[str, str]:
    """Settings that change nothing with the others as they are, by "section.key", each with the reason.

    Models say it about their own (`ModelSettings`).
    """
    idle = getattr(config.model, "idle", None)
    return {f"model.{name}": reason for name, reason in idle(config.train).items()} if idle is not None else {}


def _keys(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]


def _assign(config: Config, dotted: str, value: object, where: str) -> None:
    section, _, key = dotted.partition(".")
    known = [f"{name}.{k}" for name in _keys(config) for k in _keys(getattr(config, name))]
    if dotted not in known and RENAMED.get(dotted) in known:
        dotted = RENAMED[dotted]
        section, _, key = dotted.partition(".")
    if dotted not in known:
        raise UserError(f"{where}: unknown key {dotted!r}{nearest(dotted, known)}")
    target = getattr(config, section)
    hint = get_type_hints(type(target))[key]
    limits = next(f.metadata for f in dataclasses.fields(target) if f.name == key)
    setattr(target, key, _value(value, hint, limits, f"{where}: {dotted}"))


def _value(value: object, hint: object, limits: Mapping[str, Any], where: str) -> object:
    if hint == Choice:
        return _choice(value, where)
    optional = type(None) in get_args(hint)
    if optional and value is None:
        return None
    kind = get_args(hint)[0] if optional else hint
    or_null = " or null" if optional else ""
    if kind is str:
        if not isinstance(value, str) or not value:
            raise UserError(f"{where} is {value!r}; must be a string{or_null}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where} is {value!r}; must be true or false")
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{where} is {value!r}; must be a whole number{or_null}")
    elif kind is float:
        value = _number(value, where)
    elif kind == dict[str, float]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where} is {value!r}; must map names to numbers{or_null}")
        value = {key: _number(number, f"{where}.{key}") for key, number in value.items()}
    elif kind == list[int]:
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool) for item in value
        ):
            raise UserError(f"{where} is {value!r}; must be a list of whole numbers{or_null}")
    else:  # list[str]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{where} is {value!r}; must be a list of strings{or_null}")
    choices = limits.get("choices")
    if choices and value not in choices:
        raise UserError(
            f"{where} is {value!r}; must be {' or '.join(choices)}{did_you_mean(str(value), choices, most=1, listed=0)}"
        )
    for name, breaks, words in (
        ("least", lambda x, y: x < y, "at least"),
        ("most", lambda x, y: x > y, "at most"),
        ("above", lambda x, y: x <= y, "above"),
        ("below", lambda x, y: x >= y, "below"),
    ):
        if name in limits and breaks(value, limits[name]):
            raise UserError(f"{where} is {value!r}; must be {words} {limits[name]}")
    return value


def _choice(value: object, where: str) -> object:
    """A choice of features: None, a name, a mapping that joins some or picks layers, or a list of these."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict) and len(one) == 1 and next(iter(one)) in JOINS:
            names = next(iter(one.values()))
            if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
                continue
        elif isinstance(one, dict) and is_layered(one) and isinstance(one[FEATURE], str) and one[FEATURE]:
            if are_layers(one[LAYERS]):
                continue
            raise UserError(f"{where} is {value!r}; its layers must be {FORMS}")
        elif (isinstance(one, str) and one) or (one is None and value is None):
            continue
        raise UserError(
            f"{where} is {value!r}; must be a name, a list of names, {{concat: [NAME, ...]}}, {{mean: [NAME, ...]}}, "
            "{feature: NAME, layers: learned} or null"
        )
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # strings too: YAML reads 1e-4, without a dot, as one
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise UserError(f"{where} is {value!r}; must be a finite number")


def parse_yaml(text: str, where: str) -> object:
    """Parses YAML with plain values; `where` names it in the UserError that is raised if it is invalid."""
    try:
        return load_yaml(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
