"""Whether a text model is a decoder, which continues a text, or an encoder."""

from __future__ import annotations

from typing import Any


def is_decoder(config: Any) -> bool:
    """Whether a model's configuration is that of a causal language model.

    Encoders such as BERT and RoBERTa have a causal variant in transformers too; they are told by their masked one.

    Args:
        config: of transformers.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
