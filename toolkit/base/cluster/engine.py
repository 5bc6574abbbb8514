"""What `--engine` names: this machine, or a Ray cluster and its address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

_HOST_AND_PORT = r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
_RAY = re.compile(rf"ray(?:(?P<client>://)|:)(?P<where>{_HOST_AND_PORT})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Engine:
    """Where parts and runs are computed.

    Attributes:
        text: as it was given.
        ray: whether on a Ray cluster; else in processes of this machine.
        address: as `ray.init` takes it, "HOST:PORT" or "ray://HOST:PORT"; None for the cluster that runs on this
            machine or that RAY_ADDRESS names, and a new one of this machine alone if there is none.
        shared: a folder that all nodes have, through which files come back; None for Ray's own objects.
    """

    text: str = "local"
    ray: bool = False
    address: str | None = None
    shared: Path | None = None


LOCAL = Engine()


def parse_engine(text: str, shared: Path | None = None) -> Engine:
    """The engine that a text names: local, ray, ray:HOST:PORT, or ray://HOST:PORT (Ray's client).

    Raises:
        UserError: it names none, or `shared` is given without Ray or is no folder.
    """
    if text == "local":
        if shared is not None:
            raise UserError("--shared: is for --engine ray; leave it out")
        return LOCAL
    found = _RAY.fullmatch(text)
    if text != "ray" and found is None:
        raise UserError(f"--engine {text}: write local, ray, ray:HOST:PORT or ray://HOST:PORT")
    if shared is not None and not shared.is_dir():
        raise UserError(f"--shared {shared}: is not a folder; create it where all nodes see it")
    address = None if found is None else f"{found['client'] or ''}{found['where']}"
    if address is not None and address.startswith("://"):
        address = f"ray{address}"
    return Engine(text, True, address, None if shared is None else shared.absolute())
