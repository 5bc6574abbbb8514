"""Training: from a store and settings to the folder of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import toolkit
from toolkit.errors import UserError
from toolkit.progress import progress_bar
from toolkit.store import Feature, FeatureStore
from train.config import Config, protocol_label
from train.data import (
    VALIDATION_SEED, Conversations, Division, Speakers, choose_features, conversations, divide_for_training,
    fit_normalisers, label_counts, read_feature, rows_of, speaker_indices,
)  # fmt: skip
from train.evaluation import Prediction, build_model, predict, score
from train.run_folder import append_metrics, prepare_folder, write_config, write_predictions, write_weights
from train.runtime import choose_device, device_name, seed_everything


@dataclass(slots=True)
class Plan:
    """What training on a store with some settings comes to, before any feature is read.

    Attributes:
        features: modality to the feature that is used.
        speakers: speaker indices.
        division: dialogues of each split.
        counts: (C,) int64, labelled utterances of each class in the training split.
    """

    store: FeatureStore
    config: Config
    features: dict[str, Feature]
    speakers: Speakers
    division: Division
    counts: np.ndarray

    @property
    def selection(self) -> tuple[str, np.ndarray]:
        """Name and dialogues of the split that the epoch is selected on."""
        if self.config.train.protocol == "best-on-test":
            return "test", self.division.test
        return "val", self.division.val

    def model(self) -> nn.Module:
        """A freshly initialised model."""
        dims = {m: feature.dim for m, feature in self.features.items()}
        return build_model(self.config, dims, self.speakers.slots, self.counts)


def make_plan(store: FeatureStore, config: Config) -> Plan:
    """Chooses features, speakers and splits.

    Raises:
        UserError: store and settings do not go together.
    """
    if not store.labels:
        raise UserError(f"{store.path}: names no labels; there is nothing to learn")
    features = choose_features(store, config.data)
    speakers = speaker_indices(store, config.data)
    division = divide_for_training(store, config.data, config.train.protocol == "best-on-test")
    counts = label_counts(store.column("label")[rows_of(store.offsets, division.train)], len(store.labels))
    return Plan(store, config, features, speakers, division, counts)


def describe(plan: Plan, model: nn.Module) -> dict[str, object]:
    """The plan as `train --dry-run --json` prints it."""
    parameters = list(model.parameters())
    splits = {name: getattr(plan.division, name) for name in ("train", "val", "test")}
    return {
        "model": plan.config.model.name,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "store": str(plan.store.path), "corpus": plan.store.corpus, "labels": plan.store.labels,
        "features": {m: {"name": f.name, "dim": f.dim} for m, f in plan.features.items()},
        "speaker_slots": plan.speakers.slots,
        "splits": {
            name: {"dialogues": len(d), "utterances": len(rows_of(plan.store.offsets, d))} for name, d in splits.items()
        },
        "protocol": protocol_label(plan.config), "config": plan.config.as_dict(),
    }  # fmt: skip


def train(
    store: FeatureStore, config: Config, out: Path, device: str, say: Callable[[str], None], *, overwrite: bool = False,
) -> dict[str, object]:  # fmt: skip
    """Trains a model and writes its run.

    On a CPU the same store, settings and number of threads give the same bits.

    Args:
        store: an open store.
        config: the settings.
        out: folder of the run, made here.
        device: "auto", "cpu" or "cuda".
        say: takes lines for the user.
        overwrite: whether an earlier run in `out` may be replaced.

    Returns:
        run, protocol, seed, device, parameters, seconds, selected (epoch, split and its measures) and test: measures
        on the test split, or None where it has no labels.

    Raises:
        UserError: settings, store and folder do not go together, or the loss is not finite any more.
    """
    target = choose_device(device)
    plan = make_plan(store, config)
    prepare_folder(out, overwrite)
    began = time.perf_counter()
    seed_everything(config.train.seed)
    model = plan.model()
    matrices = {m: read_feature(store, feature) for m, feature in plan.features.items()}
    _announce(plan, matrices, model, target, say)
    normalisers = fit_normalisers(matrices, rows_of(store.offsets, plan.division.train), config.data.normalise)
    data = conversations(store, matrices, normalisers, plan.speakers).to(target)
    facts = _facts(plan, model, target)
    write_config(out, config, facts)

    best = _fit(plan, model.to(target), data, out)
    model.load_state_dict(best.state)
    facts["selected"] = {
        "epoch": best.epoch, "split": plan.selection[0], "weighted_f1": best.measures["weighted_f1"],
        "protocol": protocol_label(config),
    }  # fmt: skip
    test = None
    if len(plan.division.test):
        prediction = predict(model, data, plan.division.test, config.train.batch_size)
        test = score(prediction, store.column("label"), store.labels, plan.counts)
        _write_predictions(out, store, prediction)
    else:
        say("the store has no test split: no predictions.csv")
    write_weights(out, model, normalisers)
    write_config(out, config, facts)
    return {
        "run": str(out), "protocol": protocol_label(config), "seed": config.train.seed, "device": device_name(target),
        "parameters": facts["parameters"], "seconds": round(time.perf_counter() - began, 2),
        "selected": {"epoch": best.epoch, "split": plan.selection[0], **best.measures}, "test": test,
    }  # fmt: skip


@dataclass(slots=True)
class _Best:
    """The epoch selected so far: highest weighted F1, among equals lowest loss, among equals the earliest."""

    epoch: int
    measures: dict[str, object]
    loss: float
    state: dict[str, Tensor]

    def beaten_by(self, measures: dict[str, object], loss: float) -> bool:
        return (measures["weighted_f1"], -loss) > (self.measures["weighted_f1"], -self.loss)


def _fit(plan: Plan, model: nn.Module, data: Conversations, out: Path) -> _Best:
    """Trains for all epochs, writes a line of metrics after each, returns the selected one."""
    settings, (split, selection) = plan.config.train, plan.selection
    optimiser = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=settings.lr, weight_decay=settings.weight_decay
    )
    shuffle = torch.Generator().manual_seed(settings.seed)
    labels = plan.store.column("label")
    best: _Best | None = None
    with progress_bar("train", total=settings.epochs) as bar:
        for epoch in range(settings.epochs):
            began = time.perf_counter()
            loss, ratios = _train_epoch(plan, model, data, optimiser, shuffle, epoch)
            prediction = predict(model, data, selection, settings.batch_size)
            if not np.isfinite(prediction.probabilities).all():
                raise UserError(
                    f"{plan.store.path}: the model's output on the {split} split is not finite after epoch {epoch + 1}; "
                    "a lower train.lr may help"
                )
            measures = score(prediction, labels, plan.store.labels, plan.counts)
            append_metrics(out, {
                "epoch": epoch + 1, "loss": loss, "lr": settings.lr,
                split: {"loss": _or_none(prediction.loss)}
                | {name: measures[name] for name in ("accuracy", "weighted_f1", "weighted_precision", "macro_f1")},
                "modality_dropout": ratios, "protocol": protocol_label(plan.config),
                "seconds": round(time.perf_counter() - began, 3),
            })  # fmt: skip
            if best is None or best.beaten_by(measures, prediction.loss):
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best = _Best(epoch + 1, measures, prediction.loss, state)
            bar.advance(1, note=f"loss {loss:.4f}  {split} weighted F1 {100 * measures['weighted_f1']:.2f}")
    return best


def _train_epoch(
    plan: Plan, model: nn.Module, data: Conversations, optimiser: torch.optim.Optimizer, shuffle: torch.Generator,
    epoch: int,
) -> tuple[float, dict[str, float] | None]:  # fmt: skip
    """One pass over the training split.

    Returns:
        Mean of the steps' losses, and the mean dropout probability of each modality over the steps that used modality
        dropout, or None where no step did.
    """
    model.train()
    dialogues = torch.from_numpy(plan.division.train)
    order = dialogues[torch.randperm(len(dialogues), generator=shuffle)]
    parts = order.split(plan.config.train.batch_size)
    losses, ratios = [], []
    for part in parts:
        batch = data.batch(part)
        output = model(batch, epoch)
        loss = model.loss(output, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        if output.ratios is not None:
            ratios.append(output.ratios)
    # One look at all of them, so that the device is not waited for in every step.
    losses = torch.stack(losses).cpu()
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).int().argmax())
        names = [plan.store.dialogue_ids[d] for d in parts[first].tolist()]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UserError(
            f"{plan.store.path}: the loss became {float(losses[first])} in epoch {epoch + 1} on the batch of dialogues "
            f"{shown}; a lower train.lr may help"
        )
    mean = torch.stack(ratios).mean(0).tolist() if ratios else None
    return float(losses.mean()), mean and dict(zip(plan.features, mean))


def _facts(plan: Plan, model: nn.Module, device: torch.device) -> dict[str, object]:
    """What config.yaml records under `run`."""
    store, config, division = plan.store, plan.config, plan.division
    described = describe(plan, model)
    return {
        "toolkit_version": toolkit.__version__, "torch_version": str(torch.__version__), "device": device_name(device),
        "store": {"path": str(store.path.resolve()), "corpus": store.corpus, "content_sha256": store.content_hash},
        "features": described["features"], "labels": list(store.labels),
        "train_label_counts": dict(zip(store.labels, plan.counts.tolist())),
        "speakers": {"slots": plan.speakers.slots, "names": list(plan.speakers.names)},
        "splits": described["splits"],
        "validation": {"source": _validation_source(plan), "held_out": division.held_out},
        "protocol": protocol_label(config), "seed": config.train.seed,
        "parameters": described["parameters"], "trainable_parameters": described["trainable_parameters"],
    }  # fmt: skip


def _validation_source(plan: Plan) -> str:
    if plan.config.train.protocol == "best-on-test":
        return "none; training used the store's val split too, and the epoch is selected on the test split"
    if plan.division.held_out:
        return f"held out of the train split (fraction {plan.config.data.val_fraction}, seed {VALIDATION_SEED})"
    return "the store's val split"


def _announce(
    plan: Plan, matrices: dict[str, tuple[np.ndarray, np.ndarray]], model: nn.Module, device: torch.device,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Tells the user what is used."""
    described = describe(plan, model)
    say(f"store: {plan.store.path} ({plan.store.corpus}, {len(plan.store)} utterances)")
    for modality in ("text", "audio", "visual"):
        if modality not in plan.features:
            held = any(name.startswith(f"{modality}/") for name in plan.store.feature_names())
            say(f"{modality}: {'left out by data.modalities' if held else 'the store holds no such feature'}; not used")
            continue
        feature, absent = plan.features[modality], int((~matrices[modality][1]).sum())
        lacking = f", absent for {absent} utterances" if absent else ""
        say(f"{modality}: {feature.name}, {feature.dim} dimensions{lacking}; normalised by {plan.config.data.normalise}")
    for name, sizes in described["splits"].items():
        say(f"{name}: {sizes['dialogues']} dialogues, {sizes['utterances']} utterances")
    say(f"validation: {_validation_source(plan)}")
    say(f"model: {described['model']}, {described['parameters']:,} parameters")
    say(f"device: {device_name(device)}; seed {plan.config.train.seed}; protocol {described['protocol']}")


def _write_predictions(out: Path, store: FeatureStore, prediction: Prediction) -> None:
    names = np.array([*store.labels, ""], object)  # the last one is what label -1 points at
    rows = prediction.rows
    columns = {
        "id": store.column("id")[rows],
        "dialogue": np.array(store.dialogue_ids, object)[store.column("dialogue")[rows]],
        "speaker": np.array(store.speaker_names, object)[store.column("speaker")[rows]],
        "true": names[store.column("label")[rows]],
        "predicted": names[prediction.classes],
    }
    write_predictions(out, columns, store.labels, prediction.probabilities)


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None  # JSON has no NaN
