"""Models from the Hugging Face hub: whether it can be reached, asked once and quickly, and loading with one-line errors."""

from __future__ import annotations

import functools
from pathlib import Path

from ...toolkit.base.errors import UserError

_PATIENCE_S = 5


@functools.cache
def hub_unreachable() -> bool:
    """True when one short request gets no answer; what is in the local cache can then still be used.

    The hub's own client would try six times for each file, half a minute of warnings before the same result.
    """
    import huggingface_hub
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    try:
        huggingface_hub.utils.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PATIENCE_S)
    except Exception:  # no name service, no route, no answer in time, a proxy that refuses
        return True
    return False


def load_transformer(what: str, option: str, name_or_dir: str, model_class: type, processor_class: type) -> tuple:
    """A transformers model in float32 and what prepares its input, from the hub, its cache, or a folder.

    Args:
        what: "audio model", for messages; `option` is what the user gave it with.
        name_or_dir: hub name or folder.
        model_class, processor_class: transformers' Auto classes.

    Returns:
        (model, processor, SHA-256 of the weights).

    Raises:
        UserError: they are neither here nor to be had, or the checkpoint lacks weights.
    """
    import torch
    from transformers.utils import logging

    from .weights import checksum

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(name_or_dir).is_dir()
    offline = folder or hub_unreachable()
    try:
        processor = processor_class.from_pretrained(name_or_dir, local_files_only=offline)
        model, loading = model_class.from_pretrained(
            name_or_dir, dtype=torch.float32, local_files_only=offline, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = "the hub cannot be reached" if offline and not folder else " ".join(str(error).split())[:140]
        raise UserError(
            f"{what} {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or give a folder that holds "
            f"model and preprocessor with {option} DIR ({reason})"
        ) from None
    # Heads that features do not pass through, and the vector that training puts in place of masked frames.
    unused = ("pooler.", "classifier.", "projector.", "masked_spec_embed")
    lacking = sorted(key for key in loading["missing_keys"] if not key.startswith(unused))
    if lacking:
        raise UserError(f"{what} {name_or_dir!r}: its weights lack {lacking[0]!r}, which would be random numbers")
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(unused)}
    return model.eval(), processor, checksum(weights)


def short_name(name_or_dir: str) -> str:
    """What the store calls a model: a folder's own name, or the hub name."""
    return Path(name_or_dir).resolve().name if Path(name_or_dir).is_dir() else name_or_dir
