"""Turns as the token ids of a text model: pairs for encoders, one text for decoders and for instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ....toolkit.base.errors import UserError
from ..base import Turn
from .prompts import Prompt

# As the store records the forms with context.
PAIR = "pair of context and utterance, each turn as 'speaker: transcript', turns of the context joined by a space"
LINES = "one text, a line 'speaker: transcript' for each turn, the utterance's last"


@dataclass(frozen=True)
class Encoded:
    """A turn as the model's input.

    Attributes:
        inputs: the model's inputs by name.
        own: positions of the utterance's own tokens.
        tokens, tokens_cut: number of tokens in the input, and of those truncated from the utterance.
        context, context_cut: number of preceding utterances in the input, and of those dropped.
        reason: why there is no input; empty if there is one.
    """

    inputs: dict[str, list[int]] = field(default_factory=dict)
    own: Sequence[int] = ()
    tokens: int = 0
    tokens_cut: int = 0
    context: int = 0
    context_cut: int = 0
    reason: str = ""


class Inputs:
    """Turns as inputs of a model, no longer than it accepts.

    Context that does not fit loses its oldest turns first; the utterance loses its end, and only if it is too long
    without any context. A turn's `described` follows the utterance in parentheses, "I see. (Quiet and slow.)", and is
    part of it; in a prompt it is where the template has {described}.

    Args:
        tokenizer: of the model; its padding is on the right from now on.
        max_tokens: greatest number of tokens, special ones included, that the model accepts.
        context: number of preceding turns that are wanted.
        causal: the model is a decoder. Its input is one text, "Bob: Fine.\\nAnn: Really?" with context and the
            transcript alone without; an encoder's is the tokenizer's pair.
        prompt: the text is this one, filled, whatever the model. A chat template of the tokenizer is never used: it is
            a program that comes with the model.
        where: what messages begin with.

    Attributes:
        marks: whether "own" is among the inputs, and less than all tokens.

    Raises:
        UserError: the prompt is too long, or what is asked for needs a fast tokenizer.
    """

    def __init__(
        self, tokenizer, max_tokens: int, context: int, causal: bool, prompt: Prompt | None = None, where: str = ""
    ):
        self._tokenizer, self.max_tokens, self.context = tokenizer, max_tokens, context
        self._causal, self._prompt = causal, prompt
        self._one_text = causal or prompt is not None
        self.marks = bool(context) or self._one_text
        if self.marks and not tokenizer.is_fast:
            what = "--text-prompt" if prompt else "--text-context" if context else "a decoder"
            raise UserError(f"{where}: {what} needs a fast tokenizer, and it has none")
        # Padding on the right is exact for decoders too: no token sees those after it, positions count from the first
        # token without help, and models that read one token after the other read no padding before the text.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:  # masked in encoders and never seen in decoders, so any token will do
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        if prompt is not None and len(self._tokens(prompt.fill(Turn(""), ()))["input_ids"]) >= max_tokens:
            raise UserError(f"--text-prompt {prompt.name}: longer than the {max_tokens} tokens that the model accepts")

    def encode(self, turn: Turn) -> Encoded:
        """A turn as token ids."""
        return self._one(turn) if self._one_text else self._pair(turn)

    def pad(self, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """The model's inputs (batch, tokens), and if `marks` "own", 1 for the utterance's own tokens."""
        padded = dict(
            self._tokenizer.pad([one.inputs for one in batch], return_tensors="pt", return_attention_mask=True)
        )
        if self.marks:
            padded["own"] = torch.zeros_like(padded["attention_mask"])
            for line, one in zip(padded["own"], batch, strict=True):
                line[list(one.own)] = 1
        return padded

    def _pair(self, turn: Turn) -> Encoded:
        """An encoder's input without a prompt."""
        said = _with_description(turn.text, turn)
        text = f"{turn.speaker}: {_with_description(turn.text.strip(), turn)}" if self.context else said
        chosen, cut, used = paired(self._tokenizer, turn.before, text, self.max_tokens)
        own = []
        if self.context:
            own = [k for k, part in enumerate(chosen.sequence_ids(0)) if part == (1 if used else 0)]
        inputs = {key: chosen[key] for key in ("input_ids", "token_type_ids") if key in chosen}
        return Encoded(inputs, own, len(inputs["input_ids"]), cut, used, len(turn.before) - used)

    def _one(self, turn: Turn) -> Encoded:
        """A decoder's input, or a filled prompt."""
        given = len(turn.before)
        said = turn.text.strip()
        if self._prompt is None:
            said = _with_description(said, turn)
            said = f"{turn.speaker}: {said}" if self.context else said
        tokens, own, span = None, [], (0, "")
        for first in range(given + 1):
            text, start, end = self._written(turn, said, turn.before[first:])
            tokens = self._tokens(text)
            own, span = _own(tokens, start, end), (start, text[start:end])
            if len(tokens["input_ids"]) <= self.max_tokens:
                return self._made(tokens, own, 0, given - first, first)
        assert tokens is not None
        # Too long without any context: the utterance loses as many tokens at its end as are too many. What remains may
        # be split into more tokens than before, so this is repeated.
        offsets, keep, now = tokens["offset_mapping"], len(own), tokens
        while (keep := keep - max(1, len(now["input_ids"]) - self.max_tokens)) > 0:
            kept = span[1][: offsets[own[keep - 1]][1] - span[0]]
            text, start, end = self._written(turn, kept, ())
            now = self._tokens(text)
            if len(now["input_ids"]) <= self.max_tokens:
                left = _own(now, start, end)
                return self._made(now, left, len(own) - len(left), 0, given)
        return Encoded(reason="the prompt leaves no room for the transcript", context_cut=given)

    def _made(self, tokens, own: list[int], cut: int, used: int, dropped: int) -> Encoded:
        if not own:
            return Encoded(reason="the tokenizer has no token for the transcript")
        # Token types mean nothing to a decoder; GPT-2 would add the embedding of a word for them.
        names = ("input_ids",) if self._causal else ("input_ids", "token_type_ids")
        inputs = {key: tokens[key] for key in names if key in tokens}
        return Encoded(inputs, own, len(inputs["input_ids"]), cut, used, dropped)

    def _written(self, turn: Turn, said: str, before: Sequence[str]) -> tuple[str, int, int]:
        """The text for the model, and where in it the utterance begins and ends, in characters."""
        if self._prompt is not None:
            return self._prompt.place(replace(turn, text=said), before)
        head = "".join(f"{line}\n" for line in before)
        return head + said, len(head), len(head) + len(said)

    def _tokens(self, text: str):
        return self._tokenizer(text, return_offsets_mapping=True, verbose=False)


def paired(tokenizer, before: Sequence[str], text: str, most: int) -> tuple:
    """A text with as much context before it as there is room for, as the tokenizer's pair.

    Args:
        tokenizer: of the model.
        before: the context, oldest first; the oldest turns are left out first.
        text: the utterance, whose end is cut if it is too long by itself.
        most: greatest number of tokens, special ones included.

    Returns:
        The tokenizer's output; how many tokens were cut; how many turns of the context are in it.
    """
    alone = tokenizer(text, truncation=True, max_length=most)
    length = len(alone["input_ids"])
    cut = len(tokenizer(text, verbose=False)["input_ids"]) - length if length >= most else 0
    for first in range(len(before) if not cut else 0):  # the longest context first
        pair = tokenizer(" ".join(before[first:]), text, verbose=False)
        if len(pair["input_ids"]) <= most:
            return pair, cut, len(before) - first
    return alone, cut, 0


def _own(tokens, start: int, end: int) -> list[int]:
    """Positions of the tokens that have a character from `start` to before `end`; special tokens have none."""
    parts = tokens.sequence_ids(0)
    return [
        k
        for k, (first, last) in enumerate(tokens["offset_mapping"])
        if parts[k] is not None and first < last and first < end and last > start
    ]


def _with_description(said: str, turn: Turn) -> str:
    return f"{said} ({turn.described})" if turn.described else said
