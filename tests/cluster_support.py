"""A real Ray cluster of several raylets on this machine, whose nodes can be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for the address of the network card
SMALL = 120 << 20  # bytes of a node's object store


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """A head without CPUs, and nodes with one CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": SMALL, "node_ip_address": LOOPBACK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            add_node(cluster)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any, **environment: str) -> Any:
    """A further node, whose processes have these environment variables."""
    node = cluster.add_node(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=SMALL,
        node_ip_address=LOOPBACK,
        env_vars=dict(environment) or None,
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's handler would turn SIGTERM into a failed test
    return node


def kill_node(node: Any) -> None:
    """Kills a node's raylet and its workers at once, as a loss of power would.

    Without the raylet alone they would end by themselves, but only after they have done another few parts.
    """
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def engine_of(cluster: Any) -> str:
    """The cluster as `--engine` names it."""
    return f"ray:{cluster.address}"
