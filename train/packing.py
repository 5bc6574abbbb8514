"""Where utterances are in a batch of concatenated dialogues, known to the host and on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..toolkit.base.device import to_device


@dataclass(frozen=True, slots=True)
class Packing:
    """N utterances in B dialogues, one after the other.

    Attributes:
        offsets: [B + 1] int64 on the CPU; utterances of dialogue b are offsets[b]:offsets[b + 1].
        dialogue: [N] int64, number of each utterance's dialogue, on the device.
        place: [N] int64, position of each utterance in its dialogue, from 0, on the device.
        longest: number of utterances of the longest dialogue, or an upper bound, to which dialogues are padded.
        static: whether shapes may depend on B, N and `longest` alone, not on the other dialogues' lengths, so that a
            computation can be recorded once and repeated for other dialogues.
    """

    offsets: Tensor
    dialogue: Tensor
    place: Tensor
    longest: int
    static: bool = False

    @classmethod
    def of(cls, offsets: Tensor, device: torch.device) -> Packing:
        """The packing of dialogues that begin and end at `offsets`, [B + 1] int64 on the CPU."""
        lengths = offsets.diff()
        dialogue = torch.arange(len(lengths)).repeat_interleave(lengths)
        dialogue, place = to_device(torch.stack([dialogue, places(offsets)]), device)
        return cls(offsets, dialogue, place, int(lengths.max()))


def places(offsets: Tensor) -> Tensor:
    """Positions of utterances in their dialogues, [N] int64 on the CPU."""
    return torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(offsets.diff())
