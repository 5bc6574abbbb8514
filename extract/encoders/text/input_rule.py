"""The input of a fine-tuned text model: a bare utterance, a pair of context and utterance, or a filled prompt.

Fine-tuning and the features of the fine-tuned model use the same code, by the rule that the model's folder records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....toolkit.base.errors import UserError
from ..base import Turn
from .inputs import paired
from .prompts import Prompt


@dataclass(frozen=True)
class Encoded:
    """A turn as a model's input.

    Attributes:
        inputs: input_ids, and token_type_ids where the tokenizer has them, each a list of the same length.
        cut: number of tokens, or with a prompt of characters, that were cut from the utterance.
        context, context_cut: number of preceding turns in the input, and of those left out.
    """

    inputs: dict[str, list[int]]
    cut: int = 0
    context: int = 0
    context_cut: int = 0

    @property
    def ids(self) -> list[int]:
        return self.inputs["input_ids"]


@dataclass(frozen=True)
class InputRule:
    """How a turn becomes a model's input.

    Attributes:
        context: number of preceding turns that the model may see.
        prompt: the template that is filled; None for the text itself, or the pair of context and text.
        labels: the classes that a template names with {labels}.
    """

    context: int = 0
    prompt: Prompt | None = None
    labels: tuple[str, ...] = ()

    def record(self) -> dict[str, object]:
        """The rule as JSON values, from which `of` makes it again; empty for bare utterances."""
        if not self.context and self.prompt is None:
            return {}
        found: dict[str, object] = {"context": self.context}
        if self.prompt is not None:
            found |= {
                "prompt": self.prompt.name,
                "template": self.prompt.template,
                "template_sha256": self.prompt.sha256,
            }
        return found

    @classmethod
    def of(cls, record: Mapping[str, Any], labels: tuple[str, ...]) -> InputRule:
        """The rule of a record.

        Raises:
            LookupError, TypeError, ValueError: it is damaged.
        """
        prompt = Prompt(str(record["prompt"]), str(record["template"])) if "prompt" in record else None
        if prompt is not None and record.get("template_sha256") != prompt.sha256:
            raise ValueError("the template is not the one of its checksum")
        return cls(int(record.get("context", 0)), prompt, labels)

    def encode(self, tokenizer: Any, turn: Turn, limit: int) -> Encoded:
        """A turn as token ids, at most `limit`; the oldest turns of the context are left out first.

        Args:
            tokenizer: of transformers.
            turn: with its context, oldest first.
            limit: the greatest number of tokens, special ones included.

        Raises:
            UserError: the template alone is too long for the model.
        """
        turn = replace(turn, before=turn.before[len(turn.before) - self.context :] if self.context else ())
        if self.prompt is not None:
            return self._prompted(tokenizer, turn, limit)
        if self.context:
            return _pair(tokenizer, turn, limit)
        return Encoded({"input_ids": tokenizer(turn.text, truncation=True, max_length=limit)["input_ids"]})

    def _prompted(self, tokenizer: Any, turn: Turn, limit: int) -> Encoded:
        def ids(one: Turn, first: int) -> list[int]:
            assert self.prompt is not None
            return open_ids(tokenizer, self.prompt.fill(one, one.before[first:], self.labels))

        count = len(turn.before)
        for first in range(count + 1):  # the longest context first
            found = ids(turn, first)
            if len(found) <= limit:
                return Encoded({"input_ids": found}, 0, count - first, first)
        text = turn.text.strip()
        least, most = 0, len(text)  # characters that fit, and that do not
        while most - least > 1:
            middle = (least + most) // 2
            fits = len(ids(replace(turn, text=text[:middle]), count)) <= limit
            least, most = (middle, most) if fits else (least, middle)
        if not least:
            assert self.prompt is not None
            raise UserError(f"the prompt {self.prompt.name} is longer than the {limit} tokens that the model accepts")
        found = ids(replace(turn, text=text[:least]), count)
        return Encoded({"input_ids": found}, len(text) - least, 0, count)


def open_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text that is to be continued: without the end that some tokenizers append."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    while ids and ids[-1] in ends:
        ids.pop()
    return ids


def _pair(tokenizer: Any, turn: Turn, limit: int) -> Encoded:
    """The pair that `TextEncoder` makes of context and utterance, each turn with its speaker's name."""
    found, cut, used = paired(tokenizer, turn.before, f"{turn.speaker}: {turn.text.strip()}", limit)
    inputs = {key: list(found[key]) for key in ("input_ids", "token_type_ids") if key in found}
    return Encoded(inputs, cut, used, len(turn.before) - used)


def give_padding(tokenizer: Any, config: Any) -> None:
    """Gives a tokenizer without a padding token its end-of-text token for it, and the model's configuration the same.

    A decoder with a classification head finds the last token of a padded row by it.

    Raises:
        UserError: the tokenizer has no end-of-text token either.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError("the text model's tokenizer has neither a padding nor an end-of-text token; add pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
