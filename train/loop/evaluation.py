"""Predictions of a model for dialogues, and their evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...toolkit.base.device import check_precision, device_name, inference, pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.store import FeatureStore
from ..config import OPTIMISTIC, Config
from ..data.batch import Conversations
from ..data.features import Normaliser, choose_features, conversations, divide, read_feature
from ..data.joined import parts_of
from ..data.layered import used_layers
from ..data.provenance import choice_in, parts_in
from ..data.speakers import LearnedSpeakers, give_store_speakers
from ..models.base import Model
from ..models.layer_mixed import LayerMixed
from ..models.registry import model_class
from ..scores.breakdown import breakdown, confusion_matrix
from ..scores.calibration import calibrate
from ..scores.metrics import Evaluation, Measures, evaluate
from ..scores.predictions import Predictions
from ..scores.resampling import dialogue_count, intervals
from .run_folder import Run, check_fit, load_weights, read_run


@dataclass(slots=True)
class Prediction:
    """A model's output on the n utterances of some dialogues, in the store's order.

    Attributes:
        rows: (n,) int64, their rows in the store.
        probabilities: (n, C) float64.
        own: modality to (n,) int64, the class predicted from it alone, -1 where it is absent; empty for models without
            such predictions.
        loss: mean of the batches' losses, weighted by their labelled utterances; NaN if none is labelled.
    """

    rows: np.ndarray
    probabilities: np.ndarray
    own: dict[str, np.ndarray]
    loss: float

    @property
    def classes(self) -> np.ndarray:
        """(n,) int64, the most probable class; the first one in a tie."""
        return self.probabilities.argmax(1)

    def check_finite(self, folder: Path) -> Prediction:
        """The prediction itself.

        Args:
            folder: the run's, for the message.

        Raises:
            UserError: a probability is NaN.
        """
        if bad := int((~np.isfinite(self.probabilities).all(1)).sum()):
            raise UserError(f"{folder}: {not_finite(bad)}")
        return self


def not_finite(count: int) -> str:
    """What is wrong with a model whose predictions for some utterances are NaN, and the remedy."""
    return (
        f"the model's output is not finite for {counted(count, 'utterance')}: its weights or the features are too large"
        "; train again, or choose another --store"
    )


def build_model(
    config: Config,
    dims: Mapping[str, int],
    speakers: int,
    class_counts: np.ndarray,
    mixed: Mapping[str, int] | None = None,
) -> Model[Any]:
    """The model of a configuration, freshly initialised.

    Args:
        config: its sections `model` and, for the loss, `train`.
        dims: modality to width of its features.
        speakers: number of speaker slots.
        class_counts: (C,) labelled utterances of each class in the training split. With balanced class weights, the
            weight of a class is the inverse of its share of them, or 0 if it has none.
        mixed: modality to the number of layers, side by side in its features, that learned weights mix for the model.
    """
    counts = torch.from_numpy(np.asarray(class_counts, np.float64))
    weights = None
    if config.train.class_weights == "balanced":
        weights = torch.where(counts > 0, counts.sum() / counts.clamp_min(1), 0)
    widths = {m: dim // (mixed or {}).get(m, 1) for m, dim in dims.items()}
    model = model_class(config.model.name)(config.model, widths, speakers, counts, weights)
    return LayerMixed(model, mixed) if mixed else model


def load_model(run: Run, speakers: int, class_counts: np.ndarray) -> tuple[Model[Any], dict[str, Normaliser]]:
    """The trained model of a run, on the CPU, and its normalisers by modality.

    Args:
        run: the run.
        speakers, class_counts: see `build_model`.

    Raises:
        UserError: its weights are damaged, not finite, or belong to other settings.
    """

    def build() -> Model[Any]:
        return build_model(run.config, run.dims, speakers, class_counts, run.mixed)

    check_fit(run, build)
    model = build()
    return model, load_weights(run, model)


def predict(
    model: Model[Any], data: Conversations, dialogues: np.ndarray, batch_size: int, arithmetic: str = "float32"
) -> Prediction:
    """Applies a model to dialogues (indices) in evaluation mode; `arithmetic` is `train.precision`."""
    model.eval()
    chosen = torch.from_numpy(np.asarray(dialogues, np.int64))
    # Batches dialogues of similar length, which reduces padding and does not change results.
    chosen = chosen[data.lengths(chosen).argsort(stable=True)]
    rows, logits, losses, weights, own = [], [], [], [], {}
    with inference(arithmetic, data.device):
        for part in chosen.split(batch_size):
            batch = data.batch(part)
            output = model(batch)
            losses.append(model.loss(output, batch))
            rows.append(data.rows(part))
            logits.append(output.logits)
            for modality, alone in getattr(output, "unimodal", {}).items():
                own.setdefault(modality, []).append(torch.where(batch.present[modality], alone.argmax(-1), -1))
            weights.append((batch.labels >= 0).sum())
    with torch.inference_mode():
        probabilities = torch.cat(logits).cpu().double().softmax(-1).numpy()
        losses, weights = torch.stack(losses).cpu().double(), torch.stack(weights).cpu().double()
    rows = torch.cat(rows).numpy()
    order = rows.argsort()
    own = {modality: torch.cat(classes).cpu().numpy()[order] for modality, classes in own.items()}
    return Prediction(rows[order], probabilities[order], own, float((losses * weights).sum() / weights.sum()))


def tabulate(store: FeatureStore, prediction: Prediction) -> Predictions:
    """Combines a prediction with the store's information on its utterances."""
    rows = prediction.rows
    dialogue = store.column("dialogue")[rows]
    return Predictions(
        store.labels,
        list(prediction.own),
        store.column("id")[rows],
        np.array(store.dialogue_ids, object)[dialogue],
        np.array(store.speaker_names, object)[store.column("speaker")[rows]],
        rows - store.offsets[dialogue],
        store.column("label")[rows].astype(np.int64),
        prediction.classes,
        prediction.probabilities,
        np.stack([*prediction.own.values()], 1) if prediction.own else np.empty((len(rows), 0), np.int64),
        store.column("text")[rows],
    )


def score(prediction: Prediction, labels: np.ndarray, names: list[str], class_counts: np.ndarray) -> Measures | None:
    """`erc_toolkit.train.scores.metrics.evaluate` on the labelled utterances of a prediction; None if there are none.

    Args:
        prediction: of some dialogues.
        labels: (N,) labels of the whole store.
        names: names of the classes.
        class_counts: (C,) of the training split; the most frequent one is the majority class.
    """
    true = labels[prediction.rows]
    labelled = true >= 0
    if not labelled.any():
        return None
    return evaluate(true[labelled], prediction.classes[labelled], names, majority=int(np.argmax(class_counts)))


def evaluate_run(
    folder: Path,
    store_path: Path | None,
    split: str,
    device: str,
    notify: Callable[[str], None],
    by: Sequence[str] = (),
) -> Evaluation:
    """Evaluates a finished run on a split of a store.

    Args:
        folder: the run's folder.
        store_path: a store other than the one that the run was trained on.
        split: "train", "val" or "test". Dialogues that training held out for validation count as "val".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        notify: called with lines for the user.
        by: names in `erc_toolkit.train.scores.breakdown.GROUPS`.

    Returns:
        `erc_toolkit.train.scores.metrics.evaluate`'s measures; dialogues, the number of those with a label; intervals
        (`erc_toolkit.train.scores.resampling`), as [low, high]; ece (`erc_toolkit.train.scores.calibration`);
        confusion, C rows of C counts, true class by predicted class; `by`, each requested name to its `breakdown`; and
        run, store, corpus, split, protocol, seed, labels, model, device.

    Raises:
        UserError: run or store cannot be read or do not belong together, or the split has no labelled utterance.
    """
    with opened_run(folder, store_path, device, notify) as opened:
        run, store = opened.run, opened.store
        dialogues = getattr(divide(store, run.facts["validation"]["held_out"]), split)
        if len(dialogues) == 0:
            raise UserError(f"{store.path}: has no {split} split; choose another with --split")
        if split == "val" and run.facts["protocol"] == OPTIMISTIC:
            notify("note: this run was trained on the val split too")
        settings = run.config.train
        prediction = predict(opened.model, opened.data, dialogues, settings.batch_size, settings.precision)
        prediction.check_finite(folder)
        measures = score(prediction, store.column("label"), store.labels, opened.counts)
        if measures is None:
            raise UserError(f"{store.path}: the {split} split has no labelled utterance; choose another with --split")
        table = tabulate(store, prediction)
        return {
            "run": str(folder),
            "store": str(store.path),
            "corpus": store.corpus,
            "split": split,
            "protocol": run.facts["protocol"],
            "seed": run.facts["seed"],
            "model": run.config.model.name,
            "device": device_name(opened.device),
            "labels": store.labels,
            **measures,
            "dialogues": dialogue_count(table),
            "intervals": {name: list(bounds) for name, bounds in intervals([table]).items()},
            "ece": calibrate(table).ece,
            "confusion": confusion_matrix(table).tolist(),
            "by": {name: breakdown(table, name) for name in by},
        }


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A finished run, ready to predict.

    Attributes:
        run: its settings and facts.
        store: open.
        model: with its weights, on the device.
        data: the whole store, normalised as in training.
        counts: (C,) int64, labelled utterances of each class in the training split.
        device: where model and batches are.
    """

    run: Run
    store: FeatureStore
    model: Model[Any]
    data: Conversations
    counts: np.ndarray
    device: torch.device


@contextmanager
def opened_run(
    folder: Path, store_path: Path | None, device: str, notify: Callable[[str], None]
) -> Iterator[OpenedRun]:
    """Opens a run with the store that it was trained on, or another one.

    Raises:
        UserError: run or store cannot be read or do not belong together.
    """
    run = read_run(folder)
    path = store_path or Path(run.facts["store"]["path"])
    if store_path is None and not path.is_file():
        raise UserError(f"{path}: the store that {folder} was trained on no longer exists; choose one with --store")
    target = pick_device(device)
    check_precision(run.config.train.precision, target, f"{folder}: train.precision")
    with FeatureStore.open(path) as store:
        _check_fit(run, store)
        # The names that training chose; features may have been added to the store since.
        for modality, feature in run.facts["features"].items():
            setattr(run.config.data, modality, choice_in(feature))
        run.config.data.modalities = list(run.dims)
        features = choose_features(store, run.config.data)
        trained_on = run.facts["store"]
        if store.content_hash != trained_on["content_sha256"] and (
            store.content_of(part.name for feature in features.values() for part in parts_of(feature))
            != trained_on.get("data_sha256")
        ):
            notify(f"note: {path} is not the data that the run was trained on (its content hash differs)")
        counts = np.array([run.facts["train_label_counts"][label] for label in store.labels])
        model, normalisers = load_model(run, run.facts["speakers"]["slots"], counts)
        given = give_store_speakers(store, LearnedSpeakers.of(model.speaker_use, run.facts["speakers"]))
        if note := given.note():
            notify(note)
        matrices = {m: read_feature(store, f) for m, f in features.items()}
        data = conversations(store, matrices, normalisers, given.speakers)
        notify(f"device: {device_name(target)}, matrix products in {run.config.train.precision}")
        yield OpenedRun(run, store, model.to(target), data.to(target), counts, target)


def _check_fit(run: Run, store: FeatureStore) -> None:
    """Raises a UserError if labels or features of a store are not those that a run was trained on."""
    remedy = f"{run.path} needs the features that it was trained on; choose another --store, or train again"
    if store.labels != run.facts["labels"]:
        raise UserError(
            f"{store.path}: its labels are {', '.join(store.labels)}, but {run.path} was trained on "
            f"{', '.join(run.facts['labels'])}; choose another --store, or train again"
        )
    parts = [(m, part) for m, feature in run.facts["features"].items() for part in parts_in(feature)]
    for modality, wanted in parts:
        if wanted["name"] not in store.feature_names():
            has = (
                ", ".join(n for n in store.feature_names() if n.startswith(f"{modality}/")) or f"no {modality} feature"
            )
            raise UserError(f"{store.path}: has no feature {wanted['name']} (it has {has}); {remedy}")
        if (dim := store.feature(wanted["name"]).dim) != wanted["dim"]:
            raise UserError(f"{store.path}: {wanted['name']} has {dim} dimensions, not {wanted['dim']}; {remedy}")
    for trained in run.facts["features"].values():
        name = parts_in(trained)[0]["name"]
        if (used := used_layers(trained)) is not None and (layers := store.feature(name).layers) != used.count:
            raise UserError(f"{store.path}: {name} has {counted(layers, 'layer')}, not {used.count}; {remedy}")
