"""Joining a Ray cluster, or starting one on this machine, for the time of a command."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cores import core_count
from ..errors import FaultError, UserError, one_line
from ..extras import require_extra
from .engine import Engine
from .nodes import Node

# Whoever reaches Ray's ports can run code. It takes 127.0.0.1 for the address of the network card, but not this one,
# which Linux has.
_LOOPBACK = "127.0.0.2" if sys.platform.startswith("linux") else "127.0.0.1"
_ANSWER_S = 10.0  # for a head to accept a connection


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process has joined.

    Attributes:
        ray: the module.
        engine: what was asked for.
        where: in words, for the user and for records.
        shared: a folder of this command alone in that of `--shared`, or None.
    """

    ray: Any
    engine: Engine
    where: str
    shared: Path | None

    def nodes(self) -> list[Node]:
        """The nodes that are alive."""
        found = []
        for one in self.ray.nodes():
            if one["Alive"]:
                offers = one["Resources"]
                name = f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']}, node {one['NodeID'][:8]})"
                cpus, gpus, memory = (int(offers.get(key, 0)) for key in ("CPU", "GPU", "memory"))
                found.append(Node(one["NodeID"], name, cpus, gpus, memory))
        return found


@contextmanager
def opened(engine: Engine, notify: Callable[[str], None]) -> Iterator[Cluster | None]:
    """Yields the cluster of an engine, None for this machine, and leaves it in the end.

    Args:
        engine: what was asked for.
        notify: called with a line on what is used.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
        FaultError: the connection to the cluster is lost.
    """
    if not engine.ray:
        yield None
        return
    require_extra(f"--engine {engine.text}", "ray", "ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will do one day
    with ExitStack() as stack:
        ray, where = stack.enter_context(_joined(engine))
        shared = None
        if engine.shared is not None:
            shared = engine.shared / f"erc-toolkit-{secrets.token_hex(8)}"
            shared.mkdir()
            stack.callback(shutil.rmtree, shared, ignore_errors=True)
        cluster = Cluster(ray, engine, where, shared)
        nodes = cluster.nodes()
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        own = f"{len(nodes)} nodes with {cpus} CPUs" if len(nodes) != 1 else f"1 node with {cpus} CPUs"
        notify(f"engine: {where}: {own}{f' and {gpus} GPUs' if gpus else ''}")
        yield cluster


@contextmanager
def _joined(engine: Engine) -> Iterator[tuple[Any, str]]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise FaultError(f"--engine {engine.text}: Ray cannot be imported: {one_line(error)}") from None
    if ray.is_initialized():  # by the program that uses the toolkit, whose connection it stays
        yield ray, "the Ray cluster that this process has joined"
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        stack.enter_context(_silenced())
        with _in_root():
            try:
                where = _init(ray, engine, quiet)
            except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
                at = engine.address or "this machine"
                raise UserError(
                    f"--engine {engine.text}: no cluster can be joined at {at}: {one_line(error)}"
                ) from None
            finally:
                _restore(handlers)
        stack.callback(_restore, handlers)
        stack.callback(ray.shutdown)
        try:
            yield ray, where
        except (ray.exceptions.RayError, ConnectionError) as error:  # also of a raylet of this machine that has ended
            reason = f"the connection to {where} is lost: {one_line(error)}"
            raise FaultError(f"--engine {engine.text}: {reason}; what is done is kept") from error


def _init(ray: Any, engine: Engine, quiet: dict[str, Any]) -> str:
    if engine.address is not None:
        _reach(engine.address)  # Ray would try for minutes
        ray.init(engine.address, **quiet)
        return f"the Ray cluster at {engine.address}"
    given = os.environ.get("RAY_ADDRESS") or "auto"
    if given != "local":
        try:
            ray.init(given, **quiet)
            return f"the running Ray cluster at {ray.get_runtime_context().gcs_address}"
        except ConnectionError:
            if given != "auto":
                raise
    ray.init("local", num_cpus=core_count(), include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet)
    return "a Ray cluster of this machine alone"


def _reach(address: str) -> None:
    """Raises an OSError if nothing answers at an address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if int(port) > 65535:
        raise ValueError(f"there is no port {port}")
    socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


@contextmanager
def _in_root() -> Iterator[None]:
    """In the root folder, because Ray adds the working directory to its workers' import path, before the libraries."""
    before = Path.cwd()
    os.chdir("/")
    argv, sys.argv = sys.argv, ["/", *sys.argv[1:]]  # nor that of the script
    try:
        yield
    finally:
        sys.argv = argv
        os.chdir(before)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keeps Ray from printing the log of a lost node to standard output, where `--json` prints; we report it."""
    worker: Any = importlib.import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    if before is None:
        yield
        return
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Puts the handlers of signals back, which Ray replaces by its own."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            with suppress(TypeError, ValueError):
                signal.signal(number, handler)
