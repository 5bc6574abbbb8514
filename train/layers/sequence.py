"""Packed dialogues for layers that need a batch dimension: temporary padding, and recurrent layers without padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...toolkit.base.device import to_device


class PaddedDialogues:
    """Positions of packed utterances in a padded batch of [dialogues, longest].

    Args:
        offsets: [B + 1] int64 on the CPU, as in `erc_toolkit.train.data.batch.Batch`.
        device: of the tensors to pad.

    Attributes:
        mask: [B, L] bool, which positions hold an utterance.
        lengths: [B] int64 on the CPU.
    """

    def __init__(self, offsets: Tensor, device: torch.device) -> None:
        self.lengths = offsets.diff()
        count, longest = len(self.lengths), int(self.lengths.max())
        mask = torch.arange(longest) < self.lengths[:, None]
        self.mask = to_device(mask, device)
        self._shape = (count, longest)
        self._place = to_device(mask.flatten().nonzero()[:, 0], device)

    def pad(self, x: Tensor, fill: float = 0) -> Tensor:
        """[N, …] to [B, L, …]."""
        padded = x.new_full((self._shape[0] * self._shape[1], *x.shape[1:]), fill)
        return padded.index_copy(0, self._place, x).unflatten(0, self._shape)

    def pack(self, x: Tensor) -> Tensor:
        """[B, L, …] to [N, …], the positions that hold utterances."""
        return x.flatten(0, 1).index_select(0, self._place)


class RecurrentLayer(nn.Module):
    """A GRU or LSTM over the utterances of each dialogue, without padding.

    Args:
        kind: nn.GRU or nn.LSTM.
        dim: width of the input.
        size: width of the state of each direction.
        layers: number of layers.
        bidirectional: whether there are two directions.
        dropout: between layers.
    """

    def __init__(
        self,
        kind: type[nn.GRU] | type[nn.LSTM],
        dim: int,
        size: int,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.rnn = kind(dim, size, layers, bidirectional=bidirectional, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Packed rows [N, dim] to [N, size], or twice the size with two directions.

        States do not carry over between dialogues.
        """
        lengths = offsets.diff()
        order = lengths.argsort(descending=True, stable=True)
        # Step t holds the t-th utterance of every dialogue that has one, the longest dialogue first.
        steps = torch.arange(int(lengths.max()))
        there = steps[:, None] < lengths[order]
        rows = to_device((offsets[:-1][order] + steps[:, None])[there], x.device)
        packed = PackedSequence(x.index_select(0, rows), there.sum(1))
        states = self.rnn(packed)[0].data
        return torch.empty_like(states).index_copy(0, rows, states)

    def through_padding(self, padded: Tensor) -> Tensor:
        """Padded rows [B, L, dim] to [B, L, size], or twice the size with two directions, including padding.

        The published code of several models does so: the backward direction of all but the longest sequence begins in
        padding, and its states depend on the length of the longest.
        """
        return self.rnn(padded.transpose(0, 1))[0].transpose(0, 1)
