"""Loading a text model with its tokenizer from the hub or a folder, and the longest input that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ....toolkit.base.errors import UserError
from ....toolkit.base.words import shorten
from ..hub import check_complete, quiet_and_offline

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text"}


def load_pretrained(
    name_or_dir: str,
    auto_class: type,
    either: Mapping[tuple[str, ...], object] | None = None,
    *,
    dtype: torch.dtype | None = torch.float32,
    device_map: str | None = None,
    whole: bool = False,
    **config: object,
) -> tuple:
    """The tokenizer and the model, in the main memory unless it is spread, of a hub name or a folder.

    Args:
        auto_class: transformers' AutoModel, or a class that adds a head; the head may lack weights, the encoder may
            not.
        either: configuration entries that have different names in different models; for each, the first name that the
            model's configuration has is set.
        dtype: of the weights; None for the type of the first ones in the model's file: a large model of 16 bits per
            number need not fit into memory in 32.
        device_map: "auto" spreads the model over the devices; needs accelerate.
        whole: whether the head may not lack weights either.
        config: entries of the model's configuration to change.

    Raises:
        UserError: they cannot be loaded, have missing weights, or do not belong together.
    """
    from transformers import AutoConfig, AutoTokenizer

    offline = quiet_and_offline(name_or_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_dir, local_files_only=offline)
        settings = AutoConfig.from_pretrained(name_or_dir, local_files_only=offline, **config)
        for names, value in (either or {}).items():
            if name := next((name for name in names if hasattr(settings, name)), None):
                setattr(settings, name, value)
        if dtype is None:
            settings.dtype = None  # what the configuration says is not always what the file has
        model, loading = auto_class.from_pretrained(
            name_or_dir,
            config=settings,
            dtype="auto" if dtype is None else dtype,
            local_files_only=offline,
            output_loading_info=True,
            **({} if device_map is None else {"device_map": device_map}),
        )
    except (OSError, ValueError) as error:
        raise _not_here(name_or_dir, offline, error) from None
    encoder = "" if model.base_model is model else f"{model.base_model_prefix}."
    missing = (
        k
        for k in loading["missing_keys"]
        if whole or (k.startswith(encoder) and not k[len(encoder) :].startswith("pooler."))
    )
    check_complete("text model", name_or_dir, missing)
    # If the tokenizer's files are missing, transformers builds a tokenizer with special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"text model {name_or_dir!r}: no tokenizer files next to the model; add tokenizer.json")
    words = model.config.get_text_config().vocab_size
    if len(tokenizer) > words:
        raise UserError(
            f"text model {name_or_dir!r}: the tokenizer has {len(tokenizer)} tokens, but the model has embeddings for "
            f"{words}; they do not belong together"
        )
    return tokenizer, model


def load_config(name_or_dir: str) -> PretrainedConfig:
    """The configuration of a hub name or a folder, without its weights.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoConfig

    offline = quiet_and_offline(name_or_dir)
    try:
        return AutoConfig.from_pretrained(name_or_dir, local_files_only=offline)
    except (OSError, ValueError) as error:
        raise _not_here(name_or_dir, offline, error) from None


def _not_here(name_or_dir: str, offline: bool, error: Exception) -> UserError:
    reason = "the hub cannot be reached" if offline else shorten(str(error), 160)
    if Path(name_or_dir).is_dir():
        reason = f"the folder has no model or no tokenizer: {shorten(str(error), 100)}"
    return UserError(
        f"text model {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or pass a folder "
        f"with the model and its tokenizer with --text-model DIR ({reason})"
    )


def longest_input(tokenizer, config) -> int:
    """The greatest number of tokens, special ones included, that the model accepts."""
    limits, config = (
        [tokenizer.model_max_length],
        config.get_text_config(),
    )  # of a model of texts and images: the texts'
    positions = getattr(config, "max_position_embeddings", None)
    if positions:  # RoBERTa's positions start after its padding index
        padding = config.pad_token_id or 0
        limits.append(positions - padding - 1 if config.model_type in _OFFSET_POSITIONS else positions)
    return int(min(limits))
