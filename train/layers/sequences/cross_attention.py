"""Co-attention: two streams of packed dialogues that attend to each other (ViLBERT, Lu et al. 2019, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .encoder import EncoderBlock


class PostNormBlock(EncoderBlock):
    """Attention and feed-forward network with LayerNorm after each residual: LN(x + A), LN(y + FFN(y)).

    Arguments as for `EncoderBlock`.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__(size, heads, dropout)
        # The name is stored in the weights of trained models.
        self.heard_norm = nn.LayerNorm(size, eps=1e-6)

    def forward(self, x: Tensor, source: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """As `EncoderBlock.forward`."""
        y = self.heard_norm(x + self.attention(x, source, attend, present))
        return self.norm(y + self.feed(y))


class CoAttention(nn.Module):
    """Blocks in pairs: in each pair, each stream attends to the other's state before the pair.

    Args:
        size, heads, dropout: as for `EncoderBlock`.
        layers: number of pairs of blocks.
    """

    def __init__(self, size: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = (
            nn.ModuleList(PostNormBlock(size, heads, dropout) for _ in range(layers)) for _ in range(2)
        )

    def forward(
        self, x: Tensor, y: Tensor, attend: Callable[..., Tensor], x_present: Tensor, y_present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both streams [N, size] to their new states [N, size]; utterances that are not present [N] are not keys."""
        for first, second in zip(self.first, self.second, strict=True):
            x, y = first(x, y, attend, y_present), second(y, x, attend, x_present)
        return x, y
