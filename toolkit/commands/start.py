"""The entry point of `erc-toolkit`: takes over the signals before anything that takes long is imported."""

from __future__ import annotations

import gc

from ..base import interrupt
from ..base.cores import sleep_soon


def main() -> None:
    """Runs the command line. A signal ends it with one line and status 130 (SIGINT) or 143 (SIGTERM)."""
    interrupt.take_over()
    sleep_soon()
    try:
        from .main import main as group

        group(prog_name="erc-toolkit")
    except BaseException:
        if interrupt.received() is None:
            raise
    finally:
        interrupt.end()
        # Python ends by searching all objects of all libraries for cycles, which takes a second with PyTorch and
        # transformers. What has to be closed has been, and the memory goes back with the process.
        gc.freeze()
