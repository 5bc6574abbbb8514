"""From a feature store to `erc_toolkit.train.data.batch.Conversations`: features, speakers, splits, normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...toolkit.base import holding_out as rule
from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import MODALITIES
from ...toolkit.store import FeatureStore
from ..settings import DataConfig
from .batch import Conversations
from .joined import AnyFeature, choose_feature, is_demanded

_ROWS = 2048  # at a time, where float64 copies are made


def choose_features(store: FeatureStore, config: DataConfig) -> dict[str, AnyFeature]:
    """The feature of each modality that a run uses, in the order text, audio, visual; see `joined.choose_feature`.

    Raises:
        UserError: the store lacks a requested modality or feature, has several features of a modality and none is
            chosen or preferred, or has no features at all.
    """
    available = {m: [n for n in store.feature_names() if n.split("/")[0] == m] for m in MODALITIES}
    wanted = config.modalities or [m for m in MODALITIES if available[m] or is_demanded(getattr(config, m))]
    if not wanted:
        raise UserError(f"{store.path}: has no text, audio or visual features; extract some first")
    chosen = {}
    for modality in (m for m in MODALITIES if m in wanted):
        feature = choose_feature(store, modality, getattr(config, modality))
        if feature is None:
            have = ",".join(m for m in MODALITIES if available[m])
            remedy = f"use --set data.modalities={have} or extract it" if have else "extract some first"
            raise UserError(f"{store.path}: has no {modality} feature; {remedy}")
        chosen[modality] = feature
    return chosen


@dataclass(frozen=True, slots=True)
class Speakers:
    """Speaker indices of every utterance.

    Attributes:
        index: (N,) int64, below `slots`; or -1, see `erc_toolkit.train.data.speakers`.
        slots: size of the speaker table without its padding row.
        names: name of each index if indices identify speakers of the corpus; empty if they give the order of appearance
            in the dialogue.
        people: (N,) int64, equal within a dialogue for the same person only; None if that is `index`.
    """

    index: np.ndarray
    slots: int
    names: list[str]
    people: np.ndarray | None = None


def speaker_indices(store: FeatureStore, config: DataConfig) -> Speakers:
    """Indexes speakers for training, according to `data.speakers`; for a trained model see `data/speakers.py`.

    Args:
        store: an open store.
        config: `speakers` and `speaker_slots`.

    Raises:
        UserError: there are more speakers than slots.
    """
    speaker = store.column("speaker").astype(np.int64)
    if config.speakers == "corpus":
        names, index = store.speaker_names, speaker
    else:
        names, index = [], np.empty_like(speaker)
        for start, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
            _, first, inverse = np.unique(speaker[start:end], return_index=True, return_inverse=True)
            index[start:end] = np.argsort(np.argsort(first))[inverse]
    needed = max(int(index.max()) + 1, len(names))
    slots = needed if config.speaker_slots is None else config.speaker_slots
    if needed > slots:
        where = "in the store" if config.speakers == "corpus" else "in one dialogue"
        other = " or --set data.speakers=dialogue" if config.speakers == "corpus" else ""
        raise UserError(
            f"{store.path}: {needed} speakers {where}, but data.speaker_slots is {slots}; "
            f"train with --set data.speaker_slots=null{other}"
        )
    return Speakers(index, slots, names)


@dataclass(slots=True)
class Division:
    """Dialogue indices of each split, int64 arrays, and the source of the validation split.

    Attributes:
        held_out: ids of training dialogues that are held out for validation; empty if the store has a "val" split.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    held_out: list[str]


def divide(store: FeatureStore, held_out: Sequence[str] = ()) -> Division:
    """The store's splits; training dialogues whose id is in `held_out` count as validation.

    Raises:
        UserError: a dialogue is in two splits.
    """
    split, starts = store.column("split"), store.offsets[:-1]
    first = split[starts]
    expected = np.repeat(first, np.diff(store.offsets))
    if (mixed := split != expected).any():
        row = int(mixed.argmax())
        dialogue = store.dialogue_ids[int(np.searchsorted(store.offsets, row, "right")) - 1]
        raise UserError(
            f"{store.path}: dialogue {dialogue!r} is in two splits ({expected[row]}, {split[row]}); extract it again"
        )
    if held_out:
        first = np.where(
            (first == "train") & np.isin(np.array(store.dialogue_ids, object), list(held_out)), "val", first
        )
    train, val, test = (np.flatnonzero(first == name) for name in ("train", "val", "test"))
    return Division(train, val, test, list(held_out))


def divide_for_training(store: FeatureStore, config: DataConfig, best_on_test: bool) -> Division:
    """Splits for training; the training and validation splits leave out dialogues without any label.

    With `best_on_test`, the training split includes the validation dialogues, as in published scripts. Otherwise, if
    the store has no labelled "val" dialogue, `data.val_fraction` of the training dialogues are held out (at least one),
    the same ones for every seed.

    Raises:
        UserError: there is no labelled training dialogue, or none for selection, or only one for both.
    """
    division = divide(store)
    labelled = np.add.reduceat(store.column("label") >= 0, store.offsets[:-1]) > 0
    train, val = division.train[labelled[division.train]], division.val[labelled[division.val]]
    if best_on_test:
        train, val = np.sort(np.concatenate([train, val])), val[:0]
        if not labelled[division.test].any():
            raise UserError(f"{store.path}: no labelled test dialogue, which train.protocol=best-on-test selects on")
    if len(train) == 0:
        raise UserError(f"{store.path}: no labelled dialogue in the train split; nothing to learn from")
    held_out = []
    if not best_on_test and len(val) == 0:
        if len(train) < 2:
            raise UserError(
                f"{store.path}: one labelled training dialogue cannot be used for both training and validation"
            )
        drawn = rule.held_out(len(train), config.val_fraction)
        val = np.sort(train[drawn])
        train = np.delete(train, drawn)
        held_out = [store.dialogue_ids[d] for d in val]
    return Division(train, val, division.test, held_out)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Computes (x - mean) * scale, with mean and scale (D,) float64, and clips it to ±clip unless that is None."""

    mean: np.ndarray
    scale: np.ndarray
    clip: float | None = None

    @classmethod
    def fit(cls, values: np.ndarray, rows: np.ndarray, clip: float | None = None) -> Normaliser:
        """Fits mean and inverse standard deviation on some rows of (N, D) values.

        A dimension that is constant there, up to rounding, has scale 0: it carries no information, and its inverse
        deviation would inflate the values of other splits. Without rows, every dimension counts as constant.
        """
        total = np.zeros(values.shape[1])
        for start in range(0, len(rows), _ROWS):
            total += values[rows[start : start + _ROWS]].sum(0, dtype=np.float64)
        mean = total / max(len(rows), 1)
        square = np.zeros(values.shape[1])
        for start in range(0, len(rows), _ROWS):
            square += ((values[rows[start : start + _ROWS]] - mean) ** 2).sum(0)
        deviation = np.sqrt(square / max(len(rows), 1))
        varies = deviation > np.maximum(1e-6 * np.abs(mean), 1e-20)
        return cls(mean, np.where(varies, 1 / np.where(varies, deviation, 1), 0), clip)

    @classmethod
    def identity(cls, dim: int) -> Normaliser:
        """A normaliser that changes nothing."""
        return cls(np.zeros(dim), np.ones(dim))

    def apply(self, values: np.ndarray) -> None:
        """Normalises (N, D) float32 in place."""
        for start in range(0, len(values), _ROWS):
            normal = (values[start : start + _ROWS] - self.mean) * self.scale
            values[start : start + _ROWS] = normal if self.clip is None else normal.clip(-self.clip, self.clip)


def read_feature(store: FeatureStore, feature: AnyFeature) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, D) float32 and presence (N,) bool of a feature.

    Raises:
        UserError: a present row contains NaN or infinity.
    """
    values, present = feature.values(), feature.present()
    finite = np.concatenate([np.isfinite(values[i : i + _ROWS]).all(1) for i in range(0, len(values), _ROWS)])
    if (bad := np.flatnonzero(present & ~finite)).size:
        names = ", ".join(map(str, store.column("id")[bad[:5]])) + (", …" if len(bad) > 5 else "")
        utterances = f"{counted(len(bad), 'utterance')} ({names})"
        raise UserError(f"{store.path}: {feature.name} contains NaN or infinity for {utterances}; extract it again")
    values[~present] = 0
    return values, present


def fit_normalisers(
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]], rows: np.ndarray, how: str, clip: float | None = None
) -> dict[str, Normaliser]:
    """A normaliser for each modality's (values, presence), fitted on those of the given rows that are present.

    Args:
        matrices: modality to what `read_feature` returns.
        rows: indices of the training split's utterances.
        how: "zscore" or "none".
        clip: largest magnitude of a value normalised by "zscore"; None for no bound.
    """
    if how == "none":
        return {m: Normaliser.identity(values.shape[1]) for m, (values, _) in matrices.items()}
    return {m: Normaliser.fit(values, rows[present[rows]], clip) for m, (values, present) in matrices.items()}


def conversations(
    store: FeatureStore,
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]],
    normalisers: Mapping[str, Normaliser],
    speakers: Speakers,
) -> Conversations:
    """Assembles a whole store for batching; normalises the matrices in place."""
    for modality, (values, present) in matrices.items():
        normalise(values, present, normalisers[modality])
    return assembled(store, matrices, speakers)


def normalise(values: np.ndarray, present: np.ndarray, normaliser: Normaliser) -> None:
    """Normalises (N, D) float32 in place; rows that are not present, (N,) bool, become zero."""
    normaliser.apply(values)
    values[~present] = 0


def assembled(
    store: FeatureStore, matrices: Mapping[str, tuple[np.ndarray, np.ndarray]], speakers: Speakers
) -> Conversations:
    """Assembles a whole store for batching, of matrices that are normalised."""
    return Conversations(
        {m: values for m, (values, _) in matrices.items()},
        {m: present for m, (_, present) in matrices.items()},
        speakers.index,
        store.column("label"),
        store.offsets,
        speakers.people,
    )


def rows_of(offsets: np.ndarray, dialogues: np.ndarray) -> np.ndarray:
    """Indices of the utterances of some dialogues, in the store's order."""
    chosen = np.zeros(len(offsets) - 1, bool)
    chosen[dialogues] = True
    return np.flatnonzero(np.repeat(chosen, np.diff(offsets)))


def label_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Utterances of each class, (C,) int64; those without a label (-1) are not counted."""
    return np.bincount(labels[labels >= 0], minlength=classes)
