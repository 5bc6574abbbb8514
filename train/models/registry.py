"""Models by name. A model's module is imported when the model is requested.

A model is a subclass of `erc_toolkit.train.models.base.Model`. Other packages add models through entry points,
`my-model = my_package.module:MyModel` in the group `erc_toolkit.models`; `docs/how-to/models.md` shows a complete one.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_type_hints

from ...toolkit.base.errors import one_line
from ...toolkit.base.plugins import PluginRegistry
from ..settings import ModelSettings
from .base import Model, ModelInfo

AMB_DSGDN = "amb-dsgdn"
MODELS = {
    AMB_DSGDN: "erc_toolkit.train.models.subgraphs.amb_dsgdn:AMBDSGDN",
    "logistic-regression": "erc_toolkit.train.models.baselines.logistic_regression:LogisticRegression",
    "bigru": "erc_toolkit.train.models.baselines.bigru:BiGRU",
    "transformer": "erc_toolkit.train.models.baselines.transformer:Transformer",
    "sdt": "erc_toolkit.train.models.sequences.sdt:SDT",
    "merc-gcn": "erc_toolkit.train.models.graphs.merc_gcn:MERCGCN",
    "mmgcn": "erc_toolkit.train.models.graphs.mmgcn:MMGCN",
    "mm-dfn": "erc_toolkit.train.models.graphs.mm_dfn:MMDFN",
    "dialoguernn": "erc_toolkit.train.models.sequences.dialoguernn:DialogueRNN",
    "multiemo": "erc_toolkit.train.models.sequences.multiemo:MultiEMO",
    "dialoguegcn": "erc_toolkit.train.models.graphs.dialoguegcn:DialogueGCN",
    "cogmen": "erc_toolkit.train.models.graphs.cogmen:COGMEN",
    "df-gcn": "erc_toolkit.train.models.df_gcn.model:DFGCN",
    "dednet": "erc_toolkit.train.models.subgraphs.dednet:DEDNet",
    "graphcfc": "erc_toolkit.train.models.graphs.graphcfc:GraphCFC",
    "cfn-esa": "erc_toolkit.train.models.sequences.cfn_esa:CFNESA",
    "graphsmile": "erc_toolkit.train.models.graphs.graphsmile:GraphSmile",
    "rgat": "erc_toolkit.train.models.graphs.rgat:RGAT",
    "m3net": "erc_toolkit.train.models.graphs.m3net:M3NET",
    "rl-emo": "erc_toolkit.train.models.graphs.rl_emo:RLEMO",
}
_REGISTRY = PluginRegistry("model", "erc_toolkit.models", MODELS, option="model.name")


def models() -> list[str]:
    """The names of all registered models, the toolkit's first. Those of other packages are not checked."""
    return _REGISTRY.names()


def ignored_models() -> list[str]:
    """A line about each model of another package that is ignored because its name is that of a built-in model."""
    return _REGISTRY.ignored()


def model_class(name: str) -> type[Model[Any]]:
    """The class of a model.

    Raises:
        UserError: there is no model of that name, several packages register it, or the class of another package cannot
            be loaded or lacks what `erc_toolkit.train.models.base.Model` requires; names the package and what is
            missing.
    """
    found = _REGISTRY.load(name)
    if name not in MODELS and (problem := contract_problem(found)):
        raise _REGISTRY.error(name, problem)
    return found


def settings_class(name: str) -> type[ModelSettings]:
    """The dataclass of a model's settings.

    Raises:
        UserError: as for `model_class`.
    """
    return model_class(name).Settings


def build_error(name: str, error: Exception) -> str:
    """A line about a model of another package whose constructor failed."""
    return str(_REGISTRY.error(name, f"cannot be built: {one_line(error)}"))


def contract_problem(found: object) -> str | None:
    """Why an object is not a valid model, as the end of a sentence that begins with its name; else None."""
    if not isinstance(found, type):
        return "is not a class"
    missing = [member for member in ("Settings", "about") if not hasattr(found, member)]
    if getattr(found, "forward", None) in (None, Model.forward):
        missing.append("forward")
    if missing:
        return f"lacks {', '.join(f'`{member}`' for member in missing)}"
    if problem := _settings_problem(getattr(found, "Settings")):  # noqa: B009 - a type checker knows no such attribute
        return problem
    if not isinstance(getattr(found, "about"), ModelInfo):  # noqa: B009
        return f"has an `about` that is not a {ModelInfo.__module__}.{ModelInfo.__qualname__}"
    if not issubclass(found, Model):
        return f"is not a subclass of {Model.__module__}.{Model.__qualname__}"
    try:
        inspect.signature(found).bind(*"settings dims speakers class_counts class_weights".split())
    except (TypeError, ValueError):
        return "has a constructor that does not take (settings, dims, speakers, class_counts, class_weights)"
    return None


def _settings_problem(settings: object) -> str | None:
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        return "has `Settings` that is not a dataclass"
    fields = dataclasses.fields(settings)
    if "name" not in [field.name for field in fields]:
        return "has `Settings` without the field `name`"
    unset = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if unset:
        return f"has `Settings` whose field `{unset[0]}` has no default"
    try:
        get_type_hints(settings)
        defaults = settings()
        setattr(defaults, "name", "")  # noqa: B010
    except Exception as error:  # whatever annotations, __post_init__ and a frozen dataclass raise
        return f"has `Settings` that cannot be instantiated: {one_line(error)}"
    return None
