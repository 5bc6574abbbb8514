"""Transformer encoder of one layer over the utterances of a dialogue (AMB-DSGDN, equations 2 to 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ....toolkit.base.device import has_float64, to_device
from ...packing import Packing
from ..blocks import Blocks
from ..dropout import Dropout, dropout

QUERIES = 512  # at a time, where a kernel would otherwise build a matrix for a whole dialogue
SHORT = 128  # on a GPU, dialogues up to this length share one padded block
SPARED = 6000  # on a CPU, pairs of positions whose padding costs as much as another block
_PLACES = 4096  # at a time, where float64 is needed


def sinusoidal_positions(length: int, size: int, like: Tensor, first: int = 0) -> Tensor:
    """Codes of equation 2 for positions from `first`, [length, size], dtype and device of `like`; `size` is even."""
    device = like.device if has_float64(like.device) else torch.device("cpu")
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float64, device=device) * (-math.log(10000) / size))
    codes = torch.empty(length, size, dtype=like.dtype, device=device)
    for start in range(0, length, _PLACES):
        end = min(start + _PLACES, length)
        # In float64: float32 would blur the sines of far places.
        angle = torch.arange(first + start, first + end, device=device)[:, None] * rate
        codes[start:end, 0::2], codes[start:end, 1::2] = angle.sin(), angle.cos()
    return to_device(codes, like.device)


def dialogue_positions(packing: Packing, size: int, like: Tensor) -> Tensor:
    """Position codes of packed dialogues, [N, size]; positions count from 0 in each, `size` is even."""
    return sinusoidal_positions(packing.longest, size, like)[packing.place]


class WholeDialogueAttention:
    """Every utterance attends to every utterance of its dialogue, or to itself and those before it.

    Dialogues of similar length are padded to a common length for this step only. On a GPU, which computes few large
    blocks faster, those of at most SHORT utterances together, longer ones together with those at most twice as long;
    on a CPU, those whose padding costs less than one more block.

    Args:
        packing: of the queries, keys and values.
        causal: whether no utterance attends to later ones.
    """

    def __init__(self, packing: Packing, causal: bool = False) -> None:
        self._causal = causal
        lengths, device = packing.offsets.diff(), packing.place.device
        alone = device.type == "cpu" and not packing.static
        if packing.static or (packing.longest <= SHORT and not alone):
            self._shapes = [(len(lengths), packing.longest)]
            begin = packing.dialogue * packing.longest
        else:
            self._shapes, begins = _grouped(lengths, _by_padding(lengths) if alone else _by_doubling(lengths))
            begin = to_device(begins, device)[packing.dialogue]
        self._place, self._total = begin + packing.place, sum(count * longest for count, longest in self._shapes)
        self._real = self._pad(torch.ones_like(packing.place, dtype=torch.bool))
        if packing.static:
            # In a dialogue of padding alone (`Batch.padded`) the padding counts, whose output nobody reads.
            rows = self._real.view(self._shapes[0])
            self._real = (rows | ~rows.any(1, keepdim=True)).flatten()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, present: Tensor, heads: int, rate: float) -> Tensor:
        """Softmax attention (equation 4) of queries, keys and values [N, size] to [N, size].

        Args:
            q, k, v: of all heads.
            present: [N] bool, which utterances may be attended to. If a dialogue has none, all may (causal: if there is
                none up to an utterance, it attends to itself), because a softmax over nothing would be NaN.
            heads: number of heads.
            rate: dropout probability on the attention weights.
        """
        q, k, v, keys = self._pad(q), self._pad(k), self._pad(v), self._pad(present)
        outputs, begin = [], 0
        for count, longest in self._shapes:
            part = slice(begin, begin := begin + count * longest)
            a, b, c = (
                x[part].unflatten(0, (count, longest)).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)
            )
            mask, real = keys[part].view(count, longest), self._real[part].view(count, longest)
            if not self._causal:
                mask = mask | (real & ~mask.any(1, keepdim=True))
            mask = mask[:, None, None, :]
            outputs.append(_attention(a, b, c, mask, rate, self._causal).transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(outputs).index_select(0, self._place)

    def _pad(self, x: Tensor) -> Tensor:
        return x.new_zeros(self._total, *x.shape[1:]).index_copy(0, self._place, x)


def _by_doubling(lengths: Tensor) -> Tensor:
    """A group for each dialogue, [B]: those of at most SHORT utterances, of at most twice as many, and so on."""
    return (lengths.clamp_min(SHORT) - 1).double().log2().floor().long()


def _by_padding(lengths: Tensor) -> Tensor:
    """A group for each dialogue, [B], from the longest down: the next one begins when padding exceeds SPARED pairs."""
    group = torch.empty_like(lengths)
    order = lengths.argsort(descending=True, stable=True)
    longest, wasted, number = int(lengths[order[0]]), 0, 0
    numbers = []
    for length in lengths[order].tolist():
        wasted += longest**2 - length**2
        if wasted > SPARED:
            longest, wasted, number = length, 0, number + 1
        numbers.append(number)
    group[order] = torch.tensor(numbers)
    return group


def _grouped(lengths: Tensor, group: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """Shapes of padded groups of dialogues, and where each dialogue begins in them, [B] int64."""
    shapes, total, begins = [], 0, torch.empty_like(lengths)
    for number in group.unique().tolist():
        members = (group == number).nonzero()[:, 0]
        longest = int(lengths[members].max())
        begins[members] = total + torch.arange(len(members)) * longest
        shapes.append((len(members), longest))
        total += len(members) * longest
    return shapes, begins


class LocalDialogueAttention:
    """Every utterance attends to those of its dialogue at most `window` positions away.

    Args:
        dialogue: [N] int64, number of each utterance's dialogue.
        window: how many utterances back and ahead are attended to.
        longest: number of utterances of the longest dialogue.
        causal: whether no utterance attends to later ones.
    """

    def __init__(self, dialogue: Tensor, window: int, longest: int, causal: bool = False) -> None:
        self._blocks = Blocks(len(dialogue), min(window, longest - 1), dialogue.device)
        self._near = self._blocks.local(dialogue)
        if causal:
            self._near = self._near & (self._blocks.distance >= 0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, present: Tensor, heads: int, rate: float) -> Tensor:
        """As `WholeDialogueAttention.attend`; an utterance with none present in its window attends only to itself."""
        blocks = self._blocks
        mask = self._near & blocks.seen(present[None, :, None], False)[0].transpose(1, 2)
        mask = mask | (~mask.any(-1, keepdim=True) & (blocks.distance == 0))
        q = blocks.own(q[None])[0]
        k, v = blocks.seen(k[None])[0], blocks.seen(v[None])[0]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        output = _attention(q, k, v, mask[:, None], rate)
        return blocks.flat(output.transpose(1, 2).flatten(2)[None])[0]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, rate: float, causal: bool = False) -> Tensor:
    """Attention of [B, heads, L, width] that never stores an L x L matrix for a long dialogue.

    `mask` is broadcastable to [B, 1, L, L]. With `causal` it is [B, 1, 1, L], and a query attends to no later key; if
    that leaves none, it attends to its own position.
    """
    if not causal and (rate == 0 or q.device.type != "cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)

    def attend(q: Tensor, first: int) -> Tensor:
        allowed = mask
        if causal:
            place = torch.arange(first, first + q.shape[2], device=q.device)[:, None]
            key = torch.arange(k.shape[2], device=q.device)
            allowed = mask & (key <= place)
            allowed = allowed | (~allowed.any(-1, keepdim=True) & (key == place))
        if rate == 0 or q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=rate)
        # The fused CPU kernels do not support dropout.
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3)
        return dropout(scores.masked_fill(~allowed, -torch.inf).softmax(-1), rate, True) @ v

    if q.shape[2] <= QUERIES:
        return attend(q, 0)
    parts = enumerate(q.split(QUERIES, 2))
    found = [cast(Tensor, checkpoint(attend, part, QUERIES * i, use_reentrant=False)) for i, part in parts]
    return torch.cat(found, 2)


class EncoderBlock(nn.Module):
    """Attention and feed-forward network, each with a residual; LayerNorm only before the feed-forward network.

    Queries may come from a different stream than keys and values, for attention across modalities.

    Args:
        size: channels, also of the feed-forward network's inner layer; a multiple of `heads`.
        heads: attention heads.
        dropout: probability on the attention weights, after the attention's output map and after both feed-forward
            maps.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = Dropout(dropout)

    def attention(self, x: Tensor, source: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """Attention of x [N, size] to source [N, size], after the output map and its dropout: [N, size]."""
        rate = self.rate if self.training else 0.0
        values = attend(self.query(x), self.key(source), self.value(source), present, self.heads, rate)
        return self.dropout(self.output(values))

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward network without norm and residual."""
        return self.dropout(self.outer(self.dropout(F.gelu(self.inner(x), approximate="tanh"))))

    def forward(self, x: Tensor, source: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """Lets one stream of packed dialogues attend to another.

        Args:
            x: [N, size], where queries come from, and the residual.
            source: [N, size], where keys and values come from; x itself for self-attention.
            attend: `WholeDialogueAttention.attend` or `LocalDialogueAttention.attend`.
            present: [N] bool, which utterances of `source` may be attended to.

        Returns:
            [N, size].
        """
        x = x + self.attention(x, source, attend, present)
        return x + self.feed(self.norm(x))


class TransformerEncoder(EncoderBlock):
    """AMB-DSGDN's encoder: a self-attention block, preceded by the sum of equation 3 and its dropout.

    Args:
        size, heads, dropout: as for `EncoderBlock`; `size` is even.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__(size, heads, dropout)
        # The released model has this norm but never uses it; published parameter counts include it.
        self.unused_input_norm = nn.LayerNorm(size, eps=1e-6).requires_grad_(False)

    def forward(self, x: Tensor, added: Tensor, attend: Callable[..., Tensor], present: Tensor) -> Tensor:
        """Encodes packed dialogues.

        Args:
            x: [N, size] features.
            added: [N, size] what equation 3 adds to them: codes of the positions, and speaker embeddings.
            attend, present: as for `EncoderBlock.forward`.

        Returns:
            [N, size]; rows of utterances that are not present are finite but meaningless.
        """
        x = self.dropout(x + added)
        return super().forward(x, x, attend, present)
