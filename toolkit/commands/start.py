"""The entry point of `erc-toolkit`: takes over the signals before anything that takes long is imported."""

from __future__ import annotations

import os

from ..base import interrupt

# How often a thread of PyTorch looks for work before it sleeps. GNU OpenMP's own number, 300,000, takes the cores away
# from whoever else computes on the machine: of two trainings at once on two cores, each took eleven times as long as
# alone, and four times with this one; alone there was no difference (benchmarks/README.md).
_SPINS = "20000"


def main() -> None:
    """Runs the command line. A signal ends it with one line and status 130 (SIGINT) or 143 (SIGTERM)."""
    interrupt.take_over()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when PyTorch is imported
    try:
        from .main import main as group

        group(prog_name="erc-toolkit")
    except BaseException:
        if interrupt.received() is None:
            raise
    finally:
        interrupt.end()
