"""Training: from a store and settings to the folder of a run."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...toolkit.base.errors import UserError
from ...toolkit.base.schedule import lr_factor
from ...toolkit.base.version import __version__
from ...toolkit.store import Feature, FeatureStore
from ..config import Config, model_in_words, protocol_label
from ..data.batch import Conversations
from ..data.features import (
    VALIDATION_SEED,
    Division,
    Speakers,
    choose_features,
    conversations,
    divide_for_training,
    fit_normalisers,
    label_counts,
    read_feature,
    rows_of,
    speaker_indices,
)
from ..data.provenance import made_by
from .checkpoint import CHECKPOINT, Best, State, load_checkpoint, save_checkpoint
from .curves import write_curves
from .evaluation import build_model, predict, score, tabulate
from .events import Events, check_installed
from .progress import EpochProgress, epoch_progress
from .run_folder import (
    append_metrics,
    keep_metrics,
    prepare_folder,
    read_result,
    write_config,
    write_result,
    write_weights,
)
from .runtime import choose_device, device_name, precision, seed_everything


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
        "variant": getattr(plan.config.model, "variant", None),
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "store": str(plan.store.path),
        "corpus": plan.store.corpus,
        "labels": plan.store.labels,
        "features": {m: {"name": f.name, "dim": f.dim} for m, f in plan.features.items()},
        "speaker_slots": plan.speakers.slots,
        "splits": {
            name: {"dialogues": len(d), "utterances": len(rows_of(plan.store.offsets, d))} for name, d in splits.items()
        },
        "protocol": protocol_label(plan.config),
        "config": plan.config.as_dict(),
    }


def train(
    store: FeatureStore,
    config: Config,
    out: Path,
    device: str,
    say: Callable[[str], None],
    *,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    name: str = "",
) -> dict[str, object]:
    """Trains a model and writes its run.

    On a CPU the same store, settings and number of threads give the same bits, also when the training was killed and
    taken up again.

    Args:
        store: an open store.
        config: the settings.
        out: folder of the run, made here.
        device: "auto", "cpu" or "cuda".
        say: takes lines for the user.
        overwrite: whether an earlier run in `out` may be replaced.
        resume: go on after the last epoch that a killed training in `out` has done; a finished one is left as it is.
        tensorboard: write TensorBoard events as well.
        name: put before lines of progress.

    Returns:
        run, protocol, seed, device, parameters, seconds, selected (epoch, split and its measures) and test: measures
        on the test split, or None where it has no labels.

    Raises:
        UserError: settings, store and folder do not go together, or the loss is not finite any more.
    """
    target = choose_device(device)
    if tensorboard:
        check_installed()
    plan = make_plan(store, config)
    fingerprint = fingerprint_of(plan, target)
    if resume and (finished := finished_result(out, fingerprint)) is not None:
        say(f"{out}: is finished already")
        return finished
    prepare_folder(out, overwrite, resume)
    began = time.perf_counter()
    seed_everything(config.train.seed)
    model = plan.model()
    matrices = {m: read_feature(store, feature) for m, feature in plan.features.items()}
    _announce(plan, matrices, model, target, say)
    normalisers = fit_normalisers(
        matrices, rows_of(store.offsets, plan.division.train), config.data.normalise, config.data.clip
    )
    data = conversations(store, matrices, normalisers, plan.speakers).to(target)
    facts = _facts(plan, model, target)
    write_config(out, config, facts)

    state, lines = _begin(plan, model.to(target), out, fingerprint, resume)
    if state.epoch:
        say(f"resuming after epoch {state.epoch}")
    with (
        Events.open(out, tensorboard, lines) as events,
        epoch_progress(name, config.train.epochs, state.epoch) as progress,
    ):
        _fit(plan, state, data, out, fingerprint, lines, events, progress)
    best = state.best
    model.load_state_dict(best.weights)
    facts["selected"] = {
        "epoch": best.epoch,
        "split": plan.selection[0],
        "weighted_f1": best.measures["weighted_f1"],
        "protocol": protocol_label(config),
    }
    test = None
    if len(plan.division.test):
        prediction = predict(model, data, plan.division.test, config.train.batch_size, config.train.precision)
        test = score(prediction, store.column("label"), store.labels, plan.counts)
        tabulate(store, prediction).write(out)
    else:
        say("the store has no test split: no predictions.csv")
    write_curves(out, lines, plan.selection[0], best.epoch, protocol_label(config))
    write_weights(out, model, normalisers, {m: numbers for m, f in plan.features.items() if (numbers := f.reduction())})
    write_config(out, config, facts)
    result = {
        "run": str(out),
        "protocol": protocol_label(config),
        "seed": config.train.seed,
        "device": device_name(target),
        "parameters": facts["parameters"],
        "seconds": round(time.perf_counter() - began, 2),
        "epochs": state.epoch,
        "selected": {"epoch": best.epoch, "split": plan.selection[0], **best.measures},
        "test": test,
    }
    write_result(out, {"fingerprint": fingerprint, "result": result})
    (out / CHECKPOINT).unlink()
    return result


def finished_result(out: Path, fingerprint: dict[str, str]) -> dict[str, object] | None:
    """What `train` returned when it wrote the folder `out`; None where no training has finished there.

    Raises:
        UserError: what has finished there was of other settings or another store.
    """
    if (finished := read_result(out)) is None:
        return None
    if finished["fingerprint"] != fingerprint:
        raise UserError(f"{out}: holds a finished run of other settings or another store; replace it with --overwrite")
    return finished["result"]


def fingerprint_of(plan: Plan, device: torch.device) -> dict[str, str]:
    """What a checkpoint and a result belong to: a hash of settings, dimensions and kind of device, and the store's."""
    made = {
        "config": plan.config.as_dict(),
        "dims": {m: f.dim for m, f in plan.features.items()},
        "device": device.type,
    }
    settings = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return {"settings": settings, "store": plan.store.content_hash}


def _begin(
    plan: Plan, model: nn.Module, out: Path, fingerprint: dict[str, str], resume: bool
) -> tuple[State, list[dict[str, object]]]:
    """The state that training begins with, and the lines of metrics.jsonl up to there."""
    settings = plan.config.train
    optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser](
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    state = State(model, optimiser, torch.Generator().manual_seed(settings.seed))
    if not (resume and load_checkpoint(out, state, fingerprint)):
        return state, keep_metrics(out, 0)
    return state, keep_metrics(out, state.epoch)


def _fit(
    plan: Plan,
    state: State,
    data: Conversations,
    out: Path,
    fingerprint: dict[str, str],
    lines: list[dict[str, object]],
    events: Events,
    progress: EpochProgress,
) -> None:
    """Trains for the epochs that are left or until patience ends; after each it writes a line of metrics and the state."""
    settings, (split, selection) = plan.config.train, plan.selection
    labels = plan.store.column("label")
    while state.epoch < settings.epochs and not _out_of_patience(state, settings.patience):
        began = time.perf_counter()
        trained = _train_epoch(plan, state, data, progress)
        prediction = predict(state.model, data, selection, settings.batch_size, settings.precision)
        if not np.isfinite(prediction.probabilities).all():
            raise UserError(
                f"{plan.store.path}: the model's output on the {split} split is not finite after epoch {state.epoch + 1}; "
                "a lower train.lr may help"
            )
        measures = score(prediction, labels, plan.store.labels, plan.counts)
        state.epoch += 1
        if state.best is None or state.best.beaten_by(measures, prediction.loss):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            state.best = Best(state.epoch, measures, prediction.loss, weights)
        lines.append(
            {
                "epoch": state.epoch,
                **trained,
                split: {"loss": _or_none(prediction.loss)}
                | {name: measures[name] for name in ("accuracy", "weighted_f1", "weighted_precision", "macro_f1")},
                "protocol": protocol_label(plan.config),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        append_metrics(out, lines[-1])
        save_checkpoint(out, state, fingerprint)
        events.add(lines[-1])
        progress.epoch(f"loss {trained['loss']:.4f}  {split} weighted F1 {100 * measures['weighted_f1']:.2f}")


def _out_of_patience(state: State, patience: int | None) -> bool:
    return patience is not None and state.best is not None and state.epoch - state.best.epoch >= patience


def _train_epoch(plan: Plan, state: State, data: Conversations, progress: EpochProgress) -> dict[str, object]:
    """One pass over the training split.

    Returns:
        `loss`, the mean over steps; `lr` of the last step; `grad_norm`, the mean norm of the gradients before they were
        shortened, None where train.max_grad_norm is; `modality_dropout`, the mean dropout probability of each modality
        over the steps that used it, None where no step did.
    """
    settings, model = plan.config.train, state.model
    model.train()
    dialogues = torch.from_numpy(plan.division.train)
    parts = dialogues[torch.randperm(len(dialogues), generator=state.shuffle)].split(settings.batch_size)
    losses, ratios, norms = [], [], []
    for step, part in enumerate(parts):
        factor = lr_factor(
            settings.schedule,
            state.epoch * len(parts) + step,
            settings.epochs * len(parts),
            settings.lr_warm_up * len(parts),
        )
        for group in state.optimizer.param_groups:
            group["lr"] = settings.lr * factor
        batch = data.batch(part)
        with precision(settings.precision, batch.labels.device):
            output = model(batch, state.epoch)
            loss = model.loss(output, batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.max_grad_norm is not None:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).detach())
        state.optimizer.step()
        losses.append(loss.detach())
        if getattr(output, "ratios", None) is not None:
            ratios.append(output.ratios)
        progress.step(step + 1, len(parts))
    # One look at all of them, so that the device is not waited for in every step.
    losses = torch.stack(losses).cpu()
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).int().argmax())
        names = [plan.store.dialogue_ids[d] for d in parts[first].tolist()]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UserError(
            f"{plan.store.path}: the loss became {float(losses[first])} in epoch {state.epoch + 1} on the batch of dialogues "
            f"{shown}; a lower train.lr may help"
        )
    mean = torch.stack(ratios).mean(0).tolist() if ratios else None
    return {
        "loss": float(losses.mean()),
        "lr": settings.lr * factor,
        "grad_norm": float(torch.stack(norms).mean()) if norms else None,
        "modality_dropout": mean and dict(zip(plan.features, mean)),
    }


def _facts(plan: Plan, model: nn.Module, device: torch.device) -> dict[str, object]:
    """What config.yaml records under `run`."""
    store, config, division = plan.store, plan.config, plan.division
    described = describe(plan, model)
    return {
        "toolkit_version": __version__,
        "torch_version": str(torch.__version__),
        "device": device_name(device),
        "store": {"path": str(store.path.resolve()), "corpus": store.corpus, "content_sha256": store.content_hash},
        "features": {
            m: {**described["features"][m], "made": made_by(store, feature)} for m, feature in plan.features.items()
        },
        "labels": list(store.labels),
        "train_label_counts": dict(zip(store.labels, plan.counts.tolist())),
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


def _announce(
    plan: Plan,
    matrices: dict[str, tuple[np.ndarray, np.ndarray]],
    model: nn.Module,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
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
        say(
            f"{modality}: {feature.name}, {feature.dim} dimensions{lacking}; normalised by {plan.config.data.normalise}"
        )
    for name, sizes in described["splits"].items():
        say(f"{name}: {sizes['dialogues']} dialogues, {sizes['utterances']} utterances")
    say(f"validation: {_validation_source(plan)}")
    say(f"model: {model_in_words(plan.config.model)}, {described['parameters']:,} parameters")
    settings = plan.config.train
    say(f"device: {device_name(device)}, matrix products in {settings.precision}")
    say(f"seed {settings.seed}; protocol {described['protocol']}")


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None  # JSON has no NaN
