"""A summary of a feature store: its contents and provenance, and what is missing and why."""

from __future__ import annotations

from collections import Counter
from typing import NotRequired, TypedDict

from ..base.reading.plain_json import parse_json
from .reader import FeatureStore


class SplitCounts(TypedDict):
    """The size of a split."""

    utterances: int
    dialogues: int


class FeatureSummary(TypedDict):
    """One feature: its dimension, how many utterances have it, why the others do not, and its provenance.

    `layers`, if an encoder's layers are side by side in each row, is their number.
    `reasons` counts the reasons by their part before the first colon; `missing`, if requested, maps the id of each
    utterance without the feature to the full reason.
    """

    dim: int
    present: int
    reasons: dict[str, int]
    made: dict[str, object]
    layers: NotRequired[int]
    missing: NotRequired[dict[str, str]]


class StoreSummary(TypedDict):
    """A store: `labels` are in index order; in `label_counts`, "" counts utterances without a label."""

    corpus: str
    utterances: int
    dialogues: int
    speakers: int
    splits: dict[str, SplitCounts]
    labels: list[str]
    label_counts: dict[str, dict[str, int]]
    features: dict[str, FeatureSummary]
    made: dict[str, object]


def summarise(store: FeatureStore, missing: bool = False) -> StoreSummary:
    """The summary that `info --json` prints.

    Args:
        store: an open store.
        missing: also list the utterances without each feature.
    """
    split, label = store.column("split"), store.column("label")
    heads = store.offsets[:-1]
    names = [s for s in ("train", "val", "test") if (split == s).any()]
    features: dict[str, FeatureSummary] = {}
    for name in store.feature_names():
        feature = store.feature(name)
        reasons = feature.reasons()
        features[name] = {
            "dim": feature.dim,
            "present": int(feature.present().sum()),
            "reasons": dict(Counter(r.split(":")[0] for r in reasons if r).most_common()),
            "made": {k: unpacked(v) for k, v in feature.attrs.items()},
        }
        if feature.layers:
            features[name]["layers"] = feature.layers
        if missing:
            ids = store.column("id")
            features[name]["missing"] = {str(i): r for i, r in zip(ids, reasons, strict=True) if r}
    return {
        "corpus": store.corpus,
        "utterances": len(store),
        "dialogues": len(store.dialogue_ids),
        "speakers": len(store.speaker_names),
        "splits": {
            s: {"utterances": int((split == s).sum()), "dialogues": int((split[heads] == s).sum())} for s in names
        },
        "labels": store.labels,
        "label_counts": {
            s: {name: int(((split == s) & (label == i)).sum()) for i, name in [*enumerate(store.labels), (-1, "")]}
            for s in names
        },
        "features": features,
        "made": {k: v for k, v in store.attrs.items() if k != "corpus"},
    }


def unpacked(value: object) -> object:
    """An attribute of a feature with JSON objects and lists parsed, as they were before being stored as strings."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value
