"""What a feature store holds, how it was made, and what is missing and why."""

from __future__ import annotations

import json
from collections import Counter


def summarise(store, missing: bool = False) -> dict:
    """What `info --json` prints.

    Args:
        store: an open `FeatureStore`.
        missing: also list the utterances that lack each feature.

    Returns:
        corpus, utterances, dialogues, speakers, splits (name to utterances and dialogues), labels (in index order),
        label_counts (split to label to utterances; "" counts those without a label), features ("modality/name" to
        dim, present, reasons, and how it was made) and made (version, command line, time, content hash).
    """
    split, label = store.column("split"), store.column("label")
    heads = store.offsets[:-1]
    names = [s for s in ("train", "val", "test") if (split == s).any()]
    features = {}
    for name in store.feature_names():
        feature = store.feature(name)
        reasons = feature.reasons()
        features[name] = {
            "dim": feature.dim,
            "present": int(feature.present().sum()),
            "reasons": dict(Counter(r.split(":")[0] for r in reasons if r).most_common()),
            "made": {k: unpacked(v) for k, v in feature.attrs.items()},
        }
        if missing:
            ids = store.column("id")
            features[name]["missing"] = {str(i): r for i, r in zip(ids, reasons) if r}
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
    """A feature's attribute as it was before it became text: what is JSON of an object or a list, parsed."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
