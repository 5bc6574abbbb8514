"""What identifies the data of a run: the rows of a store, their order, and the features that are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ...toolkit.store import Feature, FeatureStore
from .features import read_feature


def data_sha256(store: FeatureStore, features: Iterable[Feature]) -> str:
    """SHA-256 of ids, dialogues, speakers, labels and splits of every utterance, and of the values of some features.

    Unlike `FeatureStore.content_hash`, it does not change if the store gains another feature.
    """
    digest = hashlib.sha256()
    speakers = np.array(store.speaker_names, object)[store.column("speaker")]
    dialogues = np.array(store.dialogue_ids, object)[store.column("dialogue")]
    for column in (store.labels, store.column("id"), dialogues, speakers, store.column("split")):
        digest.update("\0".join(map(str, column)).encode())
        digest.update(b"\1")  # ends a column
    digest.update(np.ascontiguousarray(store.column("label"), np.int64).data)
    for feature in features:
        values, present = read_feature(store, feature)
        digest.update(f"{feature.name}\0{values.shape}\0".encode())
        digest.update(np.ascontiguousarray(values, np.float32).data)
        digest.update(np.ascontiguousarray(present).data)
    return digest.hexdigest()
