"""Turns of a stream, classified one by one with their features in memory instead of a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.predict.turns import SpokenTurn, Turn, TurnFeatures
from ...toolkit.store import Feature, FeatureStore
from ..data.features import Normaliser
from ..data.provenance import FeatureFacts, check_same, parts_in, provenance_of
from ..loop.evaluation import not_finite
from ..loop.run_folder import Run
from .causal import CausalDialogue


class _Named(Protocol):
    """What `find_feature` needs of a store."""

    def feature_names(self) -> list[str]: ...

    def feature(self, name: str, /) -> Any: ...


def find_feature(store: FeatureStore | _Named, modality: str, trained: FeatureFacts) -> Feature | None:
    """The store's feature that corresponds to the run's; None if the store has none of the modality.

    Raises:
        UserError: it has several others.
    """
    made = trained.get("made") or {}
    wanted = made.get("reduced_from", trained["name"])
    available = [name for name in store.feature_names() if name.startswith(f"{modality}/")]
    if wanted not in available and len(available) > 1:  # layers of the same encoder from a differently named folder
        available = [name for name in available if store.feature(name).attrs.get("layer") == made.get("layer")]
    name = wanted if wanted in available else available[0] if len(available) == 1 else None
    if name is None and available:
        where = getattr(store, "path", "the stream")
        raise UserError(f"{where}: has {', '.join(available)} but not {wanted}, which the run was trained on")
    return None if name is None else store.feature(name)


class Trained(Protocol):
    """What `LiveTurns` needs of a `TurnClassifier`, which describes it."""

    @property
    def run(self) -> Run: ...

    @property
    def normalisers(self) -> Mapping[str, Normaliser]: ...

    @property
    def notify(self) -> Callable[[str], None]: ...

    def speakers(self, names: Sequence[str], chosen: Mapping[str, str], /) -> object: ...

    def dialogue(self, chosen: Mapping[str, str], past: int | None, /) -> CausalDialogue: ...

    def reduced(self, modality: str, values: np.ndarray, present: np.ndarray, one_by_one: bool) -> np.ndarray: ...

    def joined(self, modality: str, matrices: Sequence[np.ndarray], present: np.ndarray, /) -> np.ndarray: ...

    def turn(
        self, spoken: SpokenTurn, row: np.ndarray, alone: Mapping[str, np.ndarray | None], missing: Mapping[str, str], /
    ) -> Turn: ...


class _Declared:
    """A feature that a store would have."""

    def __init__(self, name: str, attrs: Mapping[str, object]) -> None:
        self.name = name
        # As a store's: what is no number or text is JSON.
        self.attrs: dict[str, Any] = {
            key: value if isinstance(value, (str, int, float)) else json.dumps(value) for key, value in attrs.items()
        }

    def reduction(self) -> dict[str, np.ndarray]:
        return {}


class DeclaredFeatures:
    """The features that the turns of a stream will have, in the form of a store without rows.

    Args:
        features: name of each matrix to its attributes.
    """

    path = "the stream"

    def __init__(self, features: Mapping[str, Mapping[str, object]]) -> None:
        self._features = {name: _Declared(name, attrs) for name, attrs in features.items()}

    def feature_names(self) -> list[str]:
        return list(self._features)

    def feature(self, name: str) -> Any:
        return self._features[name]


class LiveTurns:
    """The turns of a stream so far; see `TurnClassifier.live`.

    Args:
        classifier: the trained run.
        declared: the features of the turns.
        chosen, past: as for `TurnClassifier.turns`.

    Raises:
        UserError: as for `TurnClassifier.live`.
    """

    def __init__(
        self, classifier: Trained, declared: DeclaredFeatures, chosen: Mapping[str, str], past: int | None
    ) -> None:
        self._classifier = classifier
        classifier.speakers(list(chosen), chosen)  # knows them
        self._dialogue = classifier.dialogue(chosen, past)
        self._names: dict[str, list[str] | None] = {}
        for modality, trained in classifier.run.facts["features"].items():
            names: list[str] | None = []
            for part in parts_in(trained):
                feature = find_feature(declared, modality, part)
                if feature is None or names is None:
                    names = None
                    continue
                here = provenance_of(declared, feature)  # pyright: ignore[reportArgumentType]  # has what is asked for
                check_same(modality, part.get("made") or {}, here, classifier.notify)
                names.append(feature.name)
            self._names[modality] = names

    def add(self, spoken: SpokenTurn, features: TurnFeatures) -> Turn:
        """Classifies the next turn.

        Args:
            spoken: the turn.
            features: name of each declared matrix to (values float32 (S,) or None, the reason for None), and modality
                to (None, the reason) for one without matrices.

        Raises:
            UserError: its features or the prediction are not finite, or the model supports fewer speakers.
        """
        rows, present, missing = {}, {}, {}
        for modality, dim in self._classifier.run.dims.items():
            values, reason = self._row(modality, features)
            rows[modality] = np.zeros(dim, np.float32) if values is None else values
            present[modality] = values is not None
            if values is None:
                missing[modality] = reason
        whole, own = self._dialogue.add(spoken.speaker, rows, present)
        if not np.isfinite(whole).all():
            raise UserError(f"{self._classifier.run.path}: {not_finite(1)}")
        alone = {m: p if present[m] else None for m, p in own.items()}
        return self._classifier.turn(spoken, whole, alone, missing)

    def _row(self, modality: str, features: TurnFeatures) -> tuple[np.ndarray | None, str]:
        """The normalised features (D,) of a modality, as `TurnClassifier` reads them from a store."""
        names = self._names[modality]
        if names is None:
            return None, features.get(modality, (None, "no features"))[1]
        there = np.ones(1, bool)
        found, classifier = [], self._classifier
        parts = parts_in(classifier.run.facts["features"][modality])
        for name, part in zip(names, parts, strict=True):
            values, reason = features[name]
            if values is None:
                return None, reason
            if not np.isfinite(values).all():
                raise UserError(f"the stream: {name} contains NaN or infinity")
            row = np.asarray(values, np.float32)[None]
            reduced = classifier.reduced(modality, row.copy(), there, one_by_one=True)
            if reduced.shape[1] != part["dim"]:
                raise UserError(f"the stream: {name} has {reduced.shape[1]} dimensions, the run's {part['dim']}")
            found.append(reduced)
        row = np.ascontiguousarray(classifier.joined(modality, found, there), np.float32)
        classifier.normalisers[modality].apply(row)
        return row[0], ""
