"""The processor cores available to this process, and their division among processes that compute at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence

# How often a thread of PyTorch looks for work before it sleeps. GNU OpenMP's own number, 300,000, takes the cores away
# from whoever else computes on the machine: of two trainings at once on two cores, each took eleven times as long as
# alone, and four times with this one; alone there was no difference (benchmarks/README.md).
_SPINS = "20000"


def core_count() -> int:
    """Number of cores that this process may use, which can be fewer than the machine has; at least 1."""
    return len(own_cores()) or os.cpu_count() or 1


def own_cores() -> list[int]:
    """Numbers of the cores that this process may use, ascending; empty where the system does not say (not on Linux)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def core_shares(processes: int, threads: int | None) -> list[list[int]] | None:
    """The cores of this process in equal parts, one for each of several processes.

    Threads that the system moves between cores leave their caches behind, and wait for each other where those of two
    processes meet on one core while another core is idle.

    Args:
        processes: how many.
        threads: of each process; None for its default.

    Returns:
        Numbers of cores for each process. None if a part would have fewer cores than threads, or the system does not
        bind processes to cores.
    """
    cores = own_cores()
    shares = [cores[len(cores) * i // processes : len(cores) * (i + 1) // processes] for i in range(processes)]
    return shares if all(len(share) >= max(1, threads or 1) for share in shares) else None


def bind_to(cores: Sequence[int]) -> None:
    """Lets this process, and the threads that it starts from now on, run on these cores alone."""
    os.sched_setaffinity(0, cores)


def cores_in_words(cores: Sequence[int]) -> str:
    """Ascending numbers in short: "0-3, 6"."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def sleep_soon() -> None:
    """Lets PyTorch's threads leave the cores to others while they wait, unless the user has said how they are to wait.

    Of no use once PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
