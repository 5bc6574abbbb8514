"""Training: from a store and settings to the folder of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...toolkit.base.checkpoint import CHECKPOINT
from ...toolkit.base.device import check_precision, device_name, pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import remove_leftovers
from ...toolkit.base.lock import locked
from ...toolkit.base.precision import slowness
from ...toolkit.base.processes.memory import PeakMemory
from ...toolkit.store import FeatureStore
from ..config import Config, protocol_label
from ..data.batch import Conversations
from ..data.features import read_feature
from ..models.base import Model
from ..models.layer_mixed import layer_weights, weights_in_words
from ..scores.metrics import Measures
from .checkpoint import BestEpoch, TrainingState, load_checkpoint, save_checkpoint
from .curves import write_curves
from .epoch import new_state, train_epoch
from .epoch_progress import EpochProgress, epoch_progress
from .evaluation import Prediction, predict, score, tabulate
from .events import EventWriter, check_installed
from .execution import check_execution, make_gradients
from .plan import (
    Plan,
    announce,
    facts_of,
    fingerprint_of,
    make_plan,
    shared_features,
    shared_training_data,
    training_data,
)
from .records import EpochLine, SplitScores, TrainResult
from .run_folder import (
    FILES,
    append_metrics,
    keep_metrics,
    prepare_folder,
    read_result,
    write_config,
    write_result,
    write_weights,
)
from .seeding import seed_everything
from .step import Gradients


def train(
    store: FeatureStore,
    config: Config,
    out: Path,
    device: str,
    notify: Callable[[str], None],
    *,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    name: str = "",
    shared: Path | None = None,
) -> TrainResult:
    """Trains a model and writes its run.

    On a CPU the same store, settings and number of threads give the same bits, even if training is interrupted and
    resumed.

    Args:
        store: an open store.
        config: the settings.
        out: folder of the run, created if needed.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        notify: called with lines for the user.
        overwrite: whether an earlier run in `out` may be replaced.
        resume: continue after the last epoch that an interrupted training run completed in `out`; a finished run is
            left unchanged.
        tensorboard: write TensorBoard events as well.
        name: prefix of progress lines.
        shared: folder with features that runs on this machine share (`train/data/shared.py`); None if this run reads
            its own. It changes no number.

    Returns:
        run, protocol, seed, device, parameters, seconds, selected (epoch, split and its measures) and test: measures on
        the test split, or None if it has no labels.

    Raises:
        UserError: settings, store and folder do not fit together, another process is writing `out`, or the loss becomes
            infinite or NaN.
    """
    with locked(out, "train", parents=True):
        return _train(store, config, out, device, notify, overwrite, resume, tensorboard, name, shared)


def _train(
    store: FeatureStore,
    config: Config,
    out: Path,
    device: str,
    notify: Callable[[str], None],
    overwrite: bool,
    resume: bool,
    tensorboard: bool,
    name: str,
    shared: Path | None,
) -> TrainResult:
    target = pick_device(device)
    check_precision(config.train.precision, target, "train.precision")
    check_execution(config, target)
    if line := slowness(config.train.precision, target, "train.precision"):
        notify(f"note: {line}")
    if tensorboard:
        check_installed()
    plan = make_plan(store, config)
    config = plan.config
    fingerprint = fingerprint_of(plan, target)
    if resume and (finished := finished_result(out, fingerprint)) is not None:
        notify(f"{out}: is already finished")
        return finished
    prepare_folder(out, overwrite, resume)
    began = time.perf_counter()
    memory = PeakMemory(target)
    seed_everything(config.train.seed)
    model = plan.model()
    prepared = None if shared is None else shared_features(plan, shared)
    if prepared is None:
        matrices = {m: read_feature(store, feature) for m, feature in plan.features.items()}
        announce(plan, {m: present for m, (_, present) in matrices.items()}, model, target, notify)
        data, normalisers = training_data(plan, matrices)
    else:
        announce(plan, {m: one.present for m, one in prepared.items()}, model, target, notify)
        data, normalisers = shared_training_data(plan, prepared)
    data = data.to(target)
    facts = facts_of(plan, model, target)
    write_config(out, config, facts)

    computed = make_gradients(model, config.train, target)
    state, lines = _begin(plan, model.to(target), out, fingerprint, resume)
    if state.epoch:
        notify(f"resuming after epoch {state.epoch}")
    with (
        EventWriter.open(out, tensorboard, lines) as events,
        epoch_progress(name, config.train.epochs, state.epoch) as progress,
    ):
        _fit(plan, state, data, out, fingerprint, lines, events, progress, computed)
    best = state.best
    assert best is not None  # train.epochs is at least 1
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
        notify("the store has no test split, so no predictions.csv is written")
    write_curves(out, lines, plan.selection[0], best.epoch, protocol_label(config))
    write_weights(out, model, normalisers, {m: numbers for m, f in plan.features.items() if (numbers := f.reduction())})
    write_config(out, config, facts)
    result: TrainResult = {
        "run": str(out),
        "protocol": protocol_label(config),
        "seed": config.train.seed,
        "device": device_name(target),
        "parameters": facts["parameters"],
        "seconds": round(time.perf_counter() - began, 2),
        "epochs": state.epoch,
        "selected": {"epoch": best.epoch, "split": plan.selection[0], **best.measures},
        "test": test,
        "peak_memory": memory.bytes(),
    }
    if weights := layer_weights(model):
        result["layer_weights"] = weights
        for line in weights_in_words(weights):
            notify(line)
    write_result(out, {"fingerprint": fingerprint, "result": result})
    _clear(out)
    return result


def finished_result(out: Path, fingerprint: dict[str, str]) -> TrainResult | None:
    """What `train` returned when it wrote the folder `out`; None if no training has finished there.

    What an end just after the last file leaves is removed: the checkpoint, and marks of files that were being written.

    Raises:
        UserError: the finished run has other settings or another store.
    """
    if (finished := read_result(out)) is None:
        return None
    if finished["fingerprint"] != fingerprint:
        raise UserError(
            f"{out}: contains a finished run with other settings or another store; replace it with --overwrite"
        )
    _clear(out)
    return finished["result"]


def _clear(out: Path) -> None:
    """Leaves in the folder of a finished run what a run consists of."""
    (out / CHECKPOINT).unlink(missing_ok=True)
    for name in FILES:
        remove_leftovers(out / name)


def _begin(
    plan: Plan, model: Model[Any], out: Path, fingerprint: dict[str, str], resume: bool
) -> tuple[TrainingState, list[EpochLine]]:
    """The state that training starts with, and the lines of metrics.jsonl up to there."""
    state = new_state(model, plan.config.train)
    if not (resume and load_checkpoint(out, state, fingerprint)):
        return state, keep_metrics(out, 0)
    return state, keep_metrics(out, state.epoch)


def _fit(
    plan: Plan,
    state: TrainingState,
    data: Conversations,
    out: Path,
    fingerprint: dict[str, str],
    lines: list[EpochLine],
    events: EventWriter,
    progress: EpochProgress,
    computed: Gradients | None,
) -> None:
    """Trains for the remaining epochs or until patience runs out; writes metrics and a checkpoint after each."""
    settings, (split, selection) = plan.config.train, plan.selection
    labels = plan.store.column("label")
    while state.epoch < settings.epochs and not _out_of_patience(state, settings.patience):
        began = time.perf_counter()
        trained = train_epoch(plan, state, data, progress, computed)
        prediction = predict(state.model, data, selection, settings.batch_size, settings.precision)
        if not np.isfinite(prediction.probabilities).all():
            raise UserError(
                f"{plan.store.path}: the model's output on the {split} split is not finite after epoch "
                f"{state.epoch + 1}; a lower train.lr may help"
            )
        measures = score(prediction, labels, plan.store.labels, plan.counts)
        assert measures is not None  # make_plan rejects a selection split without labels
        state.epoch += 1
        if state.best is None or state.best.beaten_by(measures, prediction.loss):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            state.best = BestEpoch(state.epoch, measures, prediction.loss, weights)
        scores = _split_scores(prediction, measures)
        seconds, others = time.perf_counter() - began, {}
        if settings.track_test and split != "test" and len(plan.division.test):
            tested = predict(state.model, data, plan.division.test, settings.batch_size, settings.precision)
            if (found := score(tested, labels, plan.store.labels, plan.counts)) is not None:
                others["test"] = _split_scores(tested, found)
        line = cast(
            EpochLine,
            {
                "epoch": state.epoch,
                **trained,
                split: scores,
                **others,
                "protocol": protocol_label(plan.config),
                "seconds": round(seconds, 3),
            },
        )
        lines.append(line)
        append_metrics(out, line)
        save_checkpoint(out, state, fingerprint)
        events.add(line)
        progress.epoch(f"loss {trained['loss']:.4f}  {split} weighted F1 {100 * measures['weighted_f1']:.2f}")


def _split_scores(prediction: Prediction, measures: Measures) -> SplitScores:
    return {
        "loss": prediction.loss if math.isfinite(prediction.loss) else None,
        "accuracy": measures["accuracy"],
        "weighted_f1": measures["weighted_f1"],
        "weighted_precision": measures["weighted_precision"],
        "macro_f1": measures["macro_f1"],
    }


def _out_of_patience(state: TrainingState, patience: int | None) -> bool:
    return patience is not None and state.best is not None and state.epoch - state.best.epoch >= patience
