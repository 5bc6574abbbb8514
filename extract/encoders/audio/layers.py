"""Which layers of a speech encoder become the frames: the last, one, the mean of several, or each by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....toolkit.base.errors import UserError
from .pooling import exact_dtype


@dataclass(frozen=True)
class Layers:
    """A choice among an encoder's states.

    A state is what a layer passes on, counted as transformers counts its `hidden_states`: 0 is the input of the first
    transformer layer, N the output of the last of N. Where a model ends in a layer normalisation (Whisper; wav2vec 2.0,
    HuBERT and WavLM with `do_stable_layer_norm`), state N is what comes after it, the model's `last_hidden_state`;
    transformers' own list differs between model types and versions in whether its last entry does.

    Attributes:
        text: "last", "all", "each", a number K, or a range "I-J" without leading zeros.
        first, final: the states chosen, first to final inclusive.
        total: N.
    """

    text: str
    first: int
    final: int
    total: int

    @classmethod
    def parse(cls, text: str, total: int, name: str) -> Layers:
        """A choice from what the user wrote.

        Args:
            text: "last"; "all", the mean of states 1 to N; "each", states 0 to N side by side; "K"; or "I-J", a mean.
            total: number of transformer layers, N.
            name: name of the model, for the message.

        Raises:
            UserError: it is none of these, or is not among the model's states.
        """
        named = {"last": (total, total), "all": (1, total), "each": (0, total)}
        if text in named:
            return cls(text, *named[text], total)
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text)
        first, final = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= final <= total:
            raise UserError(
                f"--layers {text[:40]}: {name} has {total} layers; write last, all, each, a number from 0 to {total}, "
                f"or a range such as {(total + 1) // 2}-{total}"
            )
        return cls(f"{first}-{final}" if match and match[2] else f"{first}", first, final, total)

    @property
    def only_last(self) -> bool:
        """Whether the last state is asked for by name, so that no others need to be kept."""
        return self.text == "last"

    @property
    def each(self) -> bool:
        """Whether the states stay apart."""
        return self.text == "each"

    @property
    def words(self) -> str:
        """The choice in words, for provenance."""
        if self.only_last:
            return "last layer"
        if self.each:
            return f"each of the states 0 to {self.total} by itself"
        return f"layer {self.first}" if self.first == self.final else f"mean of layers {self.first} to {self.final}"

    def combined(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The frames of a choice other than "each".

        Args:
            states: N + 1 tensors (batch, T, D), or the last one alone where `only_last`.

        Returns:
            (batch, T, D): one of them as it is, or the mean, which is summed in `exact_dtype`.
        """
        if self.only_last:
            return states[-1]
        if self.first == self.final:
            return states[self.first]
        total = states[self.first].to(exact_dtype(states[self.first].device), copy=True)
        for state in states[self.first + 1 : self.final + 1]:
            total += state
        return total / (self.final - self.first + 1)
