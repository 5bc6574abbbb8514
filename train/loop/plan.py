"""What training on a store will use, determined before it starts, and what a run records of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...toolkit.base.device import device_name
from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.holding_out import VALIDATION_SEED
from ...toolkit.base.revision import revision
from ...toolkit.base.version import __version__
from ...toolkit.base.words import counted, layers_in_words
from ...toolkit.manifest import MODALITIES
from ...toolkit.store import Feature, FeatureStore
from ..config import Config, model_in_words, protocol_label
from ..data.batch import Conversations
from ..data.features import (
    Division,
    Normaliser,
    Speakers,
    assembled,
    choose_features,
    conversations,
    divide_for_training,
    fit_normalisers,
    label_counts,
    rows_of,
    speaker_indices,
)
from ..data.joined import CONCAT, AnyFeature, JoinedFeature, parts_of
from ..data.layered import LayeredFeature
from ..data.missing import hidden_at_random
from ..data.provenance import facts_about
from ..data.shared import Prepared, prepared_feature
from ..models.base import Model
from .evaluation import build_model
from .records import FeatureChoice, PlanDescription, RunFacts

# Settings that earlier versions did not have, with the values of what they did.
ADDED = {"train": {"track_test": False}, "data": {"missing": 0, "missing_as": "absent"}}


@dataclass(slots=True)
class Plan:
    """The resolved inputs of training on a store, before any feature is read.

    Attributes:
        features: modality to the feature in use.
        speakers: speaker indices.
        division: dialogues of each split.
        counts: (C,) int64, labelled utterances of each class in the training split.
    """

    store: FeatureStore
    config: Config
    features: dict[str, AnyFeature]
    speakers: Speakers
    division: Division
    counts: np.ndarray

    @property
    def selection(self) -> tuple[str, np.ndarray]:
        """Name and dialogues of the split that the epoch is selected on."""
        if self.config.train.protocol == "best-on-test":
            return "test", self.division.test
        return "val", self.division.val

    def model(self) -> Model[Any]:
        """A freshly initialised model."""
        dims = {m: feature.dim for m, feature in self.features.items()}
        return build_model(self.config, dims, self.speakers.slots, self.counts, self.mixed)

    @property
    def mixed(self) -> dict[str, int]:
        """Modality to the number of layers that learned weights mix, for those with such weights."""
        return {m: f.mixed for m, f in self.features.items() if isinstance(f, LayeredFeature) and f.mixed}


def make_plan(store: FeatureStore, config: Config) -> Plan:
    """Chooses features, speakers and splits.

    Raises:
        UserError: store and settings do not fit together.
    """
    if not store.labels:
        raise UserError(f"{store.path}: has no labels; there is nothing to learn")
    features = choose_features(store, config.data)
    config = _with_text_layers(config, features)
    speakers = speaker_indices(store, config.data)
    division = divide_for_training(store, config.data, config.train.protocol == "best-on-test")
    counts = label_counts(store.column("label")[rows_of(store.offsets, division.train)], len(store.labels))
    return Plan(store, config, features, speakers, division, counts)


def _with_text_layers(config: Config, features: Mapping[str, AnyFeature]) -> Config:
    """Fills in a model's `text_layers`, if it is null: as many as the text features that are concatenated."""
    if getattr(config.model, "text_layers", 1) is not None:
        return config
    text = features.get("text")
    layers = len(text.parts) if isinstance(text, JoinedFeature) and text.how == CONCAT else 1
    model: Any = config.model
    return dataclasses.replace(config, model=dataclasses.replace(model, text_layers=layers))


def training_data(
    plan: Plan, matrices: dict[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[Conversations, dict[str, Normaliser]]:
    """The store's dialogues, on the CPU, with features normalised by the training split; and the normalisers.

    Args:
        plan: the plan.
        matrices: modality to what `read_feature` returns; normalised in place.
    """
    store, settings = plan.store, plan.config.data
    train_rows = rows_of(store.offsets, plan.division.train)
    hidden = _hide(plan, matrices)
    normalisers = fit_normalisers(matrices, train_rows, settings.normalise, settings.clip)
    data = conversations(store, matrices, normalisers, plan.speakers)
    if settings.missing_as == "zeros":
        data = data.shown({m: torch.from_numpy(rows) for m, rows in hidden.items()})
    return data, normalisers


def shared_training_data(plan: Plan, prepared: Mapping[str, Prepared]) -> tuple[Conversations, dict[str, Normaliser]]:
    """As `training_data`, of features that `shared_features` has prepared."""
    matrices = {m: (one.values, one.present) for m, one in prepared.items()}
    return assembled(plan.store, matrices, plan.speakers), {m: one.normaliser for m, one in prepared.items()}


def shared_features(plan: Plan, folder: Path) -> dict[str, Prepared] | None:
    """Every modality's feature, normalised, from a folder that processes share; None if each must prepare its own.

    Hidden features (`data.missing`) depend on all modalities of a run, so they are not shared.
    """
    if plan.config.data.missing:
        return None
    rows = rows_of(plan.store.offsets, plan.division.train)
    return {m: prepared_feature(plan.store, f, rows, plan.config.data, folder) for m, f in plan.features.items()}


def _hide(plan: Plan, matrices: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Hides `data.missing` of the features from training and selection; returns which, modality to bool (N,)."""
    if not plan.config.data.missing:
        return {}
    hidden = hidden_at_random({m: present for m, (_, present) in matrices.items()}, plan.config.data.missing)
    kept = np.ones(len(plan.store), bool)
    kept[rows_of(plan.store.offsets, np.concatenate([plan.division.train, plan.division.val]))] = False
    for m, (values, present) in matrices.items():
        hidden[m] &= ~kept
        values[hidden[m]], present[hidden[m]] = 0, False
    return hidden


def describe(plan: Plan, model: nn.Module) -> PlanDescription:
    """The plan as `train --dry-run --json` prints it."""
    parameters = list(model.parameters())
    division = plan.division
    splits = {"train": division.train, "val": division.val, "test": division.test}
    return {
        "model": plan.config.model.name,
        "variant": getattr(plan.config.model, "variant", None),
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "store": str(plan.store.path),
        "corpus": plan.store.corpus,
        "labels": plan.store.labels,
        "features": {m: _described(f) for m, f in plan.features.items()},
        "speaker_slots": plan.speakers.slots,
        "splits": {
            name: {"dialogues": len(d), "utterances": len(rows_of(plan.store.offsets, d))} for name, d in splits.items()
        },
        "protocol": protocol_label(plan.config),
        "config": plan.config.as_dict(),
    }


def _described(feature: AnyFeature) -> FeatureChoice:
    if isinstance(feature, LayeredFeature) and feature.mixed:
        return {"name": feature.name, "dim": feature.dim, "layers": feature.mixed}
    return {"name": feature.name, "dim": feature.dim}


def fingerprint_of(plan: Plan, device: torch.device) -> dict[str, str]:
    """Identifies the run of a checkpoint or result: a hash of settings, dimensions and device type, and one of the data
    that it uses, which features that the store has gained since leave as it was."""
    config = plan.config.as_dict()
    if config["train"]["execution"] == "eager":
        del config["train"]["execution"]  # runs of earlier versions lack such keys, and can be resumed
    for section, defaults in ADDED.items():
        for key, default in defaults.items():
            if config[section][key] == default:
                del config[section][key]
    for modality in MODALITIES:  # by what is used, however it was chosen
        used = plan.features.get(modality)
        config["data"][modality] = None if used is None else used.name
    settings = {
        "config": config,
        "dims": {m: f.dim for m, f in plan.features.items()},
        "device": device.type,
    }
    return {"settings": json_sha256(settings), "store": used_content(plan)}


def _names(store: FeatureStore, modality: str) -> list[str]:
    return [name for name in store.feature_names() if name.startswith(f"{modality}/")]


def used_content(plan: Plan) -> str:
    """SHA-256 over the utterances and the features in use."""
    return plan.store.content_of(part.name for feature in plan.features.values() for part in parts_of(feature))


def facts_of(plan: Plan, model: nn.Module, device: torch.device) -> RunFacts:
    """What config.yaml records under `run`."""
    store, config, division = plan.store, plan.config, plan.division
    described = describe(plan, model)
    return {
        "toolkit_version": __version__,
        "revision": revision(),
        "torch_version": str(torch.__version__),
        "device": device_name(device),
        "store": {
            "path": str(store.path.resolve()),
            "corpus": store.corpus,
            "content_sha256": store.content_hash,
            "data_sha256": used_content(plan),
        },
        "features": {m: facts_about(store, feature) for m, feature in plan.features.items()},
        "labels": list(store.labels),
        "train_label_counts": dict(zip(store.labels, plan.counts.tolist(), strict=True)),
        "speakers": {"slots": plan.speakers.slots, "names": list(plan.speakers.names)},
        "splits": described["splits"],
        "validation": {"source": _validation_source(plan), "held_out": division.held_out},
        "protocol": protocol_label(config),
        "seed": config.train.seed,
        "parameters": described["parameters"],
        "trainable_parameters": described["trainable_parameters"],
    }


def _validation_source(plan: Plan) -> str:
    if plan.config.train.protocol == "best-on-test":
        return "none; training used the store's val split too, and the epoch is selected on the test split"
    if plan.division.held_out:
        return f"held out of the train split (fraction {plan.config.data.val_fraction}, seed {VALIDATION_SEED})"
    return "the store's val split"


def _width(feature: AnyFeature) -> str:
    """A feature's width in words, with its layers if they are not one vector."""
    if isinstance(feature, LayeredFeature) and feature.mixed:
        return f"{layers_in_words(feature.mixed, feature.dim)} with learned weights"
    if isinstance(feature, Feature) and feature.layers:
        return f"{layers_in_words(feature.layers, feature.dim)} side by side"
    return counted(feature.dim, "dimension")


def announce(
    plan: Plan,
    present: Mapping[str, np.ndarray],
    model: nn.Module,
    device: torch.device,
    notify: Callable[[str], None],
) -> None:
    """Reports what training uses; `present` is modality to (N,) bool, which utterances have it."""
    described = describe(plan, model)
    notify(f"store: {plan.store.path} ({plan.store.corpus}, {counted(len(plan.store), 'utterance')})")
    for modality in ("text", "audio", "visual"):
        if modality not in plan.features:
            held = _names(plan.store, modality)
            notify(
                f"{modality}: {'left out by data.modalities' if held else 'the store has no such feature'}; not used"
            )
            continue
        feature, absent = plan.features[modality], int((~present[modality]).sum())
        absences = f", absent for {counted(absent, 'utterance')}" if absent else ""
        used = {part.name for part in parts_of(feature)}
        others = [name for name in _names(plan.store, modality) if name not in used]
        how = "chosen" if isinstance(getattr(plan.config.data, modality), (str, dict)) else "preferred by the recipe"
        rest = f" ({how} over {', '.join(others)})" if others else ""
        notify(
            f"{modality}: {feature.name}{rest}, {_width(feature)}{absences}; normalised by {plan.config.data.normalise}"
        )
    for name, sizes in described["splits"].items():
        notify(f"{name}: {counted(sizes['dialogues'], 'dialogue')}, {counted(sizes['utterances'], 'utterance')}")
    notify(f"validation: {_validation_source(plan)}")
    if missing := plan.config.data.missing:
        how = "zeros" if plan.config.data.missing_as == "zeros" else "absent"
        notify(f"hidden in training and validation: each feature with probability {missing:g}, {how} to the model")
    notify(f"model: {model_in_words(plan.config.model)}, {described['parameters']:,} parameters")
    settings = plan.config.train
    notify(f"device: {device_name(device)}, matrix products in {settings.precision}, execution {settings.execution}")
    notify(f"seed {settings.seed}; protocol {described['protocol']}")
