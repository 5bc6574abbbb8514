"""Applies a trained run to the features of a new recording: the emotion of each turn, overall and per modality."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from ...toolkit.base.device import check_precision, device_name, inference, pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.predict.turns import Media, SpokenTurn, Turn
from ...toolkit.store import Feature, FeatureStore
from ...toolkit.store.reduction import apply_reduction
from ..config import model_in_words
from ..data.batch import Batch
from ..data.features import conversations, read_feature
from ..data.joined import join
from ..data.layered import pick_layers, used_layers
from ..data.provenance import check_same, options_of, parts_in, provenance_of
from ..data.speakers import LearnedSpeakers, give_speakers, give_store_speakers
from ..loop.evaluation import load_model, not_finite
from ..loop.run_folder import Run, load_reductions, read_run
from ..reports.recording_page import recording_page
from ..reports.run_page import page_edges
from .causal import CausalDialogue
from .live_turns import DeclaredFeatures, LiveTurns, find_feature
from .model_paths import resolve_models

Matrices = Mapping[str, tuple[np.ndarray, np.ndarray]]
# Probabilities (N, C) of each turn, and from each modality alone.
Predictions = tuple[np.ndarray, dict[str, np.ndarray]]


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
        self.notify = notify
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
        past: int | None = None,
    ) -> tuple[list[Turn], Batch]:
        """Predicts the emotion of every turn in a store, dialogue by dialogue.

        Args:
            store: an open store; modalities without features in it are treated as absent.
            causal: classify each turn from the dialogue up to it, by a run of the model on each prefix. A model trained
                as causal does so anyway, but for rounding: in one run on the whole dialogue.
            chosen: speaker to the one of the model whose learned parameters apply; for the others see
                `erc_toolkit.train.data.speakers`.
            absent: for a modality without features in the store, the reason of every turn.
            past: if causal, the number of turns before it that a turn is classified from; None for all.

        Returns:
            The turns, and the batch of all dialogues, for `attention_edges`.

        Raises:
            UserError: the features are of another model, a choice names a speaker who is not there or whom the model
                does not know, or there are more speakers than the model supports.
        """
        given = give_store_speakers(store, self.learned, chosen)
        if len(store.dialogue_ids) > 1 and (note := given.note()):
            self.notify(note)
        matrices = self._matrices(store, causal)
        data = conversations(store, matrices, self.normalisers, given.speakers).to(self.target)
        batch = data.batch(torch.arange(len(store.dialogue_ids)))
        if causal:
            probabilities, own = self._turn_by_turn(store, matrices, chosen or {}, past)
        else:
            probabilities, own = self._dialogue_by_dialogue(batch)
        if bad := int((~np.isfinite(probabilities).all(1)).sum()):
            raise UserError(f"{self.run.path}: {not_finite(bad)}")
        return self._turns_of(store, batch, probabilities, own, absent or {}), batch

    def live(
        self, features: Mapping[str, Mapping[str, object]], chosen: Mapping[str, str], past: int | None = None
    ) -> LiveTurns:
        """The same for turns that come one after the other: `turns` with `causal` gives equal numbers on the CPU.

        Args:
            features: name of each matrix that turns will have to its attributes, as a store would have them.
            chosen, past: as for `turns`.

        Raises:
            UserError: the features are of another model, or a choice names a speaker whom the model does not know.
        """
        return LiveTurns(self, DeclaredFeatures(features), chosen, past)

    @property
    def most_speakers(self) -> int | None:
        """How many people a dialogue may have at most; None for any number."""
        return len(self.learned.names) if self.learned.use == "index" else None

    def dialogue(self, chosen: Mapping[str, str], past: int | None) -> CausalDialogue:
        """A dialogue without turns; arguments as for `turns`."""
        return CausalDialogue(self.model, self.learned, chosen, self.precision, self.target, past)

    def _dialogue_by_dialogue(self, batch: Batch) -> Predictions:
        logits, alone = [], {m: [] for m in self.run.dims}
        for dialogue in range(len(batch)):
            first, last = (int(i) for i in batch.offsets[dialogue : dialogue + 2])
            with inference(self.precision, self.target):
                output = self.model(batch.rows(first, last))
            logits.append(output.logits)
            for modality, own in getattr(output, "unimodal", {}).items():
                alone[modality].append(own)
        probabilities = torch.cat(logits).cpu().double().softmax(-1).numpy()
        return probabilities, {
            m: torch.cat(parts).cpu().double().softmax(-1).numpy() for m, parts in alone.items() if parts
        }

    def _turn_by_turn(
        self, store: FeatureStore, matrices: Matrices, chosen: Mapping[str, str], past: int | None
    ) -> Predictions:
        names = [store.speaker_names[i] for i in store.column("speaker")]
        found = []
        for first, last in pairwise(int(i) for i in store.offsets):
            dialogue = self.dialogue(chosen, past)
            for i in range(first, last):
                row = {m: values[i] for m, (values, _) in matrices.items()}
                found.append(dialogue.add(names[i], row, {m: bool(there[i]) for m, (_, there) in matrices.items()}))
        own = {m: np.stack([alone[m] for _, alone in found]) for m in found[0][1]}
        return np.stack([whole for whole, _ in found]), own

    def _matrices(self, store: FeatureStore, causal: bool) -> Matrices:
        matrices, dims = {}, self.run.dims
        for modality, trained in self.run.facts["features"].items():
            features = [find_feature(store, modality, part) for part in parts_in(trained)]
            if any(feature is None for feature in features):
                matrices[modality] = np.zeros((len(store), dims[modality]), np.float32), np.zeros(len(store), bool)
                continue
            found = [feature for feature in features if feature is not None]
            matrices[modality] = self._matrix(store, modality, found, causal)
        return matrices

    def _matrix(
        self, store: FeatureStore, modality: str, features: Sequence[Feature], causal: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (N, D) and presence (N,) of a modality, from the features that correspond to the run's."""
        trained, matrices = self.run.facts["features"][modality], []
        for part, feature in zip(parts_in(trained), features, strict=True):
            check_same(modality, part.get("made") or {}, provenance_of(store, feature), self.notify)
            values, present = read_feature(store, feature)
            values = self.reduced(modality, values, present, one_by_one=causal)
            if values.shape[1] != part["dim"]:
                raise UserError(
                    f"{store.path}: {feature.name} has {values.shape[1]} dimensions, the run's {part['dim']}"
                )
            matrices.append((values, present))
        present = np.logical_and.reduce([present for _, present in matrices])
        return self.joined(modality, [values for values, _ in matrices], present), present

    def reduced(self, modality: str, values: np.ndarray, present: np.ndarray, one_by_one: bool) -> np.ndarray:
        """Values (N, S) of a feature as the run uses them, (N, D); `one_by_one` in N products instead of one."""
        if modality not in self.reductions:
            return values
        parts = [values[i : i + 1] for i in range(len(values))] if one_by_one else [values]
        reduced = np.concatenate([apply_reduction(self.reductions[modality], part) for part in parts])
        return np.where(present[:, None], reduced, np.float32(0))

    def joined(self, modality: str, matrices: Sequence[np.ndarray], present: np.ndarray) -> np.ndarray:
        """The features that a modality consists of, as the run joins them or picks their layers.

        Args:
            modality: of the run.
            matrices: each (N, S), of the widths that the run's facts name.
            present: (N,) bool, whether an utterance has all of them.

        Returns:
            float32 (N, D), zeros where one is not present.
        """
        trained = self.run.facts["features"][modality]
        if len(matrices) == 1:
            used = used_layers(trained)
            return matrices[0] if used is None else pick_layers(matrices[0], used.layers, used.count)
        how = (trained.get("made") or {}).get("joined", "")
        return np.where(present[:, None], join(how, matrices), np.float32(0))

    def _turns_of(
        self,
        store: FeatureStore,
        batch: Batch,
        probabilities: np.ndarray,
        own: dict[str, np.ndarray],
        absent: Mapping[str, Sequence[str]],
    ) -> list[Turn]:
        dims = self.run.dims
        ids, text, start, end = (store.column(name) for name in ("id", "text", "start_s", "end_s"))
        speakers = [store.speaker_names[s] for s in store.column("speaker")]
        present = {m: batch.present[m].cpu().numpy() for m in dims}
        reasons = {}
        for modality, trained in self.run.facts["features"].items():
            feature = find_feature(store, modality, parts_in(trained)[0])
            unknown = ["no features"] * len(store)
            reasons[modality] = absent.get(modality, unknown) if feature is None else feature.reasons()
        turns = []
        for i, row in enumerate(probabilities):
            spoken = SpokenTurn(str(ids[i]), speakers[i], str(text[i]), float(start[i]), float(end[i]))
            alone = {m: p[i] if present[m][i] else None for m, p in own.items()}
            missing = {m: str(reasons[m][i]) for m in dims if not present[m][i]}
            turns.append(self.turn(spoken, row, alone, missing))
        return turns

    def turn(
        self, spoken: SpokenTurn, row: np.ndarray, alone: Mapping[str, np.ndarray | None], missing: Mapping[str, str]
    ) -> Turn:
        """A turn with its prediction.

        Args:
            spoken: the turn.
            row: float64 (C,), the emotions' probabilities.
            alone: modality to the probabilities from it alone; None if the turn does not have it.
            missing: modality to the reason why the turn does not have it.
        """
        labels = self.run.facts["labels"]
        best = int(row.argmax())
        return Turn(
            spoken.id,
            spoken.speaker,
            spoken.text,
            spoken.start,
            spoken.end,
            labels[best],
            float(row[best]),
            {label: float(p) for label, p in zip(labels, row, strict=True)},
            {m: None if p is None else (labels[int(p.argmax())], float(p.max())) for m, p in alone.items()},
            dict(missing),
        )

    def page(
        self, media: Media, turns: list[Turn], batch: Batch | None, facts: list[tuple[str, str]], causal: bool
    ) -> str:
        """The report on a recording, as HTML; without a batch it does not show what turns attend to."""
        edges: dict[str, dict[str, list[list[int]]]] = {}
        # With `causal`, a model that is not causal has classified each turn in a prefix of the dialogue.
        if batch is not None and (not causal or getattr(self.run.config.model, "causal", False)):
            edges = page_edges(self.model, batch)
        run = self.run.facts
        shown = [
            *facts,
            ("trained on", f"{run['store']['corpus']}, epoch selected by {run['protocol']}, seed {run['seed']}"),
            ("model", model_in_words(self.run.config.model)),
            ("device", device_name(self.target)),
        ]
        return recording_page(media, turns, edges, shown, list(run["labels"]), run["store"]["corpus"])
