"""Features that have an encoder's layers side by side: one layer of them, a mean, or all for weights that are learned.

A row of such a feature, (L * D,) float32, is the layers' vectors of D columns one after the other. Layers are counted
from 0, in the order in which the feature has them; a speech encoder's layer 0 is the input of its first layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.store import Feature

FEATURE, LAYERS = "feature", "layers"  # the keys of a choice: {feature: NAME, layers: LAYERS}
LEARNED, MEAN = "learned", "mean"
FORMS = f"{LEARNED}, {MEAN}, a layer's number or a range I-J"
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
_ROWS = 2048  # at a time, where layers are picked or averaged


def is_layered(choice: object) -> bool:
    """Whether a part of a choice has the form {feature: NAME, layers: LAYERS}, whatever its values."""
    return isinstance(choice, Mapping) and set(choice) == {FEATURE, LAYERS}


def are_layers(layers: object) -> bool:
    """Whether a value says which layers: `learned`, `mean`, a number such as 9 (or "9"), or "I-J" with I up to J."""
    if type(layers) is int:
        return 0 <= layers < 10_000
    if not isinstance(layers, str):
        return False
    if layers in (LEARNED, MEAN):
        return True
    found = _RANGE.fullmatch(layers)
    return found is not None and int(found[1]) <= int(found[2] or found[1])


def averaged(layers: int | str, count: int) -> range | None:
    """The layers whose mean is used, of `count`; None if all are kept for learned weights.

    Args:
        layers: for which `are_layers` is true.
        count: L; the range may exceed it.
    """
    if layers == LEARNED:
        return None
    if layers == MEAN:
        return range(count)
    found = _RANGE.fullmatch(str(layers))
    assert found is not None  # what calls this has checked it
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def pick_layers(values: np.ndarray, layers: int | str, count: int) -> np.ndarray:
    """What a run uses of rows with `count` layers: float32 (n, count * D) to (n, D), or the same for learned weights.

    Args:
        values: the rows.
        layers, count: as for `averaged`, within the layers that there are.
    """
    chosen = averaged(layers, count)
    if chosen is None:
        return values
    parts = values.reshape(len(values), count, values.shape[1] // count)[:, chosen.start : chosen.stop]
    # A mean over an axis that is not the last one adds row by row: it does not depend on how many rows there are.
    return np.ascontiguousarray(parts[:, 0] if len(chosen) == 1 else parts.mean(1, dtype=np.float32))


class LayeredFeature:
    """A feature with several layers, of which one is used, the mean of some, or all with learned weights.

    Attributes:
        name: "modality/layers(name, layers)".
        dim: number of columns: D, or L * D with learned weights.
        parts: the feature of the store, alone.
        layers: which layers, as chosen.
        count: L, the number of layers that the feature has.

    Raises:
        UserError: the feature has no layers, or not those.
    """

    def __init__(self, feature: Feature, layers: int | str) -> None:
        self.parts, self.layers, self.count = [feature], layers, feature.layers
        self.name = layered_name(feature.name, layers)
        if not self.count:
            raise UserError(
                f"{self.name}: {feature.name} has one vector per utterance, not one per layer; choose it by its name "
                "alone, or extract it with layers=each"
            )
        chosen = averaged(layers, self.count)
        if chosen is not None and chosen.stop > self.count:
            raise UserError(
                f"{self.name}: {feature.name} has {counted(self.count, 'layer')}; choose from 0 to {self.count - 1}"
            )
        self.dim = feature.dim if chosen is None else feature.dim // self.count

    @property
    def mixed(self) -> int:
        """Number of layers that learned weights mix; 0 if none are learned."""
        return self.count if self.layers == LEARNED else 0

    def values(self, rows: slice = slice(None)) -> np.ndarray:
        """The matrix, or the rows of a slice: float32 (n, dim). Rows that are not present are zero."""
        feature = self.parts[0]
        chosen = range(len(feature.present()))[rows]
        if self.mixed or len(chosen) == 0 or chosen.step < 0:
            return pick_layers(feature.values(rows), self.layers, self.count)
        # A few rows at a time, so that layers that are not used take no memory.
        found = np.empty((len(chosen), self.dim), np.float32)
        for at in range(0, len(chosen), _ROWS):
            here = chosen[at : at + _ROWS]
            some = feature.values(slice(here.start, here.stop, here.step))
            found[at : at + _ROWS] = pick_layers(some, self.layers, self.count)
        return found

    def present(self, rows: slice = slice(None)) -> np.ndarray:
        """bool (n,): which utterances have the feature."""
        return self.parts[0].present(rows)

    def reasons(self, rows: slice = slice(None)) -> np.ndarray:
        """str objects (n,): why an utterance does not have it; empty where present."""
        return self.parts[0].reasons(rows)

    def reduction(self) -> dict[str, np.ndarray]:
        """Empty: a reduced feature has no layers."""
        return {}


def layered_name(name: str, layers: int | str) -> str:
    """The name of a feature's layers in use: "audio/layers(wavlm-base, learned)" for audio/wavlm-base."""
    modality, _, rest = name.partition("/")
    return f"{modality}/layers({rest}, {layers})"


class UsedLayers(NamedTuple):
    """Which layers a run uses, and the number L that its feature has."""

    layers: int | str
    count: int


def used_layers(facts: Mapping[str, Any]) -> UsedLayers | None:
    """Which layers a run's config.yaml says that it uses; None for a feature that is used as it is.

    Args:
        facts: of a feature in use, `erc_toolkit.train.data.provenance.FeatureFacts`.

    Raises:
        ValueError, TypeError, KeyError: the facts contradict each other. The numbers are no larger than the widths.
    """
    made = facts.get("made") or {}
    if "layers" not in made:
        return None
    layers, count, parts = made["layers"], made["layer_count"], made["parts"]
    if not are_layers(layers) or type(count) is not int or count < 1 or len(parts) != 1:
        raise ValueError("layers")
    chosen = averaged(layers, count)
    width = facts["dim"] if chosen is None else facts["dim"] * count
    if width % count or parts[0]["dim"] != width or (chosen is not None and chosen.stop > count):
        raise ValueError("layers")
    return UsedLayers(layers, count)


def mixed_layers(features: Mapping[str, Any]) -> dict[str, int]:
    """Modality to the number of layers that learned weights mix, for those that have any; `features` of a run's facts.

    Raises:
        ValueError, TypeError, KeyError: as for `used_layers`.
    """
    found = {m: used for m, facts in features.items() if (used := used_layers(facts)) is not None}
    return {m: used.count for m, used in found.items() if used.layers == LEARNED}
