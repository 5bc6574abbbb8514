"""The number of processor cores available to this process."""

from __future__ import annotations

import os


def core_count() -> int:
    """Number of cores that this process may use, which can be fewer than the machine has; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
