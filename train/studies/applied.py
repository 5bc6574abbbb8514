"""The settings of a variant as they are really applied: without those that its model lacks, with pinned features."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import json_sha256
from ...toolkit.store import FeatureStore
from ..config import RENAMED, Config, idle_settings, load_config
from ..data.features import choose_features
from ..data.joined import choice_in_words, names_in
from ..data.provenance import choice_in, facts_about
from .definition import Study, Variant

_SECTION = "model."


@dataclass(frozen=True, slots=True)
class PreparedVariant:
    """A variant's settings.

    Attributes:
        config: all of them, with the recipe's seed.
        changes: "section.key=value" before the variant's own changes.
        left_out: shared settings that its model does not have.
        pins: the features in use, by modality, as data.text and the like name them.
    """

    config: Config
    changes: list[str]
    left_out: list[str]
    pins: dict[str, Any]


def prepare(
    study: Study, store: FeatureStore, recipe: str, shared: Sequence[str], begun: Mapping[str, Any], where: str
) -> dict[str, PreparedVariant]:
    """Each variant's settings.

    Args:
        study, store, recipe: the study.
        shared: "section.key=value" for all variants.
        begun: variant to the features that it began with, of an earlier run of the study; `where` names its folder.

    Raises:
        UserError: a setting is invalid, or the store lacks a feature that the study began with.
    """
    found = {}
    for variant, (kept, left_out) in zip(study.variants, applied(study.variants, recipe, shared), strict=True):
        pins = begun.get(variant.name)
        if pins:
            _check_pins(pins, store, where)
        else:
            try:
                pins = pinned(variant.config(recipe, kept), store)
            except UserError:
                variant.config(recipe, kept)  # a mistake in the settings is one of the whole study
                pins = {}  # what the store lacks is reported when the run is tried
        changes = _with_pins(kept, variant, pins)
        found[variant.name] = PreparedVariant(variant.config(recipe, changes), changes, left_out, pins)
    return found


def left_out_notes(plans: Mapping[str, PreparedVariant]) -> list[str]:
    """A line for each shared setting that the models of some variants do not have."""
    found: dict[str, list[str]] = {}
    for name, plan in plans.items():
        for change in plan.left_out:
            found.setdefault(change, []).append(name)
    return [
        f"{change}: left out where the model has no such setting: {', '.join(names)}" for change, names in found.items()
    ]


def applied(variants: Sequence[Variant], recipe: str, changes: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """For each variant the shared changes that its model has, and those that it has not.

    A change of a model's setting that no variant's model has is kept, so that it is reported as a mistake.

    Args:
        variants: of a study.
        recipe, changes: as for `erc_toolkit.train.studies.runs.run_study`.
    """
    keys = [_model_keys(variant, recipe, changes) for variant in variants]
    anywhere = set().union(*keys)
    found = []
    for known in keys:
        kept: list[str] = []
        left_out: list[str] = []
        for change in changes:
            key = change.partition("=")[0].strip()
            key = RENAMED.get(key, key)
            lacking = key.startswith(_SECTION) and key not in known and key in anywhere
            (left_out if lacking else kept).append(change)
        found.append((kept, left_out))
    return found


def _model_keys(variant: Variant, recipe: str, changes: Sequence[str]) -> set[str]:
    """The "model.key" that the variant's model has."""
    names = [change for change in [*changes, *variant.settings()] if change.partition("=")[0].strip() == "model.name"]
    return {f"{_SECTION}{field.name}" for field in dataclasses.fields(load_config(recipe, names).model)}


def pinned(config: Config, store: FeatureStore) -> dict[str, Any]:
    """The features that a run uses, by modality, as data.text and the like name them.

    Raises:
        UserError: as for `choose_features`.
    """
    return {m: choice_in(facts_about(store, feature)) for m, feature in choose_features(store, config.data).items()}


def _with_pins(changes: Sequence[str], variant: Variant, pins: Mapping[str, Any]) -> list[str]:
    """The changes with the features that a study began with, where nothing else chooses them.

    The modalities are theirs, too: a store may gain one that it did not have.
    """
    chosen = {change.partition("=")[0].strip() for change in [*changes, *variant.settings()]}
    modalities = [f"data.modalities={json.dumps(list(pins))}"] if pins and "data.modalities" not in chosen else []
    return [
        *changes,
        *modalities,
        *(f"data.{modality}={json.dumps(pin)}" for modality, pin in pins.items() if f"data.{modality}" not in chosen),
    ]


def idle_notes(variants: Sequence[Variant], configs: Sequence[Config], given: Sequence[str]) -> list[str]:
    """What a study varies or was told that cannot act, and variants that are the same run; a line for each.

    Args:
        variants, configs: the variants and their settings.
        given: "section.key=value" for all of them.
    """
    asked = {change.partition("=")[0].strip() for change in given}
    # A shared setting is as it should be where a variant turns off what it belongs to, but not if all of them do.
    idles = [idle_settings(config) for config in configs]
    everywhere = Counter(key for idle in idles for key in idle)
    reasons: dict[str, list[str]] = {}
    runs: dict[str, list[str]] = {}
    for variant, config, idle in zip(variants, configs, idles, strict=True):
        for key, reason in idle.items():
            if key in variant.changes or (key in asked and everywhere[key] == len(configs)):
                reasons.setdefault(f"{key} has no effect: {reason}", []).append(variant.name)
        runs.setdefault(_effective(config, idle), []).append(variant.name)
    notes = [f"{reason} (in {_listed(names)})" for reason, names in reasons.items()]
    notes += [f"the same run under several names: {_listed(names)}" for names in runs.values() if len(names) > 1]
    return notes


def _effective(config: Config, idle: Mapping[str, str]) -> str:
    """Identifies what a run does, without settings that change nothing."""
    content = config.as_dict()
    for key in idle:
        section, _, name = key.partition(".")
        content[section].pop(name, None)
    return json_sha256(content)


def pin_in_words(pin: Any) -> str:
    """A chosen feature for display."""
    return choice_in_words(names_in(pin)[0].split("/")[0], pin)


def feature_contents(plans: Mapping[str, PreparedVariant], store: FeatureStore) -> dict[str, str]:
    """Each feature that a study uses, and the SHA-256 of its part of the store."""
    used = {name for plan in plans.values() for pin in plan.pins.values() for name in names_in(pin)}
    return {name: store.content_of([name]) for name in sorted(used)}


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _check_pins(pins: Mapping[str, Any], store: FeatureStore, where: str) -> None:
    """Raises a UserError if the store lacks a feature that a study began with."""
    have = store.feature_names()
    for pin in pins.values():
        if lost := [name for name in names_in(pin) if name not in have]:
            raise UserError(
                f"{store.path}: has no {lost[0]}, which the study in {where} began with; restore the store, or choose "
                "another --out"
            )
