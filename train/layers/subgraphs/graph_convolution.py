"""Plain graph convolution (Kipf and Welling 2017, equation 2), which has edges but no relations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..dropout import dropout
from .graph import Graph


class GraphConvolution(nn.Module):
    """gelu(D^-1/2 A D^-1/2 x W + b), D the number of a node's edges, including its self-loop.

    Args:
        d_in: channels in.
        d_out, heads: `heads` times `d_out` channels out; a convolution has no heads, only their width.
        dropout: probability on the weights of the edges.
        normalised: whether GELU follows, as in the layers that this one replaces.
    """

    def __init__(self, d_in: int, d_out: int, heads: int, dropout: float, normalised: bool = True) -> None:
        super().__init__()
        self.linear, self.dropout, self.normalised = nn.Linear(d_in, heads * d_out), dropout, normalised

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Node features [N, d_in] to [N, heads * d_out]."""
        blocks = graph.blocks
        degree = graph.mask.sum(-1, dtype=x.dtype)  # [count, size]; a self-loop keeps it above 0
        root = blocks.flat(degree[None, ..., None]).rsqrt()  # [1, N, 1]
        # Scales nodes before and after, so that the mask is the only weight per edge.
        values = self.linear(x)[None] * root
        weights = dropout(graph.mask[None].to(values.dtype), self.dropout, self.training)
        y = (blocks.gather(weights, values) * root)[0]
        return F.gelu(y) if self.normalised else y
