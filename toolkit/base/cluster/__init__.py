"""Work on the machines of a Ray cluster: `--engine ray`. Nothing here imports Ray before it is asked for."""

from __future__ import annotations

from .engine import LOCAL, Engine, parse_engine
from .nodes import Node, Place, Seat
from .session import Cluster, opened
from .team import Lost, Team

__all__ = ["LOCAL", "Cluster", "Engine", "Lost", "Node", "Place", "Seat", "Team", "opened", "parse_engine"]
