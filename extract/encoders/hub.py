"""Models from the Hugging Face hub: one quick check whether it can be reached, and loading with one-line errors."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import shorten

_PATIENCE_S = 5


@functools.cache
def hub_unreachable() -> bool:
    """Whether one short request to the hub fails; models in the local cache can then still be used.

    The hub's own client would try six times for each file, with half a minute of warnings before the same result.
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


def quiet_and_offline(name_or_dir: str) -> bool:
    """Silences transformers' own talk, and says whether only local files can be used for a model."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Path(name_or_dir).is_dir() or hub_unreachable()


def not_here(what: str, option: str, name_or_dir: str, offline: bool, error: Exception) -> UserError:
    """The error that a model with its preprocessor could not be loaded; arguments as for `load_transformer`."""
    folder = Path(name_or_dir).is_dir()
    reason = "the hub cannot be reached" if offline and not folder else shorten(str(error), 140)
    where = f"{option}DIR" if option.endswith(":") else f"{option} DIR"
    return UserError(
        f"{what} {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or pass a folder with "
        f"the model and its preprocessor with {where} ({reason})"
    )


def check_complete(what: str, name_or_dir: str, missing: Iterable[str]) -> None:
    """Raises a UserError if a checkpoint lacks weights, which transformers would draw at random."""
    if first := min(missing, default=""):
        raise UserError(
            f"{what} {name_or_dir!r}: {first!r} is missing from the weights and would be random; use a complete "
            "checkpoint"
        )


# Heads that do not contribute to the features, and the vector that replaces masked frames in training.
UNUSED = ("pooler.", "classifier.", "projector.", "masked_spec_embed")


def load_transformer(
    what: str,
    option: str,
    name_or_dir: str,
    model_class: type,
    processor_class: type,
    unused: tuple[str, ...] = UNUSED,
) -> tuple:
    """A transformers model in float32 and its preprocessor, from the hub, its cache, or a folder.

    Args:
        what: kind of model, for messages, for example "audio model".
        option: the option that names the model, for messages; with a colon at its end, the name follows at once.
        name_or_dir: hub name or folder.
        model_class, processor_class: transformers' Auto classes, or others with `from_pretrained`.
        unused: beginnings of the names of weights that may be missing, and are no part of the checksum.

    Returns:
        (model, processor, SHA-256 of the weights).

    Raises:
        UserError: they are neither in the cache nor available from the hub, or the checkpoint has missing weights.
    """
    import torch

    from .weights import checksum

    offline = quiet_and_offline(name_or_dir)
    try:
        processor = processor_class.from_pretrained(name_or_dir, local_files_only=offline)
        model, loading = model_class.from_pretrained(
            name_or_dir, dtype=torch.float32, local_files_only=offline, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_here(what, option, name_or_dir, offline, error) from None
    check_complete(what, name_or_dir, (key for key in loading["missing_keys"] if not key.startswith(unused)))
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(unused)}
    return model.eval(), processor, checksum(weights)


def model_type(name_or_dir: str) -> str:
    """What transformers calls a model's architecture, by its configuration, from the hub, its cache, or a folder; empty
    if it cannot be read, about which `load_transformer` says more.
    """
    from transformers import AutoConfig

    offline = quiet_and_offline(name_or_dir)
    try:
        return AutoConfig.from_pretrained(name_or_dir, local_files_only=offline).model_type
    except (OSError, ValueError, KeyError, ImportError):
        return ""


def short_name(name_or_dir: str) -> str:
    """The name of a model in the store: the folder's name, or the hub name."""
    return Path(name_or_dir).resolve().name if Path(name_or_dir).is_dir() else name_or_dir
