"""The nodes of a cluster, and the places on them at which work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a Ray cluster.

    Attributes:
        id: Ray's.
        name: for the user: host, address, and the beginning of the id.
        cpus, gpus: that it offers to Ray.
        memory: bytes that it offers to Ray.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class Place:
    """What one worker takes of a node; the attributes are what it declares to Ray."""

    node: Node
    cpus: int
    gpus: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """What a worker on a node is given.

    Attributes:
        cpus: cores that are its own.
        threads: PyTorch threads of each computation: as many as the driver has, since they change the last bits.
        folder: the driver's working directory, to which relative names refer.
        shared: a folder that all nodes have, or None.
    """

    cpus: int
    threads: int
    folder: Path
    shared: Path | None = None
