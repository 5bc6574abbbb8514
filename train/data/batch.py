"""Batches of concatenated dialogues, the input of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class Batch:
    """B dialogues, one after the other, N utterances in all; nothing is padded.

    Attributes:
        features: modality to [N, D] float; zeros where not present.
        present: modality to [N] bool.
        speakers: [N] int64.
        labels: [N] int64; -1 if there is no label.
        dialogue: [N] int64, number of the utterance's dialogue in the batch, ascending.
        offsets: [B + 1] int64, always on the CPU; utterances of dialogue b are offsets[b]:offsets[b + 1].
    """

    features: dict[str, Tensor]
    present: dict[str, Tensor]
    speakers: Tensor
    labels: Tensor
    dialogue: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        """The number of dialogues."""
        return len(self.offsets) - 1

    def rows(self, start: int, end: int) -> Batch:
        """Utterances from start to end, even if that cuts dialogues."""
        first, last = (int(torch.searchsorted(self.offsets, at, right=True)) - 1 for at in (start, end - 1))
        offsets = self.offsets[first : last + 2].clamp(start, end) - start
        return Batch(
            {m: x[start:end] for m, x in self.features.items()},
            {m: x[start:end] for m, x in self.present.items()},
            self.speakers[start:end],
            self.labels[start:end],
            self.dialogue[start:end] - first,
            offsets,
        )


class Conversations:
    """Every utterance of a store in memory; `batch` selects dialogues from it.

    Args:
        features: modality to (N, D) float32.
        present: modality to (N,) bool.
        speakers: (N,) int.
        labels: (N,) int, -1 for none.
        offsets: (number of dialogues + 1,) int, rows of dialogue d are offsets[d]:offsets[d + 1].
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        present: Mapping[str, np.ndarray],
        speakers: np.ndarray,
        labels: np.ndarray,
        offsets: np.ndarray,
    ) -> None:
        self.offsets = torch.from_numpy(np.asarray(offsets, np.int64))
        self._features = {m: torch.from_numpy(x) for m, x in features.items()}
        self._present = {m: torch.from_numpy(x) for m, x in present.items()}
        self._speakers = torch.from_numpy(np.asarray(speakers, np.int64))
        self._labels = torch.from_numpy(np.asarray(labels, np.int64))
        self._device = torch.device("cpu")

    @property
    def resident(self) -> bool:
        """Whether all data is on the device of the batches."""
        return self._labels.device.type == self._device.type

    def to(self, device: torch.device, spare: float = 0.5) -> Conversations:
        """Sets the device of batches, and moves all data there if it fits.

        Args:
            device: of every tensor of a batch except `offsets`.
            spare: share of a CUDA device's free memory that the features may take. If they need more, they stay in host
                memory and each batch is copied separately, through pinned memory.
        """
        self._device = device
        if device.type == "cuda":
            size = sum(x.nbytes for x in self._features.values())
            if size > spare * torch.cuda.mem_get_info(device)[0]:
                return self
        self._change(lambda x: x.to(device))
        return self

    def _change(self, how) -> None:
        self._features = {m: how(x) for m, x in self._features.items()}
        self._present = {m: how(x) for m, x in self._present.items()}
        self._speakers, self._labels = how(self._speakers), how(self._labels)

    def changed(self, how: Callable[[str, Tensor, Tensor], Tensor]) -> Conversations:
        """The same conversations with other features: `how` takes modality, [N, D] features and [N] presence."""
        other = copy.copy(self)
        other._features = {m: how(m, x, self._present[m]) for m, x in self._features.items()}
        return other

    def lengths(self, dialogues: Tensor) -> Tensor:
        """Utterances of each of the given dialogues."""
        return self.offsets[dialogues + 1] - self.offsets[dialogues]

    def rows(self, dialogues: Tensor) -> Tensor:
        """Row numbers of the utterances of some dialogues, one dialogue after the other, [N] int64 on the CPU."""
        lengths = self.lengths(dialogues)
        ends = lengths.cumsum(0)
        return torch.arange(int(ends[-1])) + (self.offsets[dialogues] - (ends - lengths)).repeat_interleave(lengths)

    def batch(self, dialogues: Tensor) -> Batch:
        """The dialogues of the given indices (int64 on the CPU, [B] with B at least 1)."""
        lengths, rows = self.lengths(dialogues), self.rows(dialogues).to(self._labels.device, non_blocking=True)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        number = torch.arange(len(dialogues)).repeat_interleave(lengths)

        def cut(x: Tensor) -> Tensor:
            x = x.index_select(0, rows)
            if x.device.type != self._device.type:
                x = x.pin_memory()  # otherwise the copy would wait for the device
            return x.to(self._device, non_blocking=True)

        return Batch(
            {m: cut(x) for m, x in self._features.items()},
            {m: cut(x) for m, x in self._present.items()},
            cut(self._speakers),
            cut(self._labels),
            number.to(self._device, non_blocking=True),
            offsets,
        )
