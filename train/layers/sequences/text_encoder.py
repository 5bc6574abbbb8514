"""The text of M3NET and RL-EMO: several vectors of RoBERTa, batch-normalised and averaged, and a GRU."""

from __future__ import annotations

from torch import Tensor, nn

from ....toolkit.base.errors import UserError
from ..present_norm import PresentBatchNorm
from ..sequence import PaddedDialogues, RecurrentLayer


class TextEncoder(nn.Module):
    """Batch norm, mean of the vectors, linear map if there is one, bidirectional GRU over the dialogue.

    Args:
        dim: width of the feature.
        size: width of the output; each direction of the GRU has half of it.
        vectors: number of vectors that the feature concatenates.
        layers: of the GRU.
        dropout: between layers of the GRU.
        projected: whether there is a linear map.
        padded: whether norm and GRU include the padding after shorter dialogues.

    Raises:
        UserError: the feature does not divide into so many vectors.
    """

    def __init__(
        self,
        dim: int,
        size: int,
        vectors: int,
        layers: int,
        dropout: float,
        projected: bool = True,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.vectors, self.padded = vectors, padded
        if dim % vectors:
            raise UserError(
                f"model.text_layers={vectors} does not divide the width of the text feature, which is {dim}"
            )
        width = dim // vectors
        self.norm = PresentBatchNorm(dim)
        self.projection = nn.Linear(width, size) if projected else None
        self.rnn = RecurrentLayer(nn.GRU, size if projected else width, size // 2, layers, dropout=dropout)

    def forward(self, features: Tensor, present: Tensor, offsets: Tensor) -> Tensor:
        """Features [N, dim], present [N], offsets [B + 1] on the CPU, to [N, size]."""
        if not self.padded:
            return self.rnn(self._inputs(features, present), offsets)
        padded = PaddedDialogues(offsets, features.device)
        there = padded.pad(present, True)  # padding counts
        x = self._inputs(padded.pad(features).flatten(0, 1), there.flatten()).unflatten(0, there.shape)
        return padded.pack(self.rnn.through_padding(x))

    def _inputs(self, features: Tensor, present: Tensor) -> Tensor:
        x = self.norm(features, present).unflatten(1, (self.vectors, -1)).mean(1)
        return x if self.projection is None else self.projection(x)
