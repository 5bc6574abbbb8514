"""How the tokens' vectors of a text model become one vector for an utterance, or four."""

from __future__ import annotations

import torch

# Names of the layers of "last4", the last one first.
LAYERS = ("last", "second-last", "third-last", "fourth-last")
# As the store records the rules.
RULES = {
    "mean": "mean over the utterance's tokens, last layer",
    "cls": "first token, last layer",
    "last": "last token, last layer",
    "last4": "first token, each of the last four layers a matrix",
    "last4-mean": "first token, mean of the last four layers",
}
# Rules of the first token, which in a decoder sees nothing but itself.
OF_FIRST_TOKEN = ("cls", "last4", "last4-mean")


def needs_layers(rule: str) -> bool:
    """Whether a rule reads more layers than the last."""
    return rule.startswith("last4")


def pool(rule: str, output, mask: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A model's output to one row per text, float32 (batch, matrices * dim).

    Args:
        rule: one of `RULES`.
        output: of the model, with hidden states if `needs_layers`.
        mask: (batch, tokens), 1 for tokens and 0 for the padding on the right.
        own: (batch, tokens), 1 for the tokens that "mean" is over; at least one in a row.
    """
    if needs_layers(rule):
        first = [hidden[:, 0].float() for hidden in output.hidden_states[:-5:-1]]
        return torch.cat(first, 1) if rule == "last4" else torch.stack(first).mean(0)
    hidden = output.last_hidden_state
    if rule == "cls":
        return hidden[:, 0].float()
    if rule == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1].float()
    hidden = hidden.float()
    weight = own.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)
