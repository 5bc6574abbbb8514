"""The recurrence of DialogueRNN (arXiv 1811.00405, section 3.3): states of dialogue, parties and emotion.

Several recurrences with separate weights, for the directions or modalities of a model, run in parallel, with one
batched product for all of them at each step. Whatever depends on the utterances alone is computed before the first
step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....toolkit.base.device import to_device
from ..dropout import dropout


class GRUCells(nn.Module):
    """R GRU cells with separate weights, each like `torch.nn.GRUCell`, whose input comes in parts.

    Args:
        count: R.
        parts: widths of the parts of the input.
        size: width of the state.
    """

    def __init__(self, count: int, parts: Sequence[int], size: int) -> None:
        super().__init__()
        shapes = [(width, 3 * size) for width in parts]
        self.inputs = nn.ParameterList(nn.Parameter(torch.empty(count, *shape)) for shape in shapes)
        self.hidden = nn.Parameter(torch.empty(count, size, 3 * size))
        self.input_bias, self.hidden_bias = (nn.Parameter(torch.empty(count, 1, 3 * size)) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def first(self, x: Tensor) -> Tensor:
        """What the first part of the input, [R, n, width], adds to the gates, with the bias: [R, n, 3 size]."""
        return torch.baddbmm(self.input_bias, x, self.inputs[0])

    def forward(self, gates: Tensor, state: Tensor, part: Tensor | None = None) -> Tensor:
        """The next state, [R, n, size].

        Args:
            gates: [R, n, 3 size] of `first`.
            state: [R, n, size].
            part: [R, n, width], the second part of the input, if there is one.
        """
        if part is not None:
            gates = torch.baddbmm(gates, part, self.inputs[1])
        recurrent = torch.baddbmm(self.hidden_bias, state, self.hidden)
        size = state.shape[-1]
        reset, update = torch.sigmoid(gates[..., : 2 * size] + recurrent[..., : 2 * size]).chunk(2, -1)
        new = torch.tanh(gates[..., 2 * size :] + reset * recurrent[..., 2 * size :])
        return new + update * (state - new)


class _MatchedStates:
    """Past states matched with a query: softmax over their products (equation 2 of the paper).

    The states are kept in blocks of decreasing lengths that are powers of two; blocks of equal length are merged. Each
    state is thus copied a logarithmic number of times, rather than at every step.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []

    def add(self, state: Tensor) -> None:
        """Appends a state, [R, k, size]."""
        block = state[:, :, None]
        while self._blocks and self._blocks[-1].shape[2] == block.shape[2]:
            block = torch.cat([self._blocks.pop(), block], 2)
        self._blocks.append(block)

    def trim(self, count: int) -> None:
        """Drops all but the first `count` dialogues."""
        self._blocks = [block[:, :count] for block in self._blocks]

    def attend(self, query: Tensor) -> Tensor:
        """Queries [R, k, size] to [R, k, size]."""
        scores = [(block @ query[..., None])[..., 0] for block in self._blocks]
        weights = torch.cat(scores, -1).softmax(-1).split([score.shape[-1] for score in scores], -1)
        found = ((w[..., None, :] @ block)[..., 0, :] for w, block in zip(weights, self._blocks, strict=True))
        return sum(found, query.new_zeros(()))


class _RunningStates:
    """Past states weighted by a softmax of their own scores, independent of the query, as a running mean.

    Scores are taken relative to the largest so far, a constant for the gradient, so large ones do not overflow.
    """

    def __init__(self) -> None:
        self._state: tuple[Tensor, Tensor, Tensor] | None = (
            None  # largest score, sum of weights, weighted sum of states
        )

    def add(self, state: Tensor, score: Tensor) -> None:
        """Appends a state, [R, k, size], with its score, [R, k, 1]."""
        if self._state is None:
            largest = score.detach()
            weight = torch.exp(score - largest)
            self._state = largest, weight, weight * state
            return
        before, total, weighted = self._state
        largest = torch.maximum(before, score.detach())
        old, new = torch.exp(before - largest), torch.exp(score - largest)
        self._state = largest, total * old + new, weighted * old + new * state

    def trim(self, count: int) -> None:
        """Drops all but the first `count` dialogues."""
        if self._state is not None:
            largest, total, weighted = self._state
            self._state = largest[:, :count], total[:, :count], weighted[:, :count]

    def attend(self) -> Tensor:
        """The mean of the past states, [R, k, size]; there must be at least one."""
        if self._state is None:
            raise ValueError("there are no past states")
        _, total, weighted = self._state
        return weighted / total


class DialogueRecurrence(nn.Module):
    """DialogueRNN over packed dialogues, for one or more streams of features and one or two directions.

    With utterance u_t of speaker s: g_t = GRU_g([u_t; q_s], g_{t-1}); c_t = attention over g_1 … g_{t-1} (0 for the
    first); q_s = GRU_p([u_t; c_t], q_s); e_t = GRU_e(q_s, e_{t-1}). The other parties keep their states q or, with
    `listener`, update them to GRU_l([u_t; q_s], q). Every state goes through dropout before it is used again (as in
    their code). States start at 0; the backward direction starts at each dialogue's own last utterance. The loop is
    over positions in a dialogue and leaves out dialogues that have ended.

    Args:
        streams: number of streams of features, each with separate weights.
        dim: width of the features (D_m).
        dialogue, party, emotion: widths of the states g, q and e (D_g, D_p, D_e).
        slots: number of parties that have a state; more if a batch has more, as only who is the same counts.
        attention: "general" scores a past g_j by its product with a linear map of u_t (as in the paper), "simple" by a
            linear map of g_j alone.
        listener: whether the other parties' states are updated (the paper's "listener state").
        bidirectional: whether there is a second direction with separate weights.
        rate: dropout probability on every state.
    """

    def __init__(
        self,
        streams: int,
        dim: int,
        dialogue: int,
        party: int,
        emotion: int,
        slots: int,
        attention: str = "general",
        listener: bool = False,
        bidirectional: bool = True,
        rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.slots, self.rate, self.matched = slots, rate, attention == "general"
        count = streams * self.directions
        self.dialogue = GRUCells(count, (dim, party), dialogue)
        self.party = GRUCells(count, (dim, dialogue), party)
        self.emotion = GRUCells(count, (party,), emotion)
        self.listener = GRUCells(count, (dim, party), party) if listener else None
        self.score = nn.Parameter(torch.empty(count, *((dim, dialogue) if self.matched else (dialogue, 1))))
        bound = self.score.shape[1] ** -0.5
        nn.init.uniform_(self.score, -bound, bound)

    def forward(self, x: Tensor, speakers: Tensor, offsets: Tensor, parties: int = 0) -> Tensor:
        """Emotion states.

        Args:
            x: [streams, N, dim], packed dialogues.
            speakers: [N] int64, below `slots` or `parties`.
            offsets: [B + 1] int64 on the CPU.
            parties: the greatest of `speakers`, plus one.

        Returns:
            [streams, N, emotion], or twice as wide with two directions, the forward one first.
        """
        rows, counts = self._steps(offsets)
        rows, back = to_device(torch.stack([rows, rows.argsort(1)]), x.device)
        ordered = x.index_select(1, rows.flatten()).unflatten(1, rows.shape).flatten(0, 1)
        who = speakers[rows].repeat(len(x), 1)[..., None, None]
        states = self._run(ordered, who, counts, max(self.slots, parties)).unflatten(0, (len(x), self.directions))
        return torch.cat([states[:, d].index_select(1, back[d]) for d in range(self.directions)], -1)

    def _steps(self, offsets: Tensor) -> tuple[Tensor, list[int]]:
        """Rows step by step, longest dialogue first, [directions, N], and the number of rows of each step."""
        lengths = offsets.diff()
        order = lengths.argsort(descending=True, stable=True)
        starts, lengths = offsets[:-1][order], lengths[order]
        step = torch.arange(int(lengths[0]))[:, None]
        there = step < lengths
        rows = [starts + step, starts + lengths - 1 - step][: self.directions]
        return torch.stack([r[there] for r in rows]), there.sum(1).tolist()

    def _run(self, x: Tensor, who: Tensor, counts: list[int], slots: int) -> Tensor:
        """Emotion states [R, N, emotion] of utterances [R, N, dim] and speakers [R, N, 1, 1], ordered by `_steps`."""

        def kept(state: Tensor) -> Tensor:
            return dropout(state, self.rate, self.training)

        cells, count = len(x), counts[0]
        of_dialogue, of_party = self.dialogue.first(x).split(counts, 1), self.party.first(x).split(counts, 1)
        of_listener = self.listener.first(x).split(counts, 1) if self.listener is not None else None
        queries = torch.bmm(x, self.score).split(counts, 1) if self.matched else ()
        of_speaker = who.split(counts, 1)
        # Zeros with the dtype and device of the features.
        g, context, e = (
            x.new_zeros(cells, count, c.hidden.shape[1]) for c in (self.dialogue, self.dialogue, self.emotion)
        )
        parties = x.new_zeros(cells, count, slots, self.party.hidden.shape[1])
        past = _MatchedStates() if self.matched else _RunningStates()
        found = []
        for t, now in enumerate(counts):
            if now < count:
                g, e, parties, count = g[:, :now], e[:, :now], parties[:, :now], now
                past.trim(now)
            if t:
                context = past.attend() if isinstance(past, _RunningStates) else past.attend(queries[t])
            speaker = of_speaker[t].expand(-1, -1, 1, parties.shape[-1])
            q = parties.gather(2, speaker)[:, :, 0]
            g = kept(self.dialogue(of_dialogue[t], g, q))
            q = kept(self.party(of_party[t], q, context))
            if self.listener is not None and of_listener is not None:
                gates = torch.baddbmm(of_listener[t], q, self.listener.inputs[1])
                gates = gates[:, :, None].expand(-1, -1, slots, -1).flatten(1, 2)
                parties = kept(self.listener(gates, parties.flatten(1, 2))).unflatten(1, (now, slots))
            parties = parties.scatter(2, speaker, q[:, :, None])
            e = kept(self.emotion(self.emotion.first(q), e))
            found.append(e)
            if t + 1 < len(counts):
                if isinstance(past, _RunningStates):
                    past.add(g, torch.bmm(g, self.score))
                else:
                    past.add(g)
        return torch.cat(found, 1)
