"""Classes as words that a causal language model says next: their tokens, and how likely the model finds each.

The score of a class is the log-likelihood of its whole word after the prompt, the sum over its tokens, and the softmax
over the classes gives probabilities. It is not divided by the number of tokens: it is the likelihood of the word, in
which a class of several tokens pays for each of them, and training corrects it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....toolkit.base.errors import UserError


class LabelWords:
    """The classes as sequences of tokens.

    Args:
        tokenizer: of transformers, with a padding token.
        labels: names of the classes; each is said with a space before it.

    Attributes:
        tokens: of each class. If the tokens of one are the beginning of another's, all end with the end-of-text token,
            as the longer one could never be more likely otherwise.
        longest: the greatest number of tokens of a class.

    Raises:
        UserError: two classes have the same tokens, or one has none.
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str]) -> None:
        self.tokens = [_continuation(tokenizer, label) for label in labels]
        for i, label in enumerate(labels):
            if not self.tokens[i]:
                raise UserError(f"the text model's tokenizer has no tokens for the label {label!r}; rename it")
            if self.tokens[i] in self.tokens[:i]:
                other = labels[self.tokens.index(self.tokens[i])]
                raise UserError(f"the text model's tokenizer writes {label!r} and {other!r} alike; rename one")
        if any(a != b and b[: len(a)] == a for a in self.tokens for b in self.tokens):
            if tokenizer.eos_token_id is None:
                raise UserError("one label is the beginning of another, and the tokenizer has no end-of-text token")
            self.tokens = [[*one, tokenizer.eos_token_id] for one in self.tokens]
        self.longest = max(map(len, self.tokens))
        self._padding = tokenizer.pad_token_id
        # The beginnings of classes that a prompt must be followed by, so that every token of every class is predicted
        # somewhere: one forward pass for each.
        starts = {tuple(one[:-1]) for one in self.tokens}
        self._starts = sorted(one for one in starts if not any(one != b and b[: len(one)] == one for b in starts))

    def padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Prompts of token ids as int64 (n, width): input_ids and attention_mask, padded on the left.

        So what follows each prompt is in the same columns.
        """
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._padding)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(prompts):
            ids[row, width - len(one) :] = torch.tensor(one)
            mask[row, width - len(one) :] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def log_likelihoods(self, model: Any, prompts: Mapping[str, Tensor]) -> Tensor:
        """For each prompt and class: the log-likelihood of the class's tokens after the prompt.

        Args:
            model: a causal language model.
            prompts: n prompts from `padded`, on the model's device.

        Returns:
            float32 (n, classes), with its graph if gradients are enabled.
        """
        found: list[Tensor | None] = [None] * len(self.tokens)
        for start in self._starts:
            logs = _logs(model, prompts, torch.tensor(start, dtype=torch.int64).expand(_count(prompts), -1))
            for label, tokens in enumerate(self.tokens):
                if found[label] is None and tuple(tokens[:-1]) == start[: len(tokens) - 1]:
                    found[label] = torch.stack([logs[:, place, token] for place, token in enumerate(tokens)]).sum(0)
        return torch.stack([one for one in found if one is not None], 1)

    def loss(self, model: Any, prompts: Mapping[str, Tensor], labels: Sequence[int]) -> Tensor:
        """The sum over prompts of the cross entropy of their label's tokens; those of the prompt are not learned.

        Args:
            model, prompts: as for `log_likelihoods`.
            labels: the n class indices.
        """
        rows: dict[int, list[int]] = {}
        for row, label in enumerate(labels):
            rows.setdefault(len(self.tokens[label]), []).append(row)
        parts = []
        for own in rows.values():  # labels with the same number of tokens together
            target = torch.tensor([self.tokens[labels[row]] for row in own])
            logs = _logs(model, {name: tensor[own] for name, tensor in prompts.items()}, target[:, :-1])
            parts.append(-logs.gather(2, target.to(logs.device)[:, :, None]).sum())
        return torch.stack(parts).sum()


def _count(prompts: Mapping[str, Tensor]) -> int:
    return len(prompts["input_ids"])


def _logs(model: Any, prompts: Mapping[str, Tensor], start: Tensor) -> Tensor:
    """Log-probabilities of what follows the prompts and each token after them.

    Args:
        model: a causal language model.
        prompts: n of them.
        start: int64 (n, m), tokens after the prompts.

    Returns:
        float32 (n, m + 1, vocabulary).
    """
    ids, mask, last = prompts["input_ids"], prompts["attention_mask"], start.shape[1] + 1
    start = start.to(ids.device)
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([ids, start], 1),
        "attention_mask": torch.cat([mask, torch.ones_like(start)], 1),
        "use_cache": False,
    }
    accepted = inspect.signature(_plain(model).forward).parameters
    if "position_ids" in accepted:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in accepted:  # a vocabulary is large, and the other places are not needed
        inputs["logits_to_keep"] = last
    return torch.log_softmax(model(**inputs).logits[:, -last:].float(), -1)


def _plain(model: Any) -> Any:
    """The model of transformers inside peft's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _continuation(tokenizer: Any, label: str) -> list[int]:
    """The tokens of a label after a text, with a space before it.

    Behind a colon, since some tokenizers put a mark before the first word of whatever they are given.
    """
    before = tokenizer(":", add_special_tokens=False)["input_ids"]
    both = tokenizer(f": {label}", add_special_tokens=False)["input_ids"]
    if both[: len(before)] == before:
        return list(both[len(before) :])
    return list(tokenizer(f" {label}", add_special_tokens=False)["input_ids"])
