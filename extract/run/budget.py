"""Who may use how many of a run's cores: together never more than there are, and none is idle while there is work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...toolkit.base.cores import core_count
from ...toolkit.base.shared_cores import Cores, Share
from .extractors import RunExtractors

# Ranks; the lowest is served first. The networks on pictures and sound take what the workers have decoded out of
# memory; texts depend on nobody, and in batches of less than a second fill whatever the last long files leave idle.
_NETWORKS, MEDIA, _TEXTS = range(3)


@dataclass(frozen=True)
class Budget:
    """The shares of the media stage's networks and of the text stage."""

    media: Share
    texts: Share


def cores_of(extractors: RunExtractors, count: int) -> Cores:
    """So many cores, of which the networks may use as many as PyTorch has threads in this thread."""
    threads = 1
    if any(one.has_network for one in extractors.all()):
        import torch

        threads = torch.get_num_threads()
    return Cores(count, threads)


def cores_of_run(extractors: RunExtractors, workers: int) -> Cores:
    """The cores of a run on this machine.

    Args:
        extractors: of the run.
        workers: how many the user wants, who may have more of them than cores if the files are slow to read; 0 for one
            per core.
    """
    return cores_of(extractors, max(core_count(), workers))


@contextmanager
def budget(cores: Cores) -> Iterator[Budget]:
    """The shares of the stages in these cores."""
    found = Budget(Share(cores, _NETWORKS), Share(cores, _TEXTS))
    try:
        yield found
    finally:
        found.media.close()
        found.texts.close()
        if cores.threads > 1:
            import torch

            # Threads that begin later have the number that the last one here was given.
            torch.set_num_threads(cores.threads)
