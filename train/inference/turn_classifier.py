"""Applies a trained run to the features of a new recording: the emotion of each turn, overall and per modality."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ...toolkit.base.device import check_precision, device_name, inference, pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.predict.turns import Media, Turn
from ...toolkit.store import Feature, FeatureStore
from ...toolkit.store.reduction import apply_reduction
from ..config import model_in_words
from ..data.batch import Batch, Conversations
from ..data.features import Speakers, conversations, read_feature
from ..data.joined import join
from ..data.provenance import FeatureFacts, check_same, options_of, parts_in, provenance_of
from ..data.speakers import LearnedSpeakers, give_speakers, give_store_speakers
from ..loop.evaluation import load_model, not_finite
from ..loop.run_folder import Run, load_reductions, read_run
from ..reports.recording_page import recording_page
from ..reports.run_page import page_edges
from .model_paths import resolve_models


def extraction_of(folder: Path, replaced: Collection[str] = ()) -> tuple[dict[str, dict[str, object]], list[str]]:
    """How a run's features are extracted from a recording.

    Args:
        folder: a run folder or a package.
        replaced: names of options that the caller replaces.

    Returns:
        A mapping of modality to its extraction options, with absolute paths for files in a package; and the labels.

    Raises:
        UserError: there is no run, its features cannot be reproduced, or a path of a package leads out of it.
    """
    run = read_run(folder)
    made = options_of(folder, run.facts["features"])
    for options in made.values():
        resolve_models(folder, options, replaced)
    return made, list(run.facts["labels"])


class TurnClassifier:
    """A trained model for inference on recordings. `turns` may be called repeatedly with different stores.

    Args:
        folder: a run folder or a package.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        notify: called with each line of progress.

    Raises:
        UserError: the folder does not contain a finished run.
    """

    def __init__(self, folder: Path, device: str, notify: Callable[[str], None]) -> None:
        self.run: Run = read_run(folder)
        self.target = pick_device(device)
        self.precision = self.run.config.train.precision
        check_precision(self.precision, self.target, f"{folder}: train.precision")
        self._notify = notify
        facts = self.run.facts
        counts = np.array([facts["train_label_counts"][label] for label in facts["labels"]])
        self.model, self.normalisers = load_model(self.run, facts["speakers"]["slots"], counts)
        self.reductions = load_reductions(self.run)
        self.learned = LearnedSpeakers.of(self.model.speaker_use, facts["speakers"])
        self.model.to(self.target).eval()

    @property
    def description(self) -> dict[str, object]:
        """Model, protocol, seed, labels and features, for the header of an output file."""
        facts = self.run.facts
        return {
            "model": self.run.config.model.name,
            "variant": getattr(self.run.config.model, "variant", None),
            "labels": facts["labels"],
            "trained_on": facts["store"]["corpus"],
            "protocol": facts["protocol"],
            "seed": facts["seed"],
            "features": {m: f["name"] for m, f in facts["features"].items()},
            "device": device_name(self.target),
        }

    def speakers(self, names: Sequence[str], chosen: Mapping[str, str]) -> tuple[str, dict[str, object]]:
        """How the model takes the speakers of a recording.

        Args:
            names: the speaker of every turn.
            chosen: see `turns`.

        Returns:
            A line that says so, empty if the model has learned nothing about speakers. And for turns.json: `use`, as in
            `Model.speaker_use`; and, if the model has learned anything about speakers, the names of those (`learned`),
            and for each speaker, as whom it is taken and why (`given`).

        Raises:
            UserError: as for `turns`.
        """
        given = give_speakers(names, [0, len(names)], self.learned, "the transcript", chosen)
        return given.line(), given.facts()

    def turns(
        self,
        store: FeatureStore,
        causal: bool = False,
        chosen: Mapping[str, str] | None = None,
        absent: Mapping[str, Sequence[str]] | None = None,
    ) -> tuple[list[Turn], Batch]:
        """Predicts the emotion of every turn in a store, dialogue by dialogue.

        Args:
            store: an open store; modalities without features in it are treated as absent.
            causal: classify each turn from the dialogue up to it. A model trained as causal always does so; any other
                model is run on each prefix of the dialogue.
            chosen: speaker to the one of the model whose learned parameters apply; for the others see
                `erc_toolkit.train.data.speakers`.
            absent: for a modality without features in the store, the reason of every turn.

        Returns:
            The turns, and the batch of all dialogues, for `attention_edges`.

        Raises:
            UserError: the features are of another model, a choice names a speaker who is not there or whom the model
                does not know, or there are more speakers than the model supports.
        """
        given = give_store_speakers(store, self.learned, chosen)
        if len(store.dialogue_ids) > 1 and (note := given.note()):
            self._notify(note)
        data = self._conversations(store, given.speakers)
        batch = data.batch(torch.arange(len(store.dialogue_ids)))
        logits, alone = [], {m: [] for m in self.run.dims}
        for dialogue in range(len(batch)):
            first, last = (int(i) for i in batch.offsets[dialogue : dialogue + 2])
            whole = not causal or getattr(self.run.config.model, "causal", False)
            for end in [last] if whole else range(first + 1, last + 1):
                with inference(self.precision, self.target):
                    output = self.model(batch.rows(first, end))
                kept = slice(None) if whole else slice(-1, None)
                logits.append(output.logits[kept])
                for modality, own in getattr(output, "unimodal", {}).items():
                    alone[modality].append(own[kept])
        probabilities = torch.cat(logits).cpu().double().softmax(-1).numpy()
        if bad := int((~np.isfinite(probabilities).all(1)).sum()):
            raise UserError(f"{self.run.path}: {not_finite(bad)}")
        own = {m: torch.cat(parts).cpu().double().softmax(-1).numpy() for m, parts in alone.items() if parts}
        return self._turns_of(store, batch, probabilities, own, absent or {}), batch

    def _conversations(self, store: FeatureStore, speakers: Speakers) -> Conversations:
        matrices, dims = {}, self.run.dims
        for modality, trained in self.run.facts["features"].items():
            features = [self._feature(store, modality, part) for part in parts_in(trained)]
            if any(feature is None for feature in features):
                matrices[modality] = np.zeros((len(store), dims[modality]), np.float32), np.zeros(len(store), bool)
                continue
            matrices[modality] = self._matrix(store, modality, [feature for feature in features if feature is not None])
        return conversations(store, matrices, self.normalisers, speakers).to(self.target)

    def _matrix(self, store: FeatureStore, modality: str, features: Sequence[Feature]) -> tuple[np.ndarray, np.ndarray]:
        """Values (N, D) and presence (N,) of a modality, from the features that correspond to the run's."""
        trained, matrices = self.run.facts["features"][modality], []
        for part, feature in zip(parts_in(trained), features, strict=True):
            check_same(modality, part.get("made") or {}, provenance_of(store, feature), self._notify)
            values, present = read_feature(store, feature)
            if modality in self.reductions:
                values = np.where(present[:, None], apply_reduction(self.reductions[modality], values), np.float32(0))
            if values.shape[1] != part["dim"]:
                raise UserError(
                    f"{store.path}: {feature.name} has {values.shape[1]} dimensions, the run's {part['dim']}"
                )
            matrices.append((values, present))
        if len(matrices) == 1:
            return matrices[0]
        present = np.logical_and.reduce([present for _, present in matrices])
        values = join((trained.get("made") or {}).get("joined", ""), [values for values, _ in matrices])
        return np.where(present[:, None], values, np.float32(0)), present

    def _feature(self, store: FeatureStore, modality: str, trained: FeatureFacts) -> Feature | None:
        """The store's feature that corresponds to the run's; None if the store has none of the modality."""
        made = trained.get("made") or {}
        wanted = made.get("reduced_from", trained["name"])
        available = [name for name in store.feature_names() if name.startswith(f"{modality}/")]
        if wanted not in available and len(available) > 1:  # layers of the same encoder from a differently named folder
            available = [name for name in available if store.feature(name).attrs.get("layer") == made.get("layer")]
        name = wanted if wanted in available else available[0] if len(available) == 1 else None
        if name is None and available:
            raise UserError(f"{store.path}: has {', '.join(available)} but not {wanted}, which the run was trained on")
        return None if name is None else store.feature(name)

    def _turns_of(
        self,
        store: FeatureStore,
        batch: Batch,
        probabilities: np.ndarray,
        own: dict[str, np.ndarray],
        absent: Mapping[str, Sequence[str]],
    ) -> list[Turn]:
        labels, dims = self.run.facts["labels"], self.run.dims
        ids, text, start, end = (store.column(name) for name in ("id", "text", "start_s", "end_s"))
        speakers = [store.speaker_names[s] for s in store.column("speaker")]
        present = {m: batch.present[m].cpu().numpy() for m in dims}
        reasons = {}
        for modality, trained in self.run.facts["features"].items():
            feature = self._feature(store, modality, parts_in(trained)[0])
            unknown = ["no features"] * len(store)
            reasons[modality] = absent.get(modality, unknown) if feature is None else feature.reasons()
        turns = []
        for i, row in enumerate(probabilities):
            best = int(row.argmax())
            opinions = {
                m: (labels[int(p[i].argmax())], float(p[i].max())) if present[m][i] else None for m, p in own.items()
            }
            missing = {m: str(reasons[m][i]) for m in dims if not present[m][i]}
            turns.append(
                Turn(
                    str(ids[i]),
                    speakers[i],
                    str(text[i]),
                    float(start[i]),
                    float(end[i]),
                    labels[best],
                    float(row[best]),
                    {label: float(p) for label, p in zip(labels, row, strict=True)},
                    opinions,
                    missing,
                )
            )
        return turns

    def page(self, media: Media, turns: list[Turn], batch: Batch, facts: list[tuple[str, str]], causal: bool) -> str:
        """The report on a recording, as HTML."""
        edges: dict[str, dict[str, list[list[int]]]] = {}
        # With `causal`, a model that is not causal has classified each turn in a prefix of the dialogue.
        if not causal or getattr(self.run.config.model, "causal", False):
            edges = page_edges(self.model, batch)
        run = self.run.facts
        shown = [
            *facts,
            ("trained on", f"{run['store']['corpus']}, epoch selected by {run['protocol']}, seed {run['seed']}"),
            ("model", model_in_words(self.run.config.model)),
            ("device", device_name(self.target)),
        ]
        return recording_page(media, turns, edges, shown, list(run["labels"]), run["store"]["corpus"])
