"""Whether a text model is a decoder, found by its behaviour rather than by its name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....toolkit.base.errors import UserError, one_line

# Of the largest number: far above the rounding of the same products in the same shape, which is none or nearly none,
# and far below what a token that is seen changes.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Behaviour:
    """How a model reads.

    Attributes:
        causal: no token sees those after it.
        width: number of columns of its last hidden state.
    """

    causal: bool
    width: int


def probe(model: torch.nn.Module, tokenizer, device: torch.device, where: str) -> Behaviour:
    """Runs a model on two inputs of three tokens that differ in the last, in one batch, and compares the first vectors.

    A configuration cannot tell: BERT has a causal head in transformers, and there are decoders whose attention was
    opened in both directions.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        device: of the model's inputs.
        where: what messages begin with.

    Raises:
        UserError: the model does not give vectors for token ids alone, as encoder-decoders such as T5 do not.
    """
    special = set(tokenizer.all_special_ids)
    known = sorted({i for i in tokenizer.get_vocab().values() if i not in special})
    # From the middle of the vocabulary: the first tokens of some are placeholders that were never trained.
    one, other = known[len(known) // 3], known[2 * len(known) // 3]
    ids = torch.tensor([[one, one, last] for last in (one, other)], device=device)
    with torch.inference_mode():
        try:
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.float()
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}: gives no vectors for a text alone; use an encoder or a decoder ({one_line(error)[:120]})"
            ) from None
    first, changed = found[:, 0]
    causal = bool((first - changed).abs().max() <= _ROUNDING * first.abs().max())
    return Behaviour(causal and one != other, found.shape[-1])
