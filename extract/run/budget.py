"""Who may use how many of a run's cores: together never more than there are, and none is idle while there is work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...toolkit.base.cores import Cores, Share, core_count
from .extractors import RunExtractors

# Ranks; the lowest is served first. The networks on pictures and sound take what the workers have decoded out of
# memory; texts depend on nobody, and in batches of less than a second fill whatever the last long files leave idle.
_NETWORKS, MEDIA, _TEXTS = range(3)


@dataclass(frozen=True)
class Budget:
    """The shares of the media stage's networks and of the text stage."""

    media: Share
    texts: Share


@contextmanager
def budget(extractors: RunExtractors, workers: int) -> Iterator[Budget]:
    """The budget of a run.

    Args:
        extractors: of the run.
        workers: how many the user wants, who may have more of them than cores if the files are slow to read; 0 for one
            per core.
    """
    threads = 1
    if any(one.has_network for one in extractors.all()):
        import torch

        threads = torch.get_num_threads()
    cores = Cores(max(core_count(), workers), threads)
    found = Budget(Share(cores, _NETWORKS), Share(cores, _TEXTS))
    try:
        yield found
    finally:
        found.media.close()
        found.texts.close()
        if threads > 1:
            torch.set_num_threads(threads)  # threads that begin later have the number that the last one here was given
