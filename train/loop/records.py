"""What training writes as YAML and JSON: facts in config.yaml, lines of metrics.jsonl, result.json, summary.json.

Keys are written in the order of the fields of these classes.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ..data.provenance import FeatureFacts
from ..scores.metrics import Measures, Spread


class SplitSize(TypedDict):
    """Size of a split."""

    dialogues: int
    utterances: int


class FeatureChoice(TypedDict):
    """A feature that training uses: its name in the store and its width; `layers`, if learned weights mix so many."""

    name: str
    dim: int
    layers: NotRequired[int]


class PlanDescription(TypedDict):
    """What `train --dry-run --json` prints."""

    model: str
    variant: str | None
    parameters: int
    trainable_parameters: int
    store: str
    corpus: str
    labels: list[str]
    features: dict[str, FeatureChoice]
    speaker_slots: int
    splits: dict[str, SplitSize]
    protocol: str
    config: dict[str, dict[str, object]]


class StoreFacts(TypedDict):
    """The store that a run was trained on.

    `content_sha256` is of all of it, `data_sha256` of the part that training uses (`FeatureStore.content_of`); runs of
    earlier versions have none.
    """

    path: str
    corpus: str
    content_sha256: str
    data_sha256: NotRequired[str]


class SpeakerFacts(TypedDict):
    """Size of the speaker table and, if indices identify speakers of the corpus, the names in index order."""

    slots: int
    names: list[str]


class ValidationFacts(TypedDict):
    """The source of the validation split, and the ids of dialogues held out for it."""

    source: str
    held_out: list[str]


class SelectedEpoch(TypedDict):
    """The epoch whose weights the run contains, and the split on which it was best."""

    epoch: int
    split: str
    weighted_f1: float
    protocol: str


class RunFacts(TypedDict):
    """Section `run` of a run's config.yaml; `selected` is present once training has finished.

    `revision` is the commit of the toolkit, None for a release; runs of earlier versions have none.
    """

    toolkit_version: str
    revision: NotRequired[str | None]
    torch_version: str
    device: str
    store: StoreFacts
    features: dict[str, FeatureFacts]
    labels: list[str]
    train_label_counts: dict[str, int]
    speakers: SpeakerFacts
    splits: dict[str, SplitSize]
    validation: ValidationFacts
    protocol: str
    seed: int
    parameters: int
    trainable_parameters: int
    selected: NotRequired[SelectedEpoch]


class SplitScores(TypedDict):
    """An epoch's loss (None if it is not finite: JSON has no NaN) and measures on the selection split."""

    loss: float | None
    accuracy: float
    weighted_f1: float
    weighted_precision: float
    macro_f1: float


class EpochMeans(TypedDict):
    """One pass over the training split.

    `loss` is the mean over steps; `lr` that of the last step; `grad_norm` the mean norm of the gradients before
    clipping, None if train.max_grad_norm is None; `modality_dropout` the mean dropout probability of each modality over
    the steps that used it, None if no step did.
    """

    loss: float
    lr: float
    grad_norm: float | None
    modality_dropout: dict[str, float] | None


class EpochLine(EpochMeans):
    """A line of metrics.jsonl, with scores of the selection split, `val` or `test`; of both with train.track_test."""

    epoch: int
    val: NotRequired[SplitScores]
    test: NotRequired[SplitScores]
    protocol: str
    seconds: float


class SelectedMeasures(Measures):
    """The measures of the selected epoch on the selection split."""

    epoch: int
    split: str


class TrainResult(TypedDict):
    """The result of training; `test` is None if the store has no test split or no labels in it.

    `peak_memory`: most bytes at once during training: of the GPU, if it was on one; otherwise of the whole process,
    with the libraries and the features. None where the system does not tell. `layer_weights`: modality to the shares of
    its layers, from layer 0, which sum to 1, for modalities with `layers: learned`.
    """

    run: str
    protocol: str
    seed: int
    device: str
    parameters: int
    seconds: float
    epochs: int
    selected: SelectedMeasures
    test: Measures | None
    peak_memory: NotRequired[int | None]
    layer_weights: NotRequired[dict[str, list[float]]]


class ResultRecord(TypedDict):
    """result.json: hashes of the inputs of training, and its result."""

    fingerprint: dict[str, str]
    result: TrainResult


class SeedsSummary(TypedDict):
    """summary.json of several seeds; `selected` and `test` map measures to their spread."""

    protocol: str
    seeds: list[int]
    runs: list[str]
    selected: dict[str, Spread]
    test: dict[str, Spread] | None


def scores_of(line: EpochLine, split: str) -> SplitScores:
    """An epoch's scores on the selection split, "val" or "test"; KeyError if the line has none."""
    scores = line.get("test") if split == "test" else line.get("val")
    if scores is None:
        raise KeyError(split)
    return scores
