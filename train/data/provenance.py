"""The provenance of a run's features, so that features of a new recording are extracted in exactly the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypedDict, cast

from ...toolkit.base.errors import UserError
from ...toolkit.store import FeatureStore
from ...toolkit.store.summary import unpacked
from .joined import AnyFeature, JoinedFeature
from .layered import FEATURE, LAYERS, LayeredFeature

_KEPT = ("extractor", "model", "layer", "weights", "weights_sha256", "parameters", "versions", "options", "licence")


class Provenance(TypedDict, total=False):
    """How a feature was extracted, as far as the store records it; see `provenance_of`."""

    extractor: str
    model: str
    layer: int | str
    weights: str
    weights_sha256: str
    parameters: dict[str, object]
    versions: dict[str, str]
    options: dict[str, object]
    licence: str
    reduced_from: str
    method: str
    joined: str
    layers: int | str
    layer_count: int
    parts: list[FeatureFacts]


class FeatureFacts(TypedDict):
    """A feature that a run was trained on: its name in the store, width and provenance."""

    name: str
    dim: int
    made: Provenance


def provenance_of(store: FeatureStore, feature: AnyFeature) -> Provenance:
    """How a feature was extracted, as config.yaml records it.

    Returns:
        Extractor, model, weights_sha256, parameters, versions, options and licence, as far as the store records them.
        For a reduced feature: `reduced_from`, the source's name, and `method`; the rest is the source's.
        For joined features: `joined`, "concat" or "mean", and `parts`, the facts about each. For layers of a feature:
        `layers`, which ones, `layer_count`, how many it has, and `parts`, the facts about it alone.
    """
    if isinstance(feature, JoinedFeature):
        return {"joined": feature.how, "parts": [facts_about(store, part) for part in feature.parts]}
    if isinstance(feature, LayeredFeature):
        parts = [facts_about(store, part) for part in feature.parts]
        return {"layers": feature.layers, "layer_count": feature.count, "parts": parts}
    attrs = cast(Provenance, {k: unpacked(feature.attrs[k]) for k in _KEPT if k in feature.attrs})
    if "source" not in feature.attrs or not feature.reduction():
        return attrs
    source = str(feature.attrs["source"])
    below: Provenance = {
        "reduced_from": source,
        "method": str(feature.attrs.get("method", "")),
        "licence": attrs.get("licence", ""),
    }
    if source in store.feature_names():
        below = cast(Provenance, {**provenance_of(store, store.feature(source)), **below})
    return below


def facts_about(store: FeatureStore, feature: AnyFeature) -> FeatureFacts:
    """What config.yaml records about a feature in use."""
    return {"name": feature.name, "dim": feature.dim, "made": provenance_of(store, feature)}


def parts_in(facts: FeatureFacts) -> list[FeatureFacts]:
    """The facts about each feature of the store that a recorded feature consists of."""
    made = facts.get("made") or {}
    return made["parts"] if ("joined" in made or "layers" in made) and "parts" in made else [facts]


def choice_in(facts: FeatureFacts) -> str | dict:
    """The setting (data.text and the like) that chooses a recorded feature and no other."""
    made = facts.get("made") or {}
    if "layers" in made:
        return {FEATURE: parts_in(facts)[0]["name"], LAYERS: made["layers"]}
    return {made["joined"]: [part["name"] for part in parts_in(facts)]} if "joined" in made else facts["name"]


def options_of(run_path: object, features: Mapping[str, FeatureFacts]) -> dict[str, dict[str, object]]:
    """The extraction options of a run's features, by modality.

    Where a modality joins features of several extractions, the further ones are under "audio 2" and so on.

    Raises:
        UserError: a feature was not extracted by this toolkit, or by a version that did not record how.
    """
    found: dict[str, dict[str, object]] = {}
    for modality, feature in ((m, part) for m, whole in features.items() for part in parts_in(whole)):
        made = feature.get("made") or {}
        if made.get("extractor") == "converted":
            raise UserError(
                f"{run_path}: its {modality} feature {feature['name']} was converted from another project's file and "
                "cannot be extracted from a new recording; train on features from `erc-toolkit extract`"
            )
        if made.get("reduced_from") and len(parts_in(features[modality])) > 1:
            raise UserError(
                f"{run_path}: joins the reduced feature {feature['name']} with others, which cannot be made from a new "
                "recording; train on features that are not reduced, or on the reduced one alone"
            )
        options = made.get("options")
        if not isinstance(options, dict):
            raise UserError(
                f"{run_path}: does not record how {feature['name']} was extracted (the run or its store is from an "
                "earlier version); extract and train again"
            )
        known = [own for key, own in found.items() if key.partition(" ")[0] == modality]
        if options not in known:
            found[f"{modality} {len(known) + 1}" if known else modality] = dict(options)
    return found


def check_same(modality: str, trained: Provenance, here: Provenance, notify: Callable[[str], None]) -> None:
    """Checks that a feature was extracted in the same way as the run's.

    Versions of libraries may differ, which is reported.

    Raises:
        UserError: another model, other weights or other parameters.
    """
    for key in (
        "extractor",
        "weights_sha256",
        "parameters",
        "layer",
        *(() if "weights_sha256" in trained else ("model",)),
    ):
        if trained.get(key) != here.get(key):
            theirs, ours = _short(trained.get(key)), _short(here.get(key))
            raise UserError(
                f"{modality}: the run's features were extracted with {key.replace('_', ' ')} {theirs}, these with "
                f"{ours}; they must not be mixed; choose the run's own model"
            )
    old, new = trained.get("versions") or {}, here.get("versions") or {}
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            notify(f"note: {modality}: {name} {new[name]} here, {old[name]} when the run's features were extracted")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:38] + "…" + text[-38:]
