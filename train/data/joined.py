"""Which of a store's features a run uses, and several of one modality as if they were one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.store import Feature, FeatureStore
from ..settings import JOINS, Choice
from .layered import FEATURE, LAYERS, LayeredFeature, is_layered, layered_name

CONCAT, MEAN = JOINS


class JoinedFeature:
    """Several features of one modality, concatenated or averaged. An utterance has it if it has all of them.

    Attributes:
        name: "modality/how(name, name, …)".
        dim: number of columns.
        parts: the features.
        how: CONCAT or MEAN.

    Raises:
        UserError: features of different widths have no mean.
    """

    def __init__(self, parts: Sequence[Feature], how: str) -> None:
        self.parts, self.how = list(parts), how
        self.name = joined_name(how, [part.name for part in parts])
        if how == MEAN and len({part.dim for part in parts}) > 1:
            widths = ", ".join(f"{part.name} {part.dim}" for part in parts)
            raise UserError(f"{self.name}: features of different widths have no mean ({widths}); use concat")
        self.dim = sum(part.dim for part in parts) if how == CONCAT else parts[0].dim

    def values(self, rows: slice = slice(None)) -> np.ndarray:
        """The matrix, or the rows of a slice: float32 (n, dim). Rows that are not present are zero."""
        values = join(self.how, [part.values(rows) for part in self.parts])
        values[~self.present(rows)] = 0
        return values

    def present(self, rows: slice = slice(None)) -> np.ndarray:
        """bool (n,): which utterances have all of the features."""
        return np.logical_and.reduce([part.present(rows) for part in self.parts])

    def reasons(self, rows: slice = slice(None)) -> np.ndarray:
        """str objects (n,): why an utterance lacks the first of the features that it lacks; empty where present."""
        found = np.full(len(self.present(rows)), "", object)
        for part in reversed(self.parts):
            absent = ~part.present(rows)
            found[absent] = part.reasons(rows)[absent]
        return found

    def reduction(self) -> dict[str, np.ndarray]:
        """Empty: what is fitted belongs to the parts."""
        return {}


AnyFeature = Feature | JoinedFeature | LayeredFeature


def join(how: str, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Matrices (n, dim) side by side, or their mean."""
    return np.concatenate(matrices, 1) if how == CONCAT else np.asarray(np.mean(matrices, 0, dtype=np.float32))


def joined_name(how: str, names: Sequence[str]) -> str:
    """The name of joined features: "text/concat(roberta-1, roberta-2)" for text/roberta-1 and text/roberta-2."""
    modality = names[0].split("/")[0]
    return f"{modality}/{how}({', '.join(name.split('/', 1)[1] for name in names)})"


def parts_of(feature: AnyFeature) -> list[Feature]:
    """The features of the store that a feature consists of: its parts, or itself."""
    return [feature] if isinstance(feature, Feature) else feature.parts


def is_demanded(choice: Choice) -> bool:
    """Whether a choice names features, instead of preferring some."""
    return isinstance(choice, (str, Mapping))


def choose_feature(store: FeatureStore, modality: str, choice: Choice) -> AnyFeature | None:
    """The feature of a modality that a run uses; None if the store has none and none is asked for by name.

    Args:
        store: an open store.
        modality: "text", "audio" or "visual".
        choice: a name; a list of names or patterns (`*` stands for anything) in order of preference, of which the first
            that the store has is used; {"concat": names}, {"mean": names} or {"feature": name, "layers": which}, also
            within a list; or None. Where nothing is preferred, the only feature is used, or the one that all others
            were reduced from.

    Raises:
        UserError: the store lacks what is asked for; or it has several features, none of them preferred; or a feature
            has no such layers.
    """
    names = [name for name in store.feature_names() if name.split("/")[0] == modality]
    if is_demanded(choice):
        found = _find(store, modality, choice, names)
        if found is None:
            has = ", ".join(names) or f"no {modality} feature"
            shown = repr(choice_in_words(modality, choice))
            raise UserError(f"{store.path}: no feature {shown} for data.{modality}; it has {has}")
        return found
    if len(names) == 1 and not any(isinstance(one, Mapping) for one in choice or ()):
        return store.feature(names[0])
    for one in choice or ():
        if (found := _find(store, modality, one, names)) is not None:
            return found
    sources = [name for name in names if store.feature(name).attrs.get("source") not in names]
    if len(sources) == 1:  # `erc-toolkit reduce` has made the others from it
        return store.feature(sources[0])
    if len(names) > 1:
        raise UserError(
            f"{store.path}: has several {modality} features ({', '.join(names)}); choose one with "
            f"--set data.{modality}=NAME, or join some with --set 'data.{modality}={{concat: [NAME, NAME]}}'"
        )
    return store.feature(names[0]) if names else None


def _find(store: FeatureStore, modality: str, choice: object, names: Sequence[str]) -> AnyFeature | None:
    """What one entry of a choice stands for in a store, or None."""
    if is_layered(choice) and isinstance(choice, Mapping):
        found = _find(store, modality, choice[FEATURE], names)
        return LayeredFeature(found, choice[LAYERS]) if isinstance(found, Feature) else None
    if isinstance(choice, Mapping):
        ((how, wanted),) = choice.items()
        parts = [_find(store, modality, one, names) for one in wanted]
        found = [part for part in parts if isinstance(part, Feature)]
        return JoinedFeature(found, how) if len(found) == len(parts) else None
    pattern = str(choice) if str(choice).startswith(f"{modality}/") else f"{modality}/{choice}"
    if pattern in names:
        return store.feature(pattern)
    return next((store.feature(name) for name in names if fnmatchcase(name, pattern)), None)


def choice_in_words(modality: str, choice: object) -> str:
    """The name that a choice of one feature, of joined ones or of layers has where it is used: "audio/IS10"."""

    def full(name: object) -> str:
        return f"{modality}/{str(name).removeprefix(f'{modality}/')}"

    if is_layered(choice) and isinstance(choice, Mapping):
        return layered_name(full(choice[FEATURE]), choice[LAYERS])
    if isinstance(choice, Mapping):
        ((how, wanted),) = choice.items()
        return joined_name(how, [full(one) for one in wanted])
    return full(choice)


def names_in(choice: object) -> list[str]:
    """The names of features in a choice of one feature, of joined ones or of layers."""
    if is_layered(choice) and isinstance(choice, Mapping):
        return [str(choice[FEATURE])]
    return [str(one) for one in next(iter(choice.values()))] if isinstance(choice, Mapping) else [str(choice)]
