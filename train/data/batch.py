"""Batches of concatenated dialogues, the input of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...toolkit.base.device import to_device
from ..packing import Packing, places


@dataclass(slots=True)
class Batch:
    """B dialogues, one after the other, N utterances in all; nothing is padded.

    Attributes:
        features: modality to [N, D] float; zeros where not present.
        present: modality to [N] bool.
        speakers: [N] int64, whose learned parameters apply; -1, outside training only, for somebody whom the model has
            not learned.
        labels: [N] int64; -1 if there is no label.
        dialogue: [N] int64, number of the utterance's dialogue in the batch, ascending.
        offsets: [B + 1] int64, always on the CPU; utterances of dialogue b are offsets[b]:offsets[b + 1].
        place: [N] int64, position of the utterance in its dialogue; computed from `offsets` if not given.
        longest: number of utterances of the longest dialogue; likewise. In a batch of `padded`, an upper bound.
        places: the lowest position and the one after the highest.
        static: whether `padded` made it, see `Packing`.
        host_speakers: `speakers` on the CPU; copied from the device if not given, for which the host waits.
        people: [N] int64 from 0, who speaks: within a dialogue, equal numbers are the same person. `speakers` if not
            given, as in training.
        host_people: `people` on the CPU; likewise.
    """

    features: dict[str, Tensor]
    present: dict[str, Tensor]
    speakers: Tensor
    labels: Tensor
    dialogue: Tensor
    offsets: Tensor
    place: Tensor = None  # pyright: ignore[reportAssignmentType]  # set below
    longest: int = 0
    places: tuple[int, int] = (0, 0)
    static: bool = False
    host_speakers: Tensor = None  # pyright: ignore[reportAssignmentType]  # set below
    people: Tensor = None  # pyright: ignore[reportAssignmentType]  # set below
    host_people: Tensor = None  # pyright: ignore[reportAssignmentType]  # set below

    def __post_init__(self) -> None:
        if self.place is None:
            self.place = to_device(places(self.offsets), self.dialogue.device)
        if self.host_speakers is None:
            self.host_speakers = self.speakers.cpu()
        if self.people is None:
            self.people, self.host_people = self.speakers, self.host_speakers
        if self.host_people is None:
            self.host_people = self.people.cpu()
        self.longest = self.longest or int(self.offsets.diff().max())
        if not any(self.places):
            self.places = 0, self.longest

    def __len__(self) -> int:
        """The number of dialogues."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """The device of every tensor but `offsets`."""
        return self.labels.device

    @property
    def packing(self) -> Packing:
        """Where the utterances are."""
        return Packing(self.offsets, self.dialogue, self.place, self.longest, self.static)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, copied through pinned memory; `offsets` and `host_…` stay on the CPU."""

        def there(x: Tensor) -> Tensor:
            return to_device(x, device)

        return replace(
            self,
            features={m: there(x) for m, x in self.features.items()},
            present={m: there(x) for m, x in self.present.items()},
            speakers=there(self.speakers),
            labels=there(self.labels),
            dialogue=there(self.dialogue),
            place=there(self.place),
            people=there(self.people),
        )

    def rows(self, start: int, end: int) -> Batch:
        """Utterances from start to end, even if that cuts dialogues; `place` still counts from the dialogue's start."""
        first, last = (int(torch.searchsorted(self.offsets, at, right=True)) - 1 for at in (start, end - 1))
        begins = self.offsets[first : last + 1]
        offsets = self.offsets[first : last + 2].clamp(start, end)
        return Batch(
            {m: x[start:end] for m, x in self.features.items()},
            {m: x[start:end] for m, x in self.present.items()},
            self.speakers[start:end],
            self.labels[start:end],
            self.dialogue[start:end] - first,
            offsets - start,
            self.place[start:end],
            places=(start - int(begins[0]) if first == last else 0, int((offsets[1:] - begins).max())),
            host_speakers=self.host_speakers[start:end],
            people=self.people[start:end],
            host_people=self.host_people[start:end],
        )

    def padded(self, rows: int, dialogues: int, longest: int) -> Batch:
        """The same dialogues, and others after them that are present in no modality and have no labels.

        Args:
            rows: number of utterances of the result.
            dialogues: number of dialogues of the result; those that are added have up to `longest` utterances, or none.
            longest: at least that of this batch.

        Raises:
            ValueError: the numbers are too small, or the added utterances do not fit into the added dialogues.
        """
        extra, added = rows - len(self.labels), dialogues - len(self)
        if extra < 0 or added < 0 or longest < self.longest or extra > added * longest:
            raise ValueError(f"{rows} rows in {dialogues} dialogues of {longest} do not hold this batch")
        ends = (torch.arange(1, added + 1) * longest).clamp_max(extra) + self.offsets[-1]
        number = torch.arange(extra, device=self.device)

        def longer(x: Tensor, value: int = 0) -> Tensor:
            return F.pad(x, (0,) * (2 * x.ndim - 1) + (extra,), value=value)

        return Batch(
            {m: longer(x) for m, x in self.features.items()},
            {m: longer(x) for m, x in self.present.items()},
            longer(self.speakers),
            longer(self.labels, -1),
            torch.cat([self.dialogue, number // longest + len(self)]),
            torch.cat([self.offsets, ends]),
            torch.cat([self.place, number % longest]),
            longest,
            static=True,
            host_speakers=longer(self.host_speakers),
            people=longer(self.people),
            host_people=longer(self.host_people),
        )


class Conversations:
    """Every utterance of a store in memory; `batch` selects dialogues from it.

    Args:
        features: modality to (N, D) float32.
        present: modality to (N,) bool.
        speakers: (N,) int.
        labels: (N,) int, -1 for none.
        offsets: (number of dialogues + 1,) int, rows of dialogue d are offsets[d]:offsets[d + 1].
        people: (N,) int as in `Batch`; None for `speakers`.
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        present: Mapping[str, np.ndarray],
        speakers: np.ndarray,
        labels: np.ndarray,
        offsets: np.ndarray,
        people: np.ndarray | None = None,
    ) -> None:
        self.offsets = torch.from_numpy(np.asarray(offsets, np.int64))
        self._features = {m: torch.from_numpy(x) for m, x in features.items()}
        self._present = {m: torch.from_numpy(x) for m, x in present.items()}
        self._speakers = self._host_speakers = torch.from_numpy(np.asarray(speakers, np.int64))
        self._people = self._host_people = self._speakers
        if people is not None:
            self._people = self._host_people = torch.from_numpy(np.asarray(people, np.int64))
        self._labels = torch.from_numpy(np.asarray(labels, np.int64))
        self.device = torch.device("cpu")  # of the batches

    @property
    def resident(self) -> bool:
        """Whether all data is on the device of the batches."""
        return self._labels.device.type == self.device.type

    def to(self, device: torch.device, spare: float = 0.5) -> Conversations:
        """Sets the device of batches, and moves all data there if it fits.

        Args:
            device: of every tensor of a batch except `offsets`.
            spare: share of a CUDA device's free memory that the features may take. If they need more, they stay in host
                memory and each batch is copied separately, through pinned memory.
        """
        self.device = device
        if device.type == "cuda":
            size = sum(x.nbytes for x in self._features.values())
            if size > spare * torch.cuda.mem_get_info(device)[0]:
                return self
        self._change(lambda x: x.to(device))
        return self

    def _change(self, how) -> None:
        self._features = {m: how(x) for m, x in self._features.items()}
        self._present = {m: how(x) for m, x in self._present.items()}
        self._speakers, self._people, self._labels = how(self._speakers), how(self._people), how(self._labels)

    def changed(self, how: Callable[[str, Tensor, Tensor], Tensor]) -> Conversations:
        """The same conversations with other features: `how` takes modality, [N, D] features and [N] presence."""
        other = copy.copy(self)
        other._features = {m: how(m, x, self._present[m]) for m, x in self._features.items()}
        return other

    def presence(self) -> dict[str, Tensor]:
        """Modality to [N] bool: which utterances of the whole store have it."""
        return dict(self._present)

    def hiding(self, hidden: Mapping[str, Tensor], zeros: bool = False) -> Conversations:
        """The same conversations without some features.

        Args:
            hidden: modality to [N] bool, on any device; other modalities stay as they are.
            zeros: whether they count as present, with the value zero.
        """
        hidden = {m: rows.to(self._present[m].device) for m, rows in hidden.items()}
        other = self.changed(lambda m, x, _: x.masked_fill(hidden[m][:, None], 0) if m in hidden else x)
        if not zeros:
            other._present = {m: x & ~hidden[m] if m in hidden else x for m, x in self._present.items()}
        return other

    def shown(self, rows: Mapping[str, Tensor]) -> Conversations:
        """The same conversations in which some features, modality to [N] bool, count as present, as they are."""
        other = copy.copy(self)
        other._present = {m: x | rows[m].to(x.device) if m in rows else x for m, x in self._present.items()}
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
        lengths, here = self.lengths(dialogues), self.rows(dialogues)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        number = torch.arange(len(dialogues)).repeat_interleave(lengths)
        # One copy for all three.
        there, number, place = to_device(torch.stack([here, number, places(offsets)]), self.device)
        rows = there if self.resident else here

        def cut(x: Tensor) -> Tensor:
            return to_device(x.index_select(0, rows), self.device)

        return Batch(
            {m: cut(x) for m, x in self._features.items()},
            {m: cut(x) for m, x in self._present.items()},
            cut(self._speakers),
            cut(self._labels),
            number,
            offsets,
            place,
            int(lengths.max()),
            host_speakers=self._host_speakers[here],
            people=cut(self._people),
            host_people=self._host_people[here],
        )
