"""Whether the Hugging Face hub can be reached, asked once and quickly."""

from __future__ import annotations

import functools

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
