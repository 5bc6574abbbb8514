"""The dialogues of a feature store as a PyTorch dataset, for your own models (docs/how-to/features.md has examples).

`erc-toolkit train` does not use it: it keeps the whole store in memory (`erc_toolkit.train.data.batch.Conversations`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import MODALITIES, SPLITS
from ...toolkit.store import Feature, FeatureStore
from ..settings import DataConfig
from .batch import Batch
from .features import divide, speaker_indices


@dataclass(slots=True)
class Dialogue:
    """One dialogue of L utterances.

    Attributes:
        id: id of the dialogue.
        features: modality to [L, D] float32; zeros where not present.
        present: modality to [L] bool.
        speakers: [L] int64, from 0 in the order in which they first speak in the dialogue.
        labels: [L] int64, index into `DialogueDataset.labels`; -1 where there is no label.
        texts: L transcripts.
        utterances: L utterance ids.
    """

    id: str
    features: dict[str, Tensor]
    present: dict[str, Tensor]
    speakers: Tensor
    labels: Tensor
    texts: list[str]
    utterances: list[str]

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self.labels)


@dataclass(slots=True)
class PaddedBatch:
    """B dialogues padded at their ends to the longest, L utterances.

    Attributes:
        features: modality to [B, L, D] float32; zeros where not present and in the padding.
        present: modality to [B, L] bool; False in the padding.
        speakers: [B, L] int64; 0 in the padding.
        labels: [B, L] int64; -1 where there is no label and in the padding.
        mask: [B, L] bool; False in the padding.
        lengths: [B] int64.
    """

    features: dict[str, Tensor]
    present: dict[str, Tensor]
    speakers: Tensor
    labels: Tensor
    mask: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        """The number of dialogues."""
        return len(self.lengths)

    def to(self, device: torch.device | str) -> PaddedBatch:
        """The same batch on a device."""
        features, present = ({m: x.to(device) for m, x in group.items()} for group in (self.features, self.present))
        rest = (x.to(device) for x in (self.speakers, self.labels, self.mask, self.lengths))
        return PaddedBatch(features, present, *rest)


class DialogueDataset(Dataset):
    """The dialogues of a store, or of one of its splits, in the store's order; an item is a `Dialogue`.

    Features are read from the file when an item is accessed. Each process opens the file itself at its first item, so a
    dataset can be pickled and used by DataLoader workers with any start method, even after items have been read. The
    other columns (texts, ids, labels, speakers) are kept in memory.

    Args:
        path: a feature store.
        split: "train", "val" or "test"; None for all dialogues.
        features: names as in `FeatureStore.feature_names`, e.g. ["text/roberta-base"], whose modality is the key in an
            item; or a mapping from keys of your own to such names. None means the only feature of each modality.

    Attributes:
        dims: key of `Dialogue.features` to its width D.
        labels: names of the emotions in index order.
        most_speakers: in one dialogue of the whole store; every index in `Dialogue.speakers` is below it.

    Raises:
        UserError: no readable store; no such feature; several features of a modality and none chosen; no dialogue in
            the split, or no such split. When reading an item: the store has been replaced since, or is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        features: Mapping[str, str] | Iterable[str] | None = None,
    ) -> None:
        self.path = os.path.abspath(path)  # a spawned worker may start in another folder
        with FeatureStore.open(self.path) as store:
            self._names = _names(store, features)
            self.dims = {key: store.feature(name).dim for key, name in self._names.items()}
            self.labels = store.labels
            self._content_hash = store.content_hash
            self._dialogues = _dialogues(store, split)
            self._ids, self._offsets = store.dialogue_ids, store.offsets
            speakers = speaker_indices(store, DataConfig())
            self._speakers, self.most_speakers = torch.from_numpy(speakers.index), speakers.slots
            self._labels = torch.from_numpy(store.column("label").astype(np.int64))
            self._texts, self._utterances = store.column("text").tolist(), store.column("id").tolist()
        self._forget()

    def __len__(self) -> int:
        """The number of dialogues."""
        return len(self._dialogues)

    def __getitem__(self, i: int) -> Dialogue:
        d = self._dialogues[range(len(self))[i]]
        rows = slice(int(self._offsets[d]), int(self._offsets[d + 1]))
        features = self._open()
        return Dialogue(
            self._ids[d],
            {key: torch.from_numpy(np.asarray(f.values(rows), np.float32)) for key, f in features.items()},
            {key: torch.from_numpy(f.present(rows)) for key, f in features.items()},
            self._speakers[rows].clone(),
            self._labels[rows].clone(),
            self._texts[rows],
            self._utterances[rows],
        )

    def close(self) -> None:
        """Closes this process's file if it is open; the next item opens it again."""
        if self._store is not None:
            self._store.close()
        self._forget()

    def _forget(self) -> None:
        self._store: FeatureStore | None = None
        self._process = -1
        self._features: dict[str, Feature] = {}

    def _open(self) -> dict[str, Feature]:
        if self._process != os.getpid():
            # A handle inherited through a fork shares its file position and HDF5's state with the parent's. Closing it
            # here leaves the parent's open; if it stayed open, HDF5 would keep using it for the same file.
            self.close()
            store = FeatureStore.open(self.path)
            if store.content_hash != self._content_hash:
                store.close()
                raise UserError(
                    f"{self.path}: replaced by another store since the dataset was created; create the dataset again"
                )
            features = {key: store.feature(name) for key, name in self._names.items()}
            self._store, self._features, self._process = store, features, os.getpid()
        return self._features

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_store": None, "_process": -1, "_features": {}}


def _names(store: FeatureStore, features: Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    available = store.feature_names()
    if features is None:
        features = [name for modality in MODALITIES for name in available if name.split("/")[0] == modality]
    if isinstance(features, Mapping):
        chosen = dict(features)
    else:
        chosen = {}
        for name in [features] if isinstance(features, str) else features:
            modality = name.split("/")[0]
            if modality in chosen:
                raise UserError(
                    f"{store.path}: {chosen[modality]} and {name} are both {modality}; name one of them, "
                    f"or give both a key: features={{'{modality}': {chosen[modality]!r}, 'other': {name!r}}}"
                )
            chosen[modality] = name
    if not chosen:
        raise UserError(f"{store.path}: no feature was requested; the store has {', '.join(available) or 'none'}")
    return chosen


def _dialogues(store: FeatureStore, split: str | None) -> list[int]:
    if split is None:
        return list(range(len(store.dialogue_ids)))
    if split not in SPLITS:
        raise UserError(f"{store.path}: no split {split!r}; choose from {', '.join(SPLITS)}")
    division = divide(store)
    chosen = getattr(division, split).tolist()
    if not chosen:
        counts = ", ".join(f"{name} {len(getattr(division, name))}" for name in SPLITS)
        raise UserError(f"{store.path}: no dialogue in the split {split!r}; dialogues: {counts}")
    return chosen


def collate_packed(items: Sequence[Dialogue]) -> Batch:
    """Concatenated dialogues, as the toolkit's models take them: a DataLoader's `collate_fn` for at least one item."""
    lengths = torch.tensor([len(item) for item in items])
    return Batch(
        {key: torch.cat([item.features[key] for item in items]) for key in items[0].features},
        {key: torch.cat([item.present[key] for item in items]) for key in items[0].present},
        torch.cat([item.speakers for item in items]),
        torch.cat([item.labels for item in items]),
        torch.arange(len(items)).repeat_interleave(lengths),
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )


def collate_padded(items: Sequence[Dialogue]) -> PaddedBatch:
    """Dialogues padded to the longest: a DataLoader's `collate_fn` for at least one item."""
    lengths = torch.tensor([len(item) for item in items])

    def pad(parts: Iterable[Tensor], value: float = 0) -> Tensor:
        return pad_sequence(list(parts), batch_first=True, padding_value=value)

    return PaddedBatch(
        {key: pad(item.features[key] for item in items) for key in items[0].features},
        {key: pad(item.present[key] for item in items) for key in items[0].present},
        pad(item.speakers for item in items),
        pad((item.labels for item in items), -1),
        torch.arange(int(lengths.max())) < lengths[:, None],
        lengths,
    )
